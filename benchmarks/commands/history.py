"""Print the commits at which a case became slower or faster, beside a pinned version of the package.

`python -m benchmarks run` records, per commit, each quick case's time over that of the pinned version, both in one process,
so that the machine's drift over months cancels. A change is reported only if it is at least 1 % and five standard errors
large, with three commits on either side; of flat series of 30 commits fewer than one in 200 is reported as changed.

Exit code: 0 no case became slower, 1 a case became slower at some commit, 2 the history could not be read.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..results import series
from ..results.history import Step, by_case, steps
from ..results.stored import ASV_RESULTS
from ..system.errors import CannotMeasure
from ..system.git import git
from ..system.units import counted

HEADINGS = ("machine", "case", "commit", "change", "standard errors", "subject")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--case", action="append", metavar="NAME", help="only this case; can be repeated")


def main(arguments: argparse.Namespace) -> int:
    """Print the commits at which a case became slower or faster, and a summary; return 1 if any case became slower, else 0.

    Raises CannotMeasure if no ratio to the pinned version is stored.
    """
    commits = git("rev-list", "--topo-order", "--reverse", "HEAD", otherwise="").split()
    stored, lost = series.read_all(ASV_RESULTS, {commit: place for place, commit in enumerate(commits)})
    lines = {key: line for key, line in by_case(stored).items() if not arguments.case or key[1] in arguments.case}
    if not lines:
        raise CannotMeasure("no time is stored beside the pinned version; measure commits: python -m benchmarks run")
    changed = steps(lines)
    console = Console(width=None if sys.stdout.isatty() else 140)
    if changed:
        console.print(table(changed))
    longest = max(len(line) for line in lines.values())
    slower = sum(step.slower for step in changed)
    found = f"{counted(slower, 'slowdown')}, {counted(len(changed) - slower, 'speed-up')}"
    summary = f"{len(lines)} series of up to {longest} commits: {found}."
    console.print(summary, highlight=False)
    if lost:
        console.print(f"{counted(len(lost), 'measured commit')} no longer in the history, left out.", highlight=False)
    return int(slower > 0)


def table(changed: Sequence[Step]) -> Table:
    """Return the changes as a table for a terminal."""
    made = Table(title="Changes of time beside the pinned version, largest slowdown first")
    for heading in HEADINGS:
        made.add_column(heading, justify="right" if heading in ("change", "standard errors") else "left")
    for step in changed:
        subject = git("log", "-1", "--format=%s", step.commit, otherwise="")
        cells = (step.machine, step.case, step.commit[:8], f"{step.change.size:+.1%}", f"{step.change.errors:.0f}", subject)
        made.add_row(*map(Text, cells), style="red" if step.slower else "green")
    return made
