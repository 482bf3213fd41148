"""The nightly job: one night at a time in a clone, and a report whatever happens to the night."""

import fcntl
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..gate.rule import FAILED
from ..system.errors import CannotMeasure, CommandError
from ..system.files import write_atomically
from . import github_issues
from .journal import Journal
from .night import Night
from .report import Report
from .state import Outcome
from .steps import Steps


@dataclass(frozen=True)
class Job:
    """A nightly job: the clone, the device, the time in seconds, the steps, whether to report issues, the results' worktree."""

    root: Path
    device: str
    seconds: float
    steps: Steps
    issues: bool
    results: Path | None = None  # default: .asv/asv-results

    def run(self) -> Report:
        """Run a night and return its report; an error that ended the night becomes the outcome "night" of the report."""
        report = Report(self.device, "")
        try:
            with only_one_night(self.root):
                journal = Journal(self.root, self.results or self.root / ".asv" / "asv-results", self.device)
                report = journal.report
                Night(journal, self.steps, self.seconds, self.issues).run()
        except (CommandError, OSError) as error:
            line = f"the night stopped early: {error}. Run it again: it continues where it stopped"
            report.outcomes["night"] = Outcome(FAILED, line)
        except Exception as error:  # a fault of the job itself, which must not look like a verdict
            traceback.print_exc()
            report.outcomes["night"] = Outcome(FAILED, f"the night stopped early: {type(error).__name__}: {error}")
        if self.issues and "night" in report.outcomes:
            self.report_failure(report)
        return report

    def report_failure(self, report: Report) -> None:
        """Report as a GitHub issue that the night stopped early; a failure to do so becomes the outcome "issues"."""
        finding = github_issues.job_failed(self.device, report.outcomes["night"].line, report.head)
        try:
            github_issues.report([finding], self.root)
        except github_issues.CannotReport as error:
            report.outcomes["issues"] = Outcome(FAILED, str(error))

    def store(self, report: Report) -> None:
        """Write the report to .asv/nightly.md and .asv/nightly.xml, and to GitHub Actions if the job runs there.

        GitHub's output `reported` is true if issues were wanted and no finding is left to report.
        """
        reported = self.issues and "issues" not in report.outcomes
        write_atomically(self.root / ".asv" / "nightly.md", report.markdown())
        write_atomically(self.root / ".asv" / "nightly.xml", report.junit())
        append_for_github("GITHUB_STEP_SUMMARY", report.markdown())
        append_for_github("GITHUB_OUTPUT", f"reported={'true' if reported else 'false'}\n")


@contextmanager
def only_one_night(root: Path) -> Iterator[None]:
    """Hold a lock on the clone. Raises CannotMeasure if another night holds it."""
    file = root / ".asv" / "nightly.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotMeasure("another nightly job is running in this clone; wait until it ends") from None
        yield


def append_for_github(variable: str, text: str) -> None:
    """Append `text` to the file that the environment variable names, as GitHub Actions sets it; do nothing if it is unset."""
    if name := os.environ.get(variable):
        with open(name, "a", encoding="utf-8") as file:
            file.write(text)
