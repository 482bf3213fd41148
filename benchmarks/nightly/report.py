"""What a night says in the end: a Markdown summary with the worst first, JUnit, and an exit code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree

from ..gate.rule import FAILED, PASS, REGRESSED, UNSTABLE
from .state import REJECTED, SKIPPED, VOID, WORST_FIRST, Outcome

EXIT = {VOID: 2, REGRESSED: 1, REJECTED: 1, FAILED: 2, UNSTABLE: 3}  # else 0
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
MEANING = {
    VOID: "the gate did not see a slowdown that was planted, so that its verdicts mean nothing",
    REGRESSED: "something has become slower",
    REJECTED: "K does not follow its law",
    FAILED: "not everything could be done",
    UNSTABLE: "the machine was too noisy for a verdict: not a pass",
}


@dataclass
class Report:
    """What the steps of a night found, by their names, and what had to be mended on the way."""

    device: str
    head: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    machine: str = ""

    def verdict(self) -> str:
        """The worst there is."""
        return min((outcome.verdict for outcome in self.outcomes.values()), key=WORST_FIRST.index, default=SKIPPED)

    def quiet(self) -> bool:
        """Whether there was nothing new; that the pages were made again does not count."""
        nothing = {"publish": (SKIPPED, PASS)}
        return all(outcome.verdict in nothing.get(name, (SKIPPED,)) for name, outcome in self.outcomes.items())

    def exit_code(self) -> int:
        """0 fine, 1 slower or wrong, 2 void or something could not be done, 3 unstable."""
        return EXIT.get(self.verdict(), 0)

    def ordered(self) -> list[tuple[str, Outcome]]:
        """Worst first."""
        return sorted(self.outcomes.items(), key=lambda item: WORST_FIRST.index(item[1].verdict))

    def headline(self) -> str:
        """The night in a sentence."""
        if self.quiet():
            return f"nothing new since commit {self.head[:8]}"
        return f"{self.verdict()}: {MEANING.get(self.verdict(), 'nothing has become slower or wrong')}"

    def markdown(self) -> str:
        """The summary."""
        lines = [
            f"## {self.headline()}",
            "",
            f"Nightly, {self.device}, commit {self.head[:8]}, on {self.machine or 'this machine'}.",
        ]
        lines += ["", "| step | verdict | what |", "| --- | --- | --- |"]
        for name, outcome in self.ordered():
            line = " ".join(outcome.line.split()).replace("|", "\\|")
            lines.append(f"| {TITLES[name]} | {'' if outcome.verdict == SKIPPED else outcome.verdict} | {line} |")
        lines += ["", *(f"* {note}" for note in self.notes)]
        for name, outcome in self.ordered():
            if outcome.markdown:
                lines += ["", f"<details><summary>{TITLES[name]}</summary>", "", outcome.markdown.rstrip(), "", "</details>"]
        return "\n".join(lines).rstrip() + "\n"

    def junit(self) -> str:
        """A test per step, and all tests that the steps themselves had."""
        root = ElementTree.Element("testsuites", {"name": f"nightly {self.device}"})
        kinds = {
            REGRESSED: "failure",
            REJECTED: "failure",
            VOID: "error",
            FAILED: "error",
            UNSTABLE: "error",
            SKIPPED: "skipped",
        }
        problems = [kinds.get(outcome.verdict, PASS) for outcome in self.outcomes.values()]
        counts = {
            f"{kind}s" if kind != "skipped" else kind: str(problems.count(kind)) for kind in ("failure", "error", "skipped")
        }
        suite = ElementTree.SubElement(root, "testsuite", {"name": "steps", "tests": str(len(problems)), **counts})
        for name, outcome in self.ordered():
            case = ElementTree.SubElement(suite, "testcase", {"classname": "nightly", "name": TITLES[name]})
            if kind := kinds.get(outcome.verdict):
                ElementTree.SubElement(case, kind, {"message": f"{outcome.verdict}: {outcome.line}"})
        for name, outcome in self.ordered():
            if outcome.junit:
                found = ElementTree.fromstring(outcome.junit)
                for each in [found] if found.tag == "testsuite" else found.findall("testsuite"):
                    each.set("name", f"{TITLES[name]}: {each.get('name')}")
                    root.append(each)
        return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def slower(outcomes: Mapping[str, Outcome]) -> dict[str, list[str]]:
    """Each case that has become slower, with what says so."""
    found: dict[str, list[str]] = {}
    for name, outcome in outcomes.items():
        for case, text in outcome.slower.items():
            found.setdefault(case, []).append(f"{TITLES[name]}: {text}")
    return found
