"""Measure commits with asv and print how TailDropout compares with nn.Dropout and with a copy.

    python -m benchmarks run                     the quick cases on HEAD
    python -m benchmarks run BASE..HEAD          on every commit of a range, newest first
    python -m benchmarks run --case 8x16-f32-fwd --again

The quick profile takes at most 5 minutes a commit on two cores, the full one at most 60. Figures that a commit has are not
measured again without --again, so an interrupted run continues where it was. The suite is that of the working tree; the
package is that of the commit. Exit code: 0 measured, 1 a benchmark failed, 2 could not measure.
"""

import argparse
import sys

from rich.console import Console

from ..results import asv_run, choice, stored
from ..results.asv_run import Choice, SuiteRun
from ..results.progress import ProgressLine
from ..results.speed_table import render
from . import record

NEXT = """Each time was measured in a process of its own, both times of a ratio in the same process: compare ratios.
Next: python -m benchmarks dashboard --serve    the history as web pages
      python -m benchmarks compare BASE         is the working tree slower than BASE?"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("commits", nargs="?", default="HEAD", metavar="COMMITS", help="a commit, or a range BASE..HEAD")
    record.add_choice(parser)
    parser.add_argument("--again", action="store_true", help="also measure figures that the commit has already")
    parser.add_argument("--verbose", "-v", action="store_true", help="show asv's output as it comes")


def main(arguments: argparse.Namespace) -> int:
    """Measure, print the newest commit's table and each commit's failures; return the worst exit code. Raises CannotMeasure."""
    console = Console(width=record.WIDTH)
    names = choice.select(arguments.case, arguments.profile, arguments.device)
    wanted = Choice(names, arguments.profile, arguments.device, only_cases=bool(arguments.case))
    worst = 0
    with ProgressLine(console) as progress:
        run = SuiteRun(wanted, progress, arguments.verbose, arguments.again)
        commits = run.prepare(arguments.commits)
        for number, commit in enumerate(commits, 1):
            figures = run.measure(commit, f"Commit {commit[:8]} ({number} of {len(commits)})")
            if number == 1:
                rows = stored.rows(figures, names, run.asked)
                console.print(render(rows, f"{run.machine}, commit {commit[:8]}"))
            code, message = asv_run.judge(commit, run.asked, figures)
            worst = max(worst, code)
            if message:
                print(message, file=sys.stderr)
    console.print(NEXT, highlight=False)
    return worst
