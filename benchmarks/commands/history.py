"""Print the commits at which a case became slower or faster, beside a pinned version of the package.

`python -m benchmarks run` records, per commit, each quick case's time over that of the pinned version, in one process; so
what a machine does over months does not show. A change needs three commits on either side, five standard errors and a size
of 1 %; of flat series of 30 commits fewer than one in 200 is called changed. Exit code: 0 none or faster, 1 slower at some
commit, 2 could not tell.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..results import series
from ..results.change_points import Change, changes
from ..results.stored import ASV_RESULTS, BrokenResult
from ..system.git import git

BENCHMARK = "history.Pinned.track_over_pinned"
HEADINGS = ("machine", "case", "commit", "change", "standard errors", "subject")


@dataclass(frozen=True)
class Step:
    """A change of one case at one commit, on one machine."""

    machine: str
    case: str
    commit: str
    change: Change


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--case", action="append", metavar="NAME", help="only this case; may be given again")


def main(arguments: argparse.Namespace) -> int:
    """Print the table of changes."""
    commits = git("rev-list", "--topo-order", "--reverse", "HEAD", otherwise="").split()
    try:
        stored, lost = series.load(ASV_RESULTS, {commit: place for place, commit in enumerate(commits)})
    except BrokenResult as error:
        print(f"Could not tell: {error}", file=sys.stderr)
        return 2
    lines = {key: line for key, line in by_case(stored).items() if not arguments.case or key[1] in arguments.case}
    if not lines:
        print("Nothing is recorded against the pinned version yet; measure commits: python -m benchmarks run", file=sys.stderr)
        return 2
    found = steps(lines)
    console = Console(width=None if sys.stdout.isatty() else 140)
    if found:
        console.print(table(found))
    longest = max(len(line) for line in lines.values())
    slower = sum(step.change.size > 0 for step in found)
    console.print(
        f"{len(lines)} series of up to {longest} commits: {slower} slowdown(s), {len(found) - slower} speed-up(s).",
        highlight=False,
    )
    if lost:
        console.print(f"{len(lost)} measured commit(s) are no longer in the history and are left out.", highlight=False)
    return int(slower > 0)


def by_case(stored: Sequence[series.Series]) -> dict[tuple[str, str], list[tuple[str, float]]]:
    """Commit and ratio, oldest first, for each machine (with its torch) and case."""
    lines: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for each in stored:
        for commit, figures in each.commits.items():
            for entry, figure in figures.items():
                if entry.benchmark == BENCHMARK and figure.measured and figure.value:
                    key = (f"{each.machine}, torch {each.torch}", entry.params[0].strip("'"))
                    lines.setdefault(key, []).append((commit, figure.value))
    return lines


def steps(lines: Mapping[tuple[str, str], Sequence[tuple[str, float]]]) -> list[Step]:
    """All changes, the largest slowdown first."""
    found = [
        Step(machine, case, line[change.at][0], change)
        for (machine, case), line in lines.items()
        for change in changes([ratio for _, ratio in line])
    ]
    return sorted(found, key=lambda step: -step.change.size)


def table(found: Sequence[Step]) -> Table:
    """The changes as a table for a terminal."""
    made = Table(title="Changes of time beside the pinned version, largest slowdown first")
    for heading in HEADINGS:
        made.add_column(heading, justify="right" if heading in ("change", "standard errors") else "left")
    for step in found:
        subject = git("log", "-1", "--format=%s", step.commit, otherwise="")
        cells = (step.machine, step.case, step.commit[:8], f"{step.change.size:+.1%}", f"{step.change.errors:.0f}", subject)
        made.add_row(*map(Text, cells), style="red" if step.change.size > 0 else "green")
    return made
