"""What a night measures and compares, and what it leaves for the next one."""

import pytest
from nightly.nights import World, fail_at, git

from benchmarks.gate.rule import FAILED, PASS
from benchmarks.nightly.state import REJECTED, VOID, Outcome, parse
from benchmarks.system.process_group import OutOfTime


def test_the_first_night_measures_the_newest_commit_and_compares_nothing(world: World) -> None:
    head = world.head
    assert world.night() == (0, [f"measure {head[:8]}", f"law {head[:8]}", "publish"])
    assert world.results() == {head[:8]}
    assert world.state().judged == head
    assert "this is the first night" in world.summary()
    assert "no release yet" in world.summary()


def test_a_second_night_in_a_row_does_nothing_new_and_says_so(world: World) -> None:
    world.night()
    before = git(world.remote, "rev-parse", "asv-results")
    assert world.night() == (0, ["publish"])
    assert "nothing new since commit" in world.summary().splitlines()[0]
    assert git(world.remote, "rev-parse", "asv-results") == before


def test_missed_commits_are_measured_newest_first_and_the_gate_spans_them_all(world: World) -> None:
    first = world.head
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


def test_commits_that_there_is_no_time_for_are_left_for_the_next_night(world: World) -> None:
    world.night()
    older, newer, head = (world.commit() for _ in range(3))
    taken: list[str] = []

    def before(step: str) -> None:
        taken.append(step)
        if step == "measure" and taken.count(step) >= 3:
            raise OutOfTime("late")

    world.before = before
    assert world.night()[0] == 0
    assert "1 measured, 1 left for the next night" in world.summary()
    assert world.results() >= {head[:8], newer[:8]}
    assert world.night()[0] == 2, "there was something to measure, and nothing was"
    world.before = lambda step: None
    code, calls = world.night()
    assert (code, calls) == (0, [f"measure {older[:8]}", "publish"])


def test_the_release_is_compared_too_unless_it_was_judged_last(world: World) -> None:
    git(world.root, "tag", "v0.1.0")
    release = world.head
    assert "this commit is the release v0.1.0" in (world.night(), world.summary())[1]
    second = world.commit()
    code, calls = world.night()
    assert [call for call in calls if call.startswith("gate")] == [f"gate {release[:8]} {second[:8]}"]
    assert "the release is the commit that was judged last" in world.summary()
    third = world.commit()
    code, calls = world.night()
    assert code == 0
    assert [call for call in calls if call.startswith("gate")] == [
        f"gate {second[:8]} {third[:8]}",
        f"gate {release[:8]} {third[:8]}",
    ]


def test_a_commit_that_does_not_change_the_package_needs_no_gate(world: World) -> None:
    world.night()
    (world.root / "README.md").write_text("text")
    git(world.root, "add", "README.md")
    git(world.root, "commit", "--quiet", "-m", "text")
    code, calls = world.night()
    assert code == 0
    assert [call.split()[0] for call in calls] == ["measure", "law", "publish"]
    assert "the package is the same as at commit" in world.summary()


def test_a_night_whose_canary_is_not_seen_is_void(world: World) -> None:
    first = world.head
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


def test_a_canary_without_time_makes_the_night_void(world: World) -> None:
    world.night()
    world.commit()
    world.before = fail_at("canary", OutOfTime("it was not done after 1 s"))
    assert world.night()[0] == 2
    assert world.summary().startswith("## VOID")


def test_a_night_that_stores_no_figures_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "measure", lambda commit, seconds: Outcome(PASS, "reported as measured"))
    assert world.night()[0] == 2
    assert "no figure is stored" in world.summary()
    assert world.state().judged == ""


def test_a_missed_commit_that_cannot_be_measured_is_given_up_and_the_newest_never_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.night()
    broken = world.commit()
    world.commit()
    measure = world.measure

    def failing(commit: str, seconds: float) -> Outcome:
        return Outcome(FAILED, "broken") if commit == broken else measure(commit, seconds)

    monkeypatch.setattr(world, "measure", failing)
    assert [world.night()[0] for _ in range(3)] == [2, 2, 0]
    assert "1 cannot be measured" in world.summary()
    git(world.root, "checkout", "--quiet", broken)
    assert [world.night()[0] for _ in range(3)] == [2, 2, 2]


def test_commits_of_a_branch_that_was_merged_are_not_measured_one_by_one(world: World) -> None:
    world.night()
    git(world.root, "checkout", "--quiet", "-b", "work")
    world.commit()
    world.commit()
    git(world.root, "checkout", "--quiet", "main")
    git(world.root, "merge", "--quiet", "--no-ff", "--no-edit", "work")
    head = world.head
    assert [call for call in world.night()[1] if "measure" in call] == [f"measure {head[:8]}"]


def test_the_first_commit_of_a_series_is_measured_later_if_it_was_missed(world: World) -> None:
    first = world.head
    world.before = fail_at("measure", OutOfTime("late"))
    assert world.night()[0] == 2
    world.before = lambda step: None
    head = world.commit()
    assert [call for call in world.night()[1] if "measure" in call] == [f"measure {commit[:8]}" for commit in (head, first)]


@pytest.mark.parametrize(("name", "value"), [("machine", "another-cpu"), ("torch", "2.14.0")])
def test_another_machine_or_torch_begins_a_series_and_says_so(world: World, name: str, value: str) -> None:
    head = world.head
    world.night()
    setattr(world, name, value)
    code, calls = world.night()
    assert (code, calls) == (0, [f"measure {head[:8]}", "publish"])
    assert "A new series begins: this machine is" in world.summary()
    assert value in world.summary()
    assert world.night() == (0, ["publish"])
    world.machine, world.torch = World(world.root).machine, World(world.root).torch
    assert world.night() == (0, ["publish"])
    assert "Another machine than last night" in world.summary()


def test_the_seeds_of_the_law_are_fresh_and_stored(world: World) -> None:
    world.night()
    world.commit()
    world.night()
    assert world.state().seeds == world.seeds[1]
    assert len({*world.seeds[0], *world.seeds[1]}) == 4


def test_the_seeds_are_stored_before_they_are_used(world: World) -> None:
    first = world.head
    world.night()
    world.commit()
    world.night()
    git(world.root, "checkout", "--quiet", first)  # measured already, so no other step stores the state before the law
    stored: list[list[int]] = []

    def before(step: str) -> None:
        if step == "law":
            stored.append(parse((world.branch / "cpu" / "state.json").read_text()).seeds)

    world.before = before
    world.night()
    assert stored == [world.seeds[-1]]


def test_figures_of_a_measurement_that_ran_out_of_time_are_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = world.measure

    def late(commit: str, seconds: float) -> Outcome:
        measure(commit, seconds)
        raise OutOfTime("late")

    monkeypatch.setattr(world, "measure", late)
    assert world.night()[0] == 2
    assert world.results() == {world.head[:8]}
    assert f"{world.head[:8]} measured in part" in git(world.remote, "log", "--format=%s", "asv-results")
