"""The nightly job: what it measures, compares and says, and that a night that is killed goes on where it was."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import nights
import pytest
from nights import CASE, World, git

import taildropout
from benchmarks.commands import nightly
from benchmarks.gate.rule import FAILED, PASS, REGRESSED, UNSTABLE
from benchmarks.nightly.state import REJECTED, VOID, Outcome, parse
from benchmarks.system import process_group as leash


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A repository with a remote, on which no night has been."""
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT", "GITHUB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return World.new(tmp_path)


def slow(line: str = "slower") -> Outcome:
    return Outcome(REGRESSED, line, {CASE: "time +9.0%"}, markdown="the table", junit=nights.SUITE)


# ---- What a night does


def test_the_first_night_measures_the_newest_commit_and_compares_nothing(world):
    head = git(world.root, "rev-parse", "HEAD")
    assert world.night() == (0, [f"measure {head[:8]}", f"law {head[:8]}", "publish"])
    assert world.results() == {head[:8]}
    assert world.state().judged == head
    assert "this is the first night" in world.summary()
    assert "no release yet" in world.summary()


def test_a_second_night_in_a_row_does_nothing_new_and_says_so(world):
    world.night()
    before = git(world.remote, "rev-parse", "asv-results")
    assert world.night() == (0, ["publish"])
    assert "nothing new since commit" in world.summary().splitlines()[0]
    assert git(world.remote, "rev-parse", "asv-results") == before


def test_missed_commits_are_measured_newest_first_and_the_gate_spans_them_all(world):
    first = git(world.root, "rev-parse", "HEAD")
    world.night()
    missed = [world.commit() for _ in range(3)]
    head = world.commit()
    code, calls = world.night()
    assert code == 0
    gate = ["canary " + head[:8], f"gate {first[:8]} {head[:8]}", "law " + head[:8]]
    backlog = [f"measure {commit[:8]}" for commit in reversed(missed)]
    assert calls == [f"measure {head[:8]}", *gate, *backlog, "publish"]
    assert world.results() == {commit[:8] for commit in (first, *missed, head)}
    assert world.state().judged == head


def test_what_there_is_no_time_for_is_left_for_the_next_night(world):
    world.night()
    older, newer, head = (world.commit() for _ in range(3))
    taken = []

    def measure(step: str) -> None:
        taken.append(step)
        if step == "measure" and taken.count(step) >= 3:
            raise leash.OutOfTime("late")

    world.before = measure
    assert world.night()[0] == 0
    assert "1 measured, 1 left for the next night" in world.summary()
    assert world.results() >= {head[:8], newer[:8]}
    assert world.night()[0] == 2, "there was something to measure, and nothing was"
    world.before = lambda step: None
    code, calls = world.night()
    assert (code, calls) == (0, [f"measure {older[:8]}", "publish"])


def test_the_release_is_compared_too_unless_it_is_what_was_judged_last(world):
    git(world.root, "tag", "v0.1.0")
    release = git(world.root, "rev-parse", "HEAD")
    assert "this commit is the release v0.1.0" in (world.night(), world.summary())[1]
    second = world.commit()
    code, calls = world.night()
    assert [call for call in calls if call.startswith("gate")] == [f"gate {release[:8]} {second[:8]}"]
    assert "the release is what was judged last" in world.summary()
    third = world.commit()
    code, calls = world.night()
    assert code == 0
    assert [call for call in calls if call.startswith("gate")] == [
        f"gate {second[:8]} {third[:8]}",
        f"gate {release[:8]} {third[:8]}",
    ]


def test_a_commit_that_leaves_the_package_as_it_is_needs_no_gate(world):
    world.night()
    (world.root / "README.md").write_text("words")
    git(world.root, "add", "README.md")
    git(world.root, "commit", "--quiet", "-m", "words")
    code, calls = world.night()
    assert code == 0
    assert [call.split()[0] for call in calls] == ["measure", "law", "publish"]
    assert "the package is the same as at commit" in world.summary()


# ---- What it says


def test_a_regression_comes_first_and_is_the_exit_code(world):
    world.night()
    world.commit()
    world.gate = lambda base: slow("8x16 is slower | by much")
    world.law = Outcome(FAILED, "no compiler")
    assert world.night()[0] == 1
    summary = world.summary().splitlines()
    assert summary[0] == "## REGRESSED: something has become slower"
    rows = [line.split(" | ")[:2] for line in summary if line.startswith("| ")][2:]
    assert [row[0] for row in rows[:2]] == ["| since the last night", "| law of K"]
    assert "by much" in world.summary()
    assert "<details><summary>since the last night</summary>\n\nthe table" in world.summary()
    suites = ElementTree.parse(world.root / ".asv" / "nightly.xml").getroot()
    steps = suites.find("testsuite[@name='steps']")
    assert (steps.get("failures"), steps.get("errors")) == ("1", "1")
    assert [suite.get("name") for suite in suites][1:] == ["since the last night: gate"]
    assert git(world.remote, "show", "asv-results:cpu/summary.md") == world.summary().strip()


@pytest.mark.parametrize(
    ("law", "gate", "code"),
    [(PASS, UNSTABLE, 3), (PASS, FAILED, 2), (REJECTED, UNSTABLE, 1), (FAILED, UNSTABLE, 2), (FAILED, REGRESSED, 1)],
)
def test_the_worst_outcome_is_the_exit_code_and_what_is_not_settled_is_done_again(world, law, gate, code):
    first = git(world.root, "rev-parse", "HEAD")
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


def test_a_night_whose_canary_is_not_seen_is_void(world):
    first = git(world.root, "rev-parse", "HEAD")
    world.night()
    world.commit()
    world.canary, world.law = Outcome(VOID, "not seen"), Outcome(REJECTED, "wrong")
    code, calls = world.night()
    assert code == 2
    assert not [call for call in calls if call.startswith("gate")]
    assert world.summary().startswith("## VOID")
    assert world.state().judged == first
    world.canary = Outcome(PASS, "seen")
    code, calls = world.night()
    assert (code, len([call for call in calls if call.startswith("gate")])) == (0, 1)


def test_a_canary_that_finds_no_time_is_not_seen(world):
    world.night()
    world.commit()

    def late(step: str) -> None:
        if step == "canary":
            raise leash.OutOfTime("it was not done after 1 s")

    world.before = late
    assert world.night()[0] == 2
    assert world.summary().startswith("## VOID")


def test_a_night_that_should_have_measured_and_measured_nothing_fails(world, monkeypatch):
    monkeypatch.setattr(world, "measure", lambda commit, seconds: Outcome(PASS, "said to be measured"))
    assert world.night()[0] == 2
    assert "nothing is measured" in world.summary()
    assert world.state().judged == ""


def test_a_missed_commit_that_cannot_be_measured_is_given_up_and_the_newest_never_is(world, monkeypatch):
    world.night()
    broken = world.commit()
    world.commit()
    measure = world.measure

    def failing(commit, seconds):
        return Outcome(FAILED, "broken") if commit == broken else measure(commit, seconds)

    monkeypatch.setattr(world, "measure", failing)
    assert [world.night()[0] for _ in range(3)] == [2, 2, 0]
    assert "1 cannot be measured" in world.summary()
    git(world.root, "checkout", "--quiet", broken)
    assert [world.night()[0] for _ in range(3)] == [2, 2, 2]


def test_commits_of_a_branch_that_was_merged_are_not_measured_one_by_one(world):
    world.night()
    git(world.root, "checkout", "--quiet", "-b", "work")
    world.commit()
    world.commit()
    git(world.root, "checkout", "--quiet", "main")
    git(world.root, "merge", "--quiet", "--no-ff", "--no-edit", "work")
    head = git(world.root, "rev-parse", "HEAD")
    assert [call for call in world.night()[1] if "measure" in call] == [f"measure {head[:8]}"]


def test_the_commit_with_which_a_series_began_is_made_up_for_as_well(world):
    first = git(world.root, "rev-parse", "HEAD")

    def late(step: str) -> None:
        if step == "measure":
            raise leash.OutOfTime("late")

    world.before = late
    assert world.night()[0] == 2
    world.before = lambda step: None
    head = world.commit()
    assert [call for call in world.night()[1] if "measure" in call] == [f"measure {each[:8]}" for each in (head, first)]


@pytest.mark.parametrize(("name", "value"), [("machine", "another-cpu"), ("torch", "2.14.0")])
def test_a_machine_that_differs_begins_a_series_and_says_so(world, name, value):
    head = git(world.root, "rev-parse", "HEAD")
    world.night()
    setattr(world, name, value)
    code, calls = world.night()
    assert (code, calls) == (0, [f"measure {head[:8]}", "publish"])
    assert "A new series of figures begins: this is" in world.summary()
    assert value in world.summary()
    assert world.night() == (0, ["publish"])
    world.machine, world.torch = World(world.root).machine, World(world.root).torch
    assert world.night() == (0, ["publish"])
    assert "Another machine than last night" in world.summary()


def test_the_seeds_of_the_law_are_fresh_and_recorded(world, monkeypatch):
    seen = []
    law = world.law
    monkeypatch.setattr(World, "steps", lambda self: replaced_law(original(self), seen, law))
    world.night()
    world.commit()
    world.night()
    assert world.state().seeds == seen[1]
    assert len({*seen[0], *seen[1]}) == 4


original = World.steps


def replaced_law(steps, seen, law):
    def noted(commit, seeds, seconds):
        seen.append([*seeds])
        return law

    return nightly.Steps(**{**vars(steps), "law": noted})


def test_the_pages_show_the_worse_of_two_comparisons(world):
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


NIGHT = f"""import sys
from benchmarks import ROOT, nightly
from benchmarks.night_steps import real
steps = real(ROOT, "cpu", ["{CASE}"], ["-k", "exponential-0.5-64-"])
sys.exit(nightly.work(ROOT, None, "cpu", 1500.0, steps, issues=False))"""


@pytest.mark.night
@pytest.mark.timeout(3600)
def test_two_real_nights_on_one_case(tmp_path):
    """Nothing is made up but that there is one case, and fewer tests of the law. The second commit changes a comment."""
    root, project = tmp_path / "project", Path(__file__).parents[3]
    shutil.copytree(
        Path(taildropout.__file__).parent, root / "taildropout", ignore=shutil.ignore_patterns("__pycache__", "*.so")
    )
    shutil.copytree(project / "benchmarks", root / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(project / "tests", root / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("asv.conf.json", "pyproject.toml", "package.json", "package-lock.json", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(project / name, root / name)
    git(tmp_path, "init", "--quiet", "--bare", "remote.git")
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "remote", "add", "origin", str(tmp_path / "remote.git"))
    commits = []
    for _ in range(2):
        with open(root / "taildropout" / "layer.py", "a") as file:
            file.write("# changed\n")
        git(root, "add", "--all")
        git(root, "commit", "--quiet", "-m", "change")
        commits.append(git(root, "rev-parse", "HEAD"))
        surroundings = {key: value for key, value in os.environ.items() if not key.startswith("GITHUB_")}
        code = subprocess.run([sys.executable, "-c", NIGHT], cwd=root, env=surroundings, check=False).returncode
        state = parse(git(tmp_path / "remote.git", "show", "asv-results:cpu/state.json"))
        (series,) = state.series.values()
        assert series.measured == commits
        assert state.steps["law"].verdict == PASS
        assert "seed" in json.loads((root / ".asv" / "law.json").read_text())
        if len(commits) == 1:
            assert code == 0
            assert (root / ".asv" / "html" / "overview.html").exists()
    # A machine that is busy with something else may see nothing for sure: that is no pass, and no fault of the job.
    assert state.steps["canary"].verdict in (PASS, VOID)
    assert code == (2 if state.steps["canary"].verdict == VOID else {PASS: 0, UNSTABLE: 3}[state.steps["last"].verdict])
    assert state.judged == commits[code == 0]
