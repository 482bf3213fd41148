"""The regression gate: is HEAD slower than BASE?

    python -m benchmarks compare main                 this working tree against main
    python -m benchmarks compare main~10 main         two commits
    python -m benchmarks compare HEAD~1 HEAD --case 8x16-f32-train --budget 5m

Each process loads both versions of the package and measures them in turn; fresh processes follow until the change is known
well enough. Compared are exact counts, time and instructions, each with a threshold of its own: gate/rule.py has the rule,
`calibrate` measures how often the gate errs. The suite is that of the working tree.

Exit code: 0 pass, 1 regressed, 2 could not measure, 3 unstable, which is not a pass.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from .. import ROOT, workload
from ..gate.comparing import compare
from ..gate.estimate import estimate_duration
from ..gate.measuring import Comparison
from ..gate.output import Files, Output, progress, refuse_unwritable, summary, verdict_json, version_json, write_files
from ..gate.report import Row, exit_code, ordered, overall, render
from ..gate.rule import REGRESSED, THRESHOLD, UNSTABLE
from ..gate.versions import extract
from ..results import choice
from ..system.durations import parse_duration
from ..system.errors import CannotMeasure
from ..system.units import counted

VERDICT = ROOT / ".asv" / "verdict.json"  # the result of the last comparison, which the dashboard shows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("base", metavar="BASE", help="the version to compare with: a branch, tag or commit")
    parser.add_argument("head", metavar="HEAD", nargs="?", help="default: the working tree, with its changes")
    parser.add_argument("--profile", choices=("quick", "full"), default="quick")
    parser.add_argument("--case", action="append", metavar="NAME", help="only this case; may be given again")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cpu, or that of each --case")
    parser.add_argument(
        "--budget",
        type=parse_duration,
        default=float("inf"),
        metavar="TIME",
        help="most time for measuring, such as 90s or 10m; what is not known by then is unstable",
    )
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="relative change of time (default %(default)s)")
    parser.add_argument(
        "--markdown", metavar="FILE", help="write the table to this file (default: $GITHUB_STEP_SUMMARY if set)"
    )
    parser.add_argument("--junit", metavar="FILE")
    parser.add_argument(
        "--json", metavar="FILE", help="write every round of every process, the environment and both commits to this file"
    )


def main(arguments: argparse.Namespace) -> int:
    """Compare both versions, print and store the result; return the exit code."""
    console = Output()
    if not 0 < arguments.threshold < 1:
        print(f"--threshold={arguments.threshold} is not between 0 and 1; give a fraction such as {THRESHOLD}", file=sys.stderr)
        return 2
    arguments.device = arguments.device or (None if arguments.case else "cpu")
    refuse_unwritable({"--json": arguments.json, "--junit": arguments.junit, "--markdown": arguments.markdown})
    names = choice.select(arguments.case, arguments.profile, arguments.device)
    if not names:
        raise CannotMeasure(f"none of these cases runs on {arguments.device}; leave --device out")
    if not choice.has_cuda() and not choice.select(names, arguments.profile, "cpu"):
        raise CannotMeasure("all of these cases run on a GPU, and torch finds no CUDA device; leave --device cuda out")
    with tempfile.TemporaryDirectory(prefix="taildropout-gate-", ignore_cleanup_errors=True) as folder:
        comparison = prepare(arguments.base, arguments.head, Path(folder))
        comparison.deadline = time.monotonic() + arguments.budget
        introduce(comparison, names, arguments.budget, console)
        with progress(comparison, console):
            rows = compare(comparison, names, arguments.threshold)
        return report(comparison, rows, arguments, console)


def prepare(base: str, head: str | None, folder: Path) -> Comparison:
    """Extract and build both versions below `folder`; if `head` is None, it is the working tree."""
    versions = extract(workload, base, folder / "base"), extract(workload, head, folder / "head")
    return Comparison(workload, *versions, folder, seed=int(time.time()))


def introduce(comparison: Comparison, names: Sequence[str], budget: float, console: Console) -> None:
    """Print both versions and an estimate of the time; `budget` is in seconds."""
    base, head = comparison.base, comparison.head
    same = " They are the same source: any difference is noise." if base.digest == head.digest else ""
    console.print(f"base {base}\nhead {head}{same}", highlight=False, soft_wrap=True)
    for side, version in (("base", base), ("head", head)):
        if version.note:
            console.print(f"{side} has {version.note}", highlight=False, soft_wrap=True)
    duration = estimate_duration(comparison, names).sentence(budget)
    console.print(f"{counted(len(names), 'case')}. {duration}", highlight=False, soft_wrap=True)


def report(comparison: Comparison, rows: Sequence[Row], arguments: argparse.Namespace, console: Console) -> int:
    """Print the rows and advice, write the files that the options name; return the exit code."""
    title, verdict = summary(rows, str(comparison.base), str(comparison.head))
    console.print(render(rows, title))
    console.print(verdict, style="bold", highlight=False, soft_wrap=True)
    for advice in next_steps(comparison, rows, arguments):
        console.print(advice, highlight=False, soft_wrap=True)
    named = {name: Path(value) if (value := getattr(arguments, name)) else None for name in ("json", "junit", "markdown")}
    files = Files(VERDICT, named["json"], named["junit"], named["markdown"])
    versions = version_json(comparison.base), version_json(comparison.head)
    stored = verdict_json(rows, *versions, arguments.threshold, verdict)
    processes = [process.as_json() for process in comparison.processes]
    details = {"environment": comparison.notes(), "seed": comparison.seed, "processes": processes}
    write_files(files, rows, title, stored, details)
    return exit_code(rows)


def next_steps(comparison: Comparison, rows: Sequence[Row], arguments: argparse.Namespace) -> list[str]:
    """Return advice for an unstable result, or on how to find the cause of the largest slowdown; empty if there is neither."""
    if overall(rows) == UNSTABLE:
        return ["Run it again with more --budget, with fewer cases (--case), or on a quieter machine."]
    cases = workload.cases()
    slower = [row.case for row in ordered(rows) if row.verdict == REGRESSED and row.case in cases]
    if not slower:
        return []
    case = slower[0]
    checked_out = f"git checkout --detach {arguments.head}; " if arguments.head else ""
    steps = [f"See what changed in {case}: {checked_out}python -m benchmarks trace {case} --against {arguments.base}"]
    if arguments.head:
        base, head = comparison.base.commit[:8], comparison.head.commit[:8]
        steps.append(
            f"Find the commit that made it slower (in a second worktree, from {base} to {head}): "
            f"see 'Find the commit' in CONTRIBUTING.md, with --case {case}"
        )
    return steps
