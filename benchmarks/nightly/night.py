"""One night: what is new is measured and judged, step by step, and each step's outcome is committed to the results' branch."""

import json
import secrets
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..gate.rule import FAILED, IMPROVED, PASS, REGRESSED, UNSTABLE
from ..system.errors import CannotMeasure
from ..system.files import write
from ..system.git import git
from ..system.process_group import OutOfTime
from . import github_issues as alarm
from .report import Report, slower
from .results_branch import ResultsBranch
from .results_merge import has_number, merge
from .state import REJECTED, SETTLED, SKIPPED, VOID, Outcome, Series, State, parse
from .steps import Steps

SHARES = {"measure": 4, "canary": 3, "last": 4, "release": 4, "law": 5, "backlog": 8, "publish": 1}  # of the time that is left
TRIES = 2  # at a commit that has been missed; the newest one is tried every night
NOISY = 3  # nights in a row without a verdict, before somebody is told


class Night:
    """A night on a repository's HEAD. `seconds` is what it may take; `report` grows as it goes on."""

    def __init__(self, root: Path, folder: Path, device: str, seconds: float, steps: Steps, issues: bool) -> None:
        self.root, self.device, self.steps, self.issues = root, device, steps, issues
        self.end = time.monotonic() + seconds
        self.report = Report(device, self.git("rev-parse", "HEAD"))
        self.branch = ResultsBranch(root, folder, self.note)
        self.place = folder / device
        self.ahead = dict(SHARES)  # steps that are still to come

    def run(self) -> Report:
        """All steps. Raises BranchTrouble or OSError; what is committed until then stays, and the next run goes on there."""
        self.branch.open()
        self.begin()
        self.do("measure", self.newest)
        self.compare()
        self.do("law", self.law)
        self.do("backlog", self.missed)
        self.show()
        self.do("publish", self.steps.publish)
        self.finish()
        return self.report

    def begin(self) -> None:
        """Read the state, take over the branch's results, and find this machine's series."""
        file = self.place / "state.json"
        try:
            self.state = parse(file.read_text()) if file.exists() else State()
        except ValueError as error:
            raise CannotMeasure(
                f"{file}: {error}; take it back from an earlier commit there, or delete it to begin anew"
            ) from None
        if self.state.head != self.report.head:
            self.state.head, self.state.steps = self.report.head, {}
            self.state.seeds = [secrets.randbelow(2**31), secrets.randbelow(2**31)]
        self.exchange(inwards=True)
        here, before = self.steps.environment(), self.state.environment
        name = ", ".join(here.values())
        self.report.machine = name
        if name not in self.state.series:
            self.state.series[name] = Series(self.report.head)
            if before:
                self.note(
                    f"A new series of figures begins: this is {name}, and the last night's was {', '.join(before.values())}."
                )
        elif before != here:
            self.note(f"Another machine than last night: {name}, whose series goes on.")
        self.state.environment = here
        self.series = self.state.series[name]
        self.series.measured = [commit for commit in self.series.measured if self.figures(commit)]

    def do(self, name: str, work: Callable[[float], Outcome]) -> Outcome:
        """A step, within its share of the time that is left; one that is settled for this commit is not done again."""
        share = self.ahead.pop(name) / (sum(self.ahead.values()) + SHARES[name])
        known = self.state.steps.get(name)
        if known and known.verdict in SETTLED:
            outcome = Outcome(SKIPPED, f"as before: {known.verdict}, {known.line}") if known.told else known
        else:
            try:
                outcome = work(max(1.0, share * (self.end - time.monotonic())))
            except (OutOfTime, CannotMeasure) as error:
                outcome = Outcome(FAILED, str(error))
            if outcome.verdict != SKIPPED and name not in ("measure", "backlog", "publish"):
                self.state.steps[name] = outcome
                self.save(f"{name}: {outcome.verdict}")
        self.report.outcomes[name] = outcome
        print(f"==> {name}: {outcome.verdict}: {outcome.line}", flush=True)
        return outcome

    # ---- Measuring

    def newest(self, seconds: float) -> Outcome:
        """Measure HEAD."""
        if self.report.head in self.series.measured:
            return Outcome(SKIPPED, f"commit {self.report.head[:8]} is measured already")
        return self.measure(self.report.head, seconds)

    def measure(self, commit: str, seconds: float) -> Outcome:
        """Measure a commit, and keep what there is of it even if time runs out; that there are figures is looked up."""
        try:
            outcome = self.steps.measure(commit, seconds)
        except OutOfTime:
            self.exchange(inwards=False)
            self.save(f"{commit[:8]} measured in part")
            raise
        self.exchange(inwards=False)
        if outcome.verdict == PASS and not self.figures(commit):
            outcome = Outcome(FAILED, f"nothing is measured on commit {commit[:8]}, though no step said that it failed")
        if outcome.verdict == PASS:
            self.series.measured.append(commit)
        else:
            self.series.tries[commit] = self.series.tries.get(commit, 0) + 1
        self.save(f"{commit[:8]} measured: {outcome.verdict}")
        return outcome

    def missed(self, seconds: float) -> Outcome:
        """Measure the commits since the series began that no night has measured, newest first, until the time is up."""
        first, head = self.series.first, self.report.head
        listed = self.git("rev-list", "--first-parent", f"{first}..{head}").split()
        listed += [first] if self.git("merge-base", first, head) == first else []
        left = [commit for commit in listed if commit not in {*self.series.measured, head}]
        open_ = [commit for commit in left if self.series.tries.get(commit, 0) < TRIES]
        given_up = f"; {len(left) - len(open_)} cannot be measured" if len(left) > len(open_) else ""
        if not open_:
            return Outcome(SKIPPED, f"none{given_up}")
        end, problems, done = time.monotonic() + seconds, [], 0
        for commit in open_:
            try:
                outcome = self.measure(commit, max(1.0, end - time.monotonic()))
            except OutOfTime:
                break
            problems += [outcome.line] if outcome.verdict != PASS else []
            done += 1
            if time.monotonic() > end:
                break
        line = "; ".join([f"{done - len(problems)} measured, {len(open_) - done} left for the next night{given_up}", *problems])
        nothing = not done and self.report.outcomes["measure"].verdict != PASS
        return Outcome(FAILED if problems or nothing else PASS, line)

    def figures(self, commit: str) -> bool:
        """Whether the branch has any number for a commit on this machine."""
        folder = self.branch.folder / "results" / self.state.environment["machine"]
        return any(has_number(file) for file in folder.glob(f"{commit[:8]}-*.json"))

    def exchange(self, inwards: bool) -> None:
        """Bring asv's results and the branch's together."""
        asv, kept = self.root / ".asv" / "results", self.branch.folder / "results"
        source, target = (kept, asv) if inwards else (asv, kept)
        for note in merge(source, target, self.root / ".asv" / "broken", prefer_source=not inwards):
            self.note(note)

    # ---- Judging

    def compare(self) -> None:
        """The gate since the last night and since the release, behind a canary if there is anything to compare."""
        bases = {"last": self.last(), "release": self.release()}
        self.bases = {name: base for name, (base, _) in bases.items()}
        settled = {name for name in bases if (known := self.state.steps.get(name)) and known.verdict in SETTLED}
        wanted = [name for name, (base, _) in bases.items() if base and name not in settled]
        if (known := self.state.steps.get("canary")) and known.told and wanted:
            del self.state.steps["canary"]  # it sang for an earlier night
        guard = self.do("canary", lambda seconds: self.canary(seconds) if wanted else Outcome(SKIPPED, "nothing to compare"))

        for name, (base, why_not) in bases.items():

            def gate(seconds: float, name: str = name, base: str = base, why_not: str = why_not) -> Outcome:
                if not base:
                    return Outcome(SKIPPED, why_not)
                if guard.verdict != PASS:
                    return Outcome(SKIPPED, "not compared, since the canary was not seen")
                if name == "release" and base == self.bases["last"]:
                    return Outcome(self.report.outcomes["last"].verdict, "the release is what was judged last: see there")
                return self.steps.gate(base, self.report.head, seconds)

            self.do(name, gate)

    def canary(self, seconds: float) -> Outcome:
        """The canary; one that could not be tried is one that was not seen."""
        try:
            return self.steps.canary(self.report.head, seconds)
        except OutOfTime as error:
            return Outcome(VOID, str(error))

    def last(self) -> tuple[str, str]:
        """The commit that was judged last; or none, and why."""
        base, head = self.state.judged, self.report.head
        if not base:
            return "", "this is the first night: nothing to compare with"
        if not self.git("rev-parse", "--verify", "--quiet", f"{base}^{{commit}}"):
            self.note(f"Commit {base[:8]}, which was judged last, is no longer there: was the history rewritten?")
            known = [
                commit for commit in self.git("rev-list", "--first-parent", head).split() if commit in self.series.measured
            ]
            base = next((commit for commit in known if commit != head), "")
            if not base:
                return "", "no earlier commit of this history is measured"
        if self.git("merge-base", head, base) == head:
            return "", f"nothing new since {base[:8]}"
        return self.unless_same(base, f"commit {base[:8]}")

    def release(self) -> tuple[str, str]:
        """The newest release before HEAD; or none, and why."""
        tag = self.git("describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", self.report.head)
        if not tag:
            return "", "there is no release yet: no tag v… before this commit"
        base = self.git("rev-parse", f"{tag}^{{commit}}")
        if base == self.report.head:
            return "", f"this commit is the release {tag}"
        return self.unless_same(base, f"the release {tag}")

    def unless_same(self, base: str, name: str) -> tuple[str, str]:
        """The base, unless the package is the same there, so that neither can be slower."""
        words = ["git", "diff", "--quiet", base, self.report.head, "--", "taildropout", "pyproject.toml"]
        same = subprocess.run(words, cwd=self.root, check=False).returncode == 0
        return ("", f"the package is the same as at {name}") if same else (base, "")

    def law(self, seconds: float) -> Outcome:
        """The statistical tests, on seeds that are recorded before they are used."""
        if self.steps.law is None:
            return Outcome(SKIPPED, "tested by the job of the CPU")
        write(self.place / "state.json", self.state.text())
        return self.steps.law(self.report.head, self.state.seeds, seconds)

    # ---- Ending

    def show(self) -> None:
        """Lay out for the pages what was found last; of two comparisons, the worse."""
        for name in ("release", "last", "law"):
            self.state.shown |= self.report.outcomes[name].shown
        release, last = (self.report.outcomes[name] for name in ("release", "last"))
        if last.verdict in (PASS, IMPROVED) and release.verdict not in (PASS, IMPROVED):
            self.state.shown |= release.shown
        fresh = any(outcome.shown for outcome in self.report.outcomes.values())
        for name, stored in self.state.shown.items():
            file = self.root / ".asv" / name
            if fresh or not file.exists():
                write(file, json.dumps(stored, indent=1) + "\n")

    def finish(self) -> None:
        """Tell whom it concerns, and only then take this night as done."""
        report, state = self.report, self.state
        if not report.quiet():
            state.unstable = state.unstable + 1 if report.verdict() == UNSTABLE else 0
            if self.issues:
                try:
                    for line in alarm.tell(self.alarms(), self.root):
                        self.note(line)
                except alarm.AlarmTrouble as error:
                    report.outcomes["issues"] = Outcome(FAILED, str(error))
            if "issues" not in report.outcomes:
                if self.judged():
                    state.judged = report.head
                state.steps = {name: replace(outcome, told=True) for name, outcome in state.steps.items()}
            write(self.place / "summary.md", report.markdown())
            write(self.place / "junit.xml", report.junit())
            self.save(report.headline())
        self.branch.push()

    def judged(self) -> bool:
        """Whether the next night may compare with this one's commit."""
        settled = self.report.outcomes["last"].verdict in (PASS, IMPROVED, REGRESSED)
        return settled or (not self.state.judged and self.report.head in self.series.measured)

    def alarms(self) -> list[alarm.Alarm]:
        """An alarm per case that has become slower, one for the law, one for the job."""
        report, outcomes, found = self.report, self.report.outcomes, []
        for case, lines in sorted(slower(outcomes).items()):
            base = self.bases["last" if case in outcomes["last"].slower else "release"]
            found.append(alarm.slower(case, lines, base, report.head))
        if outcomes["law"].verdict == REJECTED:
            found.append(alarm.unlawful(outcomes["law"].line, report.head, self.state.seeds))
        broken = [f"{name}: {each.line}" for name, each in outcomes.items() if each.verdict in (VOID, FAILED)]
        if self.state.unstable >= NOISY:
            broken.append(f"{self.state.unstable} nights in a row were too noisy for a verdict")
        return found + ([alarm.failed(self.device, "\n\n".join(broken), report.head)] if broken else [])

    def save(self, message: str) -> None:
        """Store the state and commit all there is."""
        write(self.place / "state.json", self.state.text())
        self.branch.commit(f"{self.device}: {message}")

    def note(self, text: str) -> None:
        """Something that the summary tells."""
        self.report.notes.append(text)
        print(text, flush=True)

    def git(self, *words: str) -> str:
        """What git says of the repository; empty where it fails."""
        return git(*words, folder=self.root, otherwise="")
