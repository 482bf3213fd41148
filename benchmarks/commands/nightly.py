"""The whole nightly job: measure what is new, judge it, test the law of K, publish, report, and keep the results.

    python -m benchmarks nightly                            all of it, in two hours at most
    python -m benchmarks nightly --issues --budget 5h       as the scheduled job does: findings become GitHub issues
    python -m benchmarks nightly --case 8x16-f32-train      measure and compare one case only

Commits since the last night are measured, newest first, also after nights that did not take place. The gate compares the
newest commit with the one that was judged last and with the last release, once it has seen a slowdown that is planted (a
canary); else the night is void. Results and the job's state are committed to the branch asv-results, in a worktree of its
own, and pushed: a night that was killed goes on where it was, and one that finds nothing new says so.

Exit code: 0 nothing slower or wrong, 1 slower or wrong, 2 void or something could not be done, 3 unstable.
"""

import argparse
import fcntl
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import ROOT
from ..gate.rule import FAILED
from ..nightly import github_issues as alarm
from ..nightly.night import Night
from ..nightly.report import Report
from ..nightly.results_branch import BranchTrouble
from ..nightly.state import Outcome
from ..nightly.steps import Steps, real
from ..system.durations import parse_duration
from ..system.files import write
from .run import CannotMeasure, has_cuda, select


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--results", type=Path, metavar="DIR", help="worktree of the branch (default: .asv/asv-results)")
    parser.add_argument(
        "--budget", type=parse_duration, default=parse_duration("2h"), metavar="TIME", help="such as 90m or 5h (default 2h)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--case", action="append", metavar="NAME", help="only this case; may be given again")
    parser.add_argument("--issues", action="store_true", help="open or update GitHub issues, by the command gh")


def main(arguments: argparse.Namespace) -> int:
    """The night, and what is said of it; the exit code."""
    arguments.profile = "quick"
    try:
        if not select(arguments):
            raise CannotMeasure(f"none of these cases is for --device {arguments.device}")
        if arguments.device == "cuda" and not has_cuda():
            raise CannotMeasure("torch finds no CUDA device")
    except CannotMeasure as error:
        print(f"Could not measure: {error}", file=sys.stderr)
        return 2
    steps = real(ROOT, arguments.device, arguments.case or ())
    return work(ROOT, arguments.results, arguments.device, arguments.budget, steps, arguments.issues)


def work(root: Path, results: Path | None, device: str, seconds: float, steps: Steps, issues: bool) -> int:
    """A night with the given steps: summary and JUnit in .asv/nightly.md and .asv/nightly.xml; the exit code."""
    report = Report(device, "")
    try:
        with alone(root):
            night = Night(root, results or root / ".asv" / "asv-results", device, seconds, steps, issues)
            report = night.report
            night.run()
    except (CannotMeasure, BranchTrouble, OSError) as error:
        report.outcomes["night"] = Outcome(FAILED, f"the night broke off: {error}. Run it again: it goes on where it was")
    except Exception as error:  # a fault of the job itself, which must not look like a verdict
        traceback.print_exc()
        report.outcomes["night"] = Outcome(FAILED, f"the night broke off: {type(error).__name__}: {error}")
    told = issues and tell(report, root)
    print(f"\n{report.markdown()}")
    try:
        write(root / ".asv" / "nightly.md", report.markdown())
        write(root / ".asv" / "nightly.xml", report.junit())
        append("GITHUB_STEP_SUMMARY", report.markdown())
        append("GITHUB_OUTPUT", f"told={'true' if told else 'false'}\n")
    except OSError as error:
        print(f"The summary could not be stored: {error}", file=sys.stderr)
        return 2
    return report.exit_code()


def tell(report: Report, root: Path) -> bool:
    """Whether maintainers know all that they have to; tells them that the night broke off."""
    if "night" in report.outcomes:
        try:
            alarm.tell([alarm.failed(report.device, report.outcomes["night"].line, report.head)], root)
        except alarm.AlarmTrouble as error:
            report.outcomes["issues"] = Outcome(FAILED, str(error))
    return "issues" not in report.outcomes


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Keep a second night on this clone from starting."""
    file = root / ".asv" / "nightly.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotMeasure("another nightly job is under way here; wait for it to end") from None
        yield


def append(variable: str, text: str) -> None:
    """Add to a file that the surroundings name, if they do."""
    if name := os.environ.get(variable):
        with open(name, "a", encoding="utf-8") as file:
            file.write(text)
