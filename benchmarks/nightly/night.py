"""One night: measure and judge new commits, step by step, and commit the outcome of each step to the results branch."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ..gate.rule import FAILED, IMPROVED, PASS, REGRESSED, UNSTABLE
from ..system.errors import CannotMeasure
from ..system.process_group import OutOfTime
from . import github_issues
from .bases import Base, last_judged, last_release
from .findings import collect_findings, write_dashboard_files
from .journal import Journal
from .measuring import Measuring
from .state import SETTLED, SKIPPED, VOID, Outcome
from .steps import Steps

# The steps in their order, each with its weight when the remaining time is divided among the remaining steps.
WEIGHTS = {"measure": 4, "canary": 3, "last": 4, "release": 4, "law": 5, "backlog": 8, "publish": 1}
OWN_STATE = ("measure", "backlog", "publish")  # their progress is kept in the series, or they are done every night


class Night:
    """A night on the HEAD of the journal's clone, in at most `seconds`; `issues`: report the findings as GitHub issues."""

    def __init__(self, journal: Journal, steps: Steps, seconds: float, issues: bool) -> None:
        self.journal, self.steps, self.issues = journal, steps, issues
        self.end = time.monotonic() + seconds
        self.weights = dict(WEIGHTS)  # of the remaining steps
        self.bases: dict[str, Base] = {}

    def run(self) -> None:
        """Do all steps and fill the journal's report.

        Raises CommandError or OSError. The next night then continues from what this one has committed.
        """
        self.journal.open()
        self.measuring = Measuring(self.journal, self.steps)
        self.do("measure", self.measuring.newest)
        self.compare()
        self.do("law", self.law)
        self.do("backlog", self.measuring.missed)
        write_dashboard_files(self.journal.root, self.journal.report, self.journal.state)
        self.do("publish", self.steps.publish)
        self.finish()

    def do(self, name: str, step: Callable[[float], Outcome]) -> None:
        """Do a step within its share of the remaining time, unless its outcome for this commit is settled; store it."""
        seconds = self.seconds_for(name)
        state = self.journal.state
        former = state.steps.get(name)
        if former and former.verdict in SETTLED:
            outcome = Outcome(SKIPPED, f"as before: {former.verdict}, {former.line}") if former.reported else former
        else:
            try:
                outcome = step(seconds)
            except (OutOfTime, CannotMeasure) as error:
                outcome = Outcome(FAILED, str(error))
            if outcome.verdict != SKIPPED and name not in OWN_STATE:
                state.steps[name] = outcome
                self.journal.save(f"{name}: {outcome.verdict}")
        self.journal.outcomes[name] = outcome
        print(f"==> {name}: {outcome.verdict}: {outcome.line}", flush=True)

    def seconds_for(self, name: str) -> float:
        """Return the seconds that a step may take, and remove the step from the remaining ones."""
        weight = self.weights.pop(name)
        return max(1.0, weight / (sum(self.weights.values()) + weight) * (self.end - time.monotonic()))

    def compare(self) -> None:
        """Compare HEAD with the last judged commit and with the last release, if the gate first sees the canary."""
        journal, state = self.journal, self.journal.state
        measured = self.measuring.series.measured
        self.bases["last"] = last_judged(journal.root, journal.head, state.judged, measured, journal.note)
        self.bases["release"] = last_release(journal.root, journal.head)
        settled = {name for name, outcome in state.steps.items() if outcome.verdict in SETTLED}
        wanted = [name for name, base in self.bases.items() if base.commit and name not in settled]
        former = state.steps.get("canary")
        if former and former.reported and wanted:
            del state.steps["canary"]  # that canary result is from an earlier night
        self.do("canary", lambda seconds: self.canary(seconds) if wanted else Outcome(SKIPPED, "nothing to compare"))
        for name in self.bases:
            self.do(name, partial(self.gate, name))

    def canary(self, seconds: float) -> Outcome:
        """Check that the gate sees an injected slowdown; if the time is too short for the check, the night is void."""
        try:
            return self.steps.canary(self.journal.head, seconds)
        except OutOfTime as error:
            return Outcome(VOID, str(error))

    def gate(self, name: str, seconds: float) -> Outcome:
        """Compare HEAD with the base of this name, "last" or "release"."""
        base, outcomes = self.bases[name], self.journal.outcomes
        if not base.commit:
            return Outcome(SKIPPED, base.reason)
        if outcomes["canary"].verdict != PASS:
            return Outcome(SKIPPED, "not compared, since the gate did not see the canary")
        if name == "release" and base == self.bases["last"]:
            return Outcome(outcomes["last"].verdict, "the release is the commit that was judged last: see there")
        return self.steps.gate(base.commit, self.journal.head, seconds)

    def law(self, seconds: float) -> Outcome:
        """Run the statistical tests, on seeds that are stored before they are used."""
        if self.steps.law is None:
            return Outcome(SKIPPED, "tested by the job for the CPU")
        self.journal.write_state()
        return self.steps.law(self.journal.head, self.journal.state.seeds, seconds)

    def finish(self) -> None:
        """Report the findings, then store that this commit is judged, and push the branch."""
        report, state = self.journal.report, self.journal.state
        if not report.nothing_new():
            state.unstable = state.unstable + 1 if report.verdict() == UNSTABLE else 0
            if self.issues:
                self.report_findings()
            if "issues" not in report.outcomes:  # otherwise the next night reports the same outcomes again
                if self.is_judged():
                    state.judged = report.head
                state.steps = {name: replace(outcome, reported=True) for name, outcome in state.steps.items()}
            self.journal.save_report()
        self.journal.branch.push()

    def report_findings(self) -> None:
        """Open or update GitHub issues; a failure to do so becomes the outcome "issues"."""
        journal = self.journal
        try:
            for line in github_issues.report(collect_findings(journal.report, journal.state, self.bases), journal.root):
                journal.note(line)
        except github_issues.CannotReport as error:
            journal.outcomes["issues"] = Outcome(FAILED, str(error))

    def is_judged(self) -> bool:
        """Return True if the next night may compare with this night's commit."""
        settled = self.journal.outcomes["last"].verdict in (PASS, IMPROVED, REGRESSED)
        first_night = not self.journal.state.judged
        return settled or (first_night and self.journal.head in self.measuring.series.measured)
