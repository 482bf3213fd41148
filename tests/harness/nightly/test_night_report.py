"""What a night says: its summary, exit code, JUnit and the files for the dashboard."""

import json
from xml.etree import ElementTree

import pytest
from nightly.nights import World, git, slower_outcome

from benchmarks.gate.rule import FAILED, PASS, REGRESSED, UNSTABLE
from benchmarks.nightly.state import REJECTED, Outcome


def test_a_regression_comes_first_and_is_the_exit_code(world: World) -> None:
    world.night()
    world.commit()
    world.gate = lambda base: slower_outcome("8x16 is slower | by much")
    world.law = Outcome(FAILED, "no compiler")
    assert world.night()[0] == 1
    summary = world.summary().splitlines()
    assert summary[0] == "## REGRESSED: at least one case is slower"
    rows = [line.split(" | ")[:2] for line in summary if line.startswith("| ")][2:]
    assert [row[0] for row in rows[:2]] == ["| since the last night", "| law of K"]
    assert "by much" in world.summary()
    assert "<details><summary>since the last night</summary>\n\nthe table" in world.summary()
    suites = ElementTree.parse(world.root / ".asv" / "nightly.xml").getroot()
    steps = suites.find("testsuite[@name='steps']")
    assert steps is not None
    assert (steps.get("failures"), steps.get("errors")) == ("1", "1")
    assert [suite.get("name") for suite in suites][1:] == ["since the last night: gate"]
    assert git(world.remote, "show", "asv-results:cpu/summary.md") == world.summary().strip()


@pytest.mark.parametrize(
    ("law", "gate", "code"),
    [(PASS, UNSTABLE, 3), (PASS, FAILED, 2), (REJECTED, UNSTABLE, 1), (FAILED, UNSTABLE, 2), (FAILED, REGRESSED, 1)],
)
def test_the_worst_outcome_is_the_exit_code_and_unsettled_steps_are_repeated(
    world: World, law: str, gate: str, code: int
) -> None:
    first = world.head
    world.night()
    world.commit()
    world.law, world.gate = Outcome(law, "law"), lambda base: Outcome(gate, "gate")
    assert world.night()[0] == code
    assert (world.state().judged == first) == (gate != REGRESSED)
    world.law, world.gate = Outcome(PASS, "law"), lambda base: Outcome(PASS, "gate")
    again, calls = world.night()
    assert again == 0
    done = {call.split()[0] for call in calls}
    assert ("law" in done) == (law == FAILED)
    assert ("gate" in done) == ("canary" in done) == (gate != REGRESSED)


def test_the_pages_show_the_worse_of_two_comparisons(world: World) -> None:
    git(world.root, "tag", "v0.1.0")
    world.night()
    last = world.commit()
    world.night()
    world.commit()

    def gate(base: str) -> Outcome:
        verdict = PASS if base == last else REGRESSED
        return Outcome(verdict, verdict, shown={"verdict.json": {"verdict": verdict}})

    world.gate = gate
    world.night()
    assert json.loads((world.root / ".asv" / "verdict.json").read_text()) == {"verdict": REGRESSED}
    assert json.loads((world.root / ".asv" / "law.json").read_text()) == {"checks": 1}
    world.commit()
    world.gate = lambda base: Outcome(PASS, "", shown={"verdict.json": {"verdict": PASS}})
    world.night()
    assert json.loads((world.root / ".asv" / "verdict.json").read_text()) == {"verdict": PASS}
    (world.root / ".asv" / "verdict.json").write_text("what a maintainer has compared since")
    assert world.night() == (0, ["publish"])
    assert (world.root / ".asv" / "verdict.json").read_text() == "what a maintainer has compared since"
