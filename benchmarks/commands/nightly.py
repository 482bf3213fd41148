"""Run the whole nightly job: measure new commits, judge the newest, test the law of K, publish, report, keep the results.

    python -m benchmarks nightly                            all of it, in at most two hours
    python -m benchmarks nightly --issues --budget 5h       as the scheduled job does: findings become GitHub issues
    python -m benchmarks nightly --case 8x16-f32-train      measure and compare one case only

The newest commit is measured first, then every commit that no earlier night has measured. The gate
compares the newest commit with the commit that was judged last and with the last release. Before that, the gate has to see an
injected slowdown (the canary); otherwise the night is void. Results and the state of the job are committed to the branch
asv-results, in a worktree of its own, and pushed. After a night that was killed, the next one continues where it stopped.

Exit code: 0 nothing slower or wrong, 1 slower or wrong, 2 void or a step failed, 3 unstable.
"""

import argparse
import sys
from pathlib import Path

from .. import ROOT
from ..nightly.job import Job
from ..nightly.steps import real_steps
from ..results.choice import has_cuda, select
from ..system.durations import parse_duration
from ..system.errors import CannotMeasure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--results", type=Path, metavar="DIR", help="worktree of the branch (default: .asv/asv-results)")
    parser.add_argument(
        "--budget", type=parse_duration, default=parse_duration("2h"), metavar="TIME", help="such as 90m or 5h (default 2h)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--case", action="append", metavar="NAME", help="only this case; may be given again")
    parser.add_argument("--issues", action="store_true", help="open or update GitHub issues with the command gh")


def main(arguments: argparse.Namespace) -> int:
    """Run the job, print its summary and return the exit code. Raises CannotMeasure."""
    if not select(arguments.case, "quick", arguments.device):
        raise CannotMeasure(f"none of these cases is for --device {arguments.device}")
    if arguments.device == "cuda" and not has_cuda():
        raise CannotMeasure("torch finds no CUDA device")
    steps = real_steps(ROOT, arguments.device, arguments.case or ())
    return run(Job(ROOT, arguments.device, arguments.budget, steps, arguments.issues, arguments.results))


def run(job: Job) -> int:
    """Run a job, print and store its report, and return the exit code."""
    report = job.run()
    print(f"\n{report.markdown()}")
    try:
        job.store(report)
    except OSError as error:
        print(f"The summary could not be stored: {error}", file=sys.stderr)
        return 2
    return report.exit_code()
