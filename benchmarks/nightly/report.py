"""The report of a night: a Markdown summary with the worst outcome first, JUnit, and an exit code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree

from ..gate.rule import FAILED, PASS, REGRESSED, UNSTABLE
from .state import REJECTED, SKIPPED, VOID, WORST_FIRST, Outcome

EXIT_CODES = {VOID: 2, REGRESSED: 1, REJECTED: 1, FAILED: 2, UNSTABLE: 3}  # 0 for every other verdict
JUNIT_TAGS = {
    REGRESSED: "failure",
    REJECTED: "failure",
    VOID: "error",
    FAILED: "error",
    UNSTABLE: "error",
    SKIPPED: "skipped",
}
TITLES = {
    "measure": "newest commit",
    "canary": "canary",
    "last": "since the last night",
    "release": "since the release",
    "law": "law of K",
    "backlog": "missed commits",
    "publish": "pages",
    "issues": "issues",
    "night": "the job itself",
}
MEANINGS = {
    VOID: "the gate did not see an injected slowdown, so its verdicts mean nothing",
    REGRESSED: "at least one case is slower",
    REJECTED: "K does not follow its law",
    FAILED: "at least one step failed",
    UNSTABLE: "the machine was too noisy for a verdict: not a pass",
}


@dataclass
class Report:
    """The outcomes of a night's steps, by the steps' names, and notes for the summary, such as repairs."""

    device: str
    head: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    machine: str = ""

    def verdict(self) -> str:
        """Return the worst verdict of all steps."""
        return min((outcome.verdict for outcome in self.outcomes.values()), key=WORST_FIRST.index, default=SKIPPED)

    def nothing_new(self) -> bool:
        """Return True if every step was skipped, except that the pages may have been published again."""
        allowed = {"publish": (SKIPPED, PASS)}
        return all(outcome.verdict in allowed.get(name, (SKIPPED,)) for name, outcome in self.outcomes.items())

    def exit_code(self) -> int:
        """Return 0 for no problem, 1 for slower or wrong, 2 for void or failed, 3 for unstable."""
        return EXIT_CODES.get(self.verdict(), 0)

    def worst_first(self) -> list[tuple[str, Outcome]]:
        """Return the steps and their outcomes, the worst first."""
        return sorted(self.outcomes.items(), key=lambda item: WORST_FIRST.index(item[1].verdict))

    def headline(self) -> str:
        """Return the result of the night in one sentence."""
        if self.nothing_new():
            return f"nothing new since commit {self.head[:8]}"
        return f"{self.verdict()}: {MEANINGS.get(self.verdict(), 'nothing is slower or wrong')}"

    def markdown(self) -> str:
        """Return the summary in Markdown: a table of the steps, the notes, and the details of each step."""
        machine = self.machine or "this machine"
        lines = [f"## {self.headline()}", "", f"Nightly, {self.device}, commit {self.head[:8]}, on {machine}."]
        lines += ["", "| step | verdict | details |", "| --- | --- | --- |"]
        for name, outcome in self.worst_first():
            line = " ".join(outcome.line.split()).replace("|", "\\|")
            lines.append(f"| {TITLES[name]} | {'' if outcome.verdict == SKIPPED else outcome.verdict} | {line} |")
        lines += ["", *(f"* {note}" for note in self.notes)]
        for name, outcome in self.worst_first():
            if outcome.markdown:
                lines += ["", f"<details><summary>{TITLES[name]}</summary>", "", outcome.markdown.rstrip(), "", "</details>"]
        return "\n".join(lines).rstrip() + "\n"

    def junit(self) -> str:
        """Return JUnit XML: a test suite with a test case per step, then the test suites that the steps wrote."""
        root = ElementTree.Element("testsuites", {"name": f"nightly {self.device}"})
        tags = [JUNIT_TAGS.get(outcome.verdict) for outcome in self.outcomes.values()]
        counts = {"tests": len(tags), "failures": tags.count("failure"), "errors": tags.count("error")}
        counts["skipped"] = tags.count("skipped")
        attributes = {"name": "steps"} | {key: str(count) for key, count in counts.items()}
        steps = ElementTree.SubElement(root, "testsuite", attributes)
        for name, outcome in self.worst_first():
            case = ElementTree.SubElement(steps, "testcase", {"classname": "nightly", "name": TITLES[name]})
            if tag := JUNIT_TAGS.get(outcome.verdict):
                ElementTree.SubElement(case, tag, {"message": f"{outcome.verdict}: {outcome.line}"})
        for name, outcome in self.worst_first():
            if outcome.junit:
                parsed = ElementTree.fromstring(outcome.junit)
                for suite in [parsed] if parsed.tag == "testsuite" else parsed.findall("testsuite"):
                    suite.set("name", f"{TITLES[name]}: {suite.get('name')}")
                    root.append(suite)
        return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def slower_cases(outcomes: Mapping[str, Outcome]) -> dict[str, list[str]]:
    """Return each slower case with its changes, one per comparison that found the case slower."""
    cases: dict[str, list[str]] = {}
    for name, outcome in outcomes.items():
        for case, change in outcome.slower.items():
            cases.setdefault(case, []).append(f"{TITLES[name]}: {change}")
    return cases
