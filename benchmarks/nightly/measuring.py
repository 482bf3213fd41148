"""Measure the newest commit and the commits that earlier nights missed, and keep asv's results in the results branch."""

import time

from ..gate.rule import FAILED, PASS
from ..system.git import git
from ..system.process_group import OutOfTime
from .journal import Journal
from .merging import has_figure, merge
from .state import SKIPPED, Outcome, Series
from .steps import Steps

MAX_TRIES = 2  # for a missed commit that cannot be measured; the newest commit is tried every night


class Measuring:
    """The measuring steps of a night. Creating one copies the branch's results to asv's folder and selects the series."""

    def __init__(self, journal: Journal, steps: Steps) -> None:
        self.journal, self.steps = journal, steps
        self.merge_results(into_branch=False)
        self.series = self.select_series()
        self.series.measured = [commit for commit in self.series.measured if self.has_figures(commit)]

    def select_series(self) -> Series:
        """Return the series of this machine and this torch; begin one if they are new."""
        state, environment = self.journal.state, self.steps.environment()
        former = state.environment
        name = ", ".join(environment.values())
        self.journal.report.machine = name
        if name not in state.series:
            state.series[name] = Series(self.journal.head)
            if former:
                self.journal.note(
                    f"A new series begins: this machine is {name}; the last night ran on {', '.join(former.values())}."
                )
        elif former != environment:
            self.journal.note(f"Another machine than last night: {name}. Its earlier series continues.")
        state.environment = environment
        return state.series[name]

    def newest(self, seconds: float) -> Outcome:
        """Measure HEAD, unless it is measured already."""
        head = self.journal.head
        if head in self.series.measured:
            return Outcome(SKIPPED, f"commit {head[:8]} is measured already")
        return self.measure(head, seconds)

    def missed(self, seconds: float) -> Outcome:
        """Measure the commits of the series that no night has measured, the newest first, until the time is up."""
        missing = self.missing()
        waiting = [commit for commit in missing if self.series.tries.get(commit, 0) < MAX_TRIES]
        given_up = f"; {len(missing) - len(waiting)} cannot be measured" if len(missing) > len(waiting) else ""
        if not waiting:
            return Outcome(SKIPPED, f"none{given_up}")
        end, problems, tried = time.monotonic() + seconds, [], 0
        for commit in waiting:
            try:
                outcome = self.measure(commit, max(1.0, end - time.monotonic()))
            except OutOfTime:
                break
            problems += [outcome.line] if outcome.verdict != PASS else []
            tried += 1
            if time.monotonic() > end:
                break
        counts = f"{tried - len(problems)} measured, {len(waiting) - tried} left for the next night{given_up}"
        nothing_measured = not tried and self.journal.outcomes["measure"].verdict != PASS
        return Outcome(FAILED if problems or nothing_measured else PASS, "; ".join([counts, *problems]))

    def missing(self) -> list[str]:
        """Return the commits since the series began that are not measured, the newest first, without HEAD."""
        root, first, head = self.journal.root, self.series.first, self.journal.head
        commits = git("rev-list", "--first-parent", f"{first}..{head}", folder=root, otherwise="").split()
        if git("merge-base", first, head, folder=root, otherwise="") == first:
            commits.append(first)
        return [commit for commit in commits if commit not in {*self.series.measured, head}]

    def measure(self, commit: str, seconds: float) -> Outcome:
        """Measure a commit and save its figures. If the time is up, save the figures measured so far and raise OutOfTime."""
        try:
            outcome = self.steps.measure(commit, seconds)
        except OutOfTime:
            self.merge_results(into_branch=True)
            self.journal.save(f"{commit[:8]} measured in part")
            raise
        self.merge_results(into_branch=True)
        if outcome.verdict == PASS and not self.has_figures(commit):
            outcome = Outcome(FAILED, f"no figure is stored for commit {commit[:8]}, though measuring it reported no failure")
        if outcome.verdict == PASS:
            self.series.measured.append(commit)
        else:
            self.series.tries[commit] = self.series.tries.get(commit, 0) + 1
        self.journal.save(f"{commit[:8]} measured: {outcome.verdict}")
        return outcome

    def has_figures(self, commit: str) -> bool:
        """Return True if the branch has a figure of the commit on this machine."""
        folder = self.journal.branch.folder / "results" / self.journal.state.environment["machine"]
        return any(has_figure(file) for file in folder.glob(f"{commit[:8]}-*.json"))

    def merge_results(self, into_branch: bool) -> None:
        """Merge asv's results into the branch's, or the other way. Where they differ, keep asv's figure, which is newer."""
        asv, kept = self.journal.root / ".asv" / "results", self.journal.branch.folder / "results"
        source, target = (asv, kept) if into_branch else (kept, asv)
        for note in merge(source, target, self.journal.root / ".asv" / "broken", prefer_source=into_branch):
            self.journal.note(note)
