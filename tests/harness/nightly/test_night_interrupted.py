"""Nights that are killed, have a full disk, run at once or meet a rewritten history: a clear message, and nothing is lost."""

from pathlib import Path

import pytest
from nightly.nights import World, fail_at, git, kill_night_at, night_on_full_disk, slower_outcome

from benchmarks.gate.rule import PASS
from benchmarks.nightly.job import only_one_night
from benchmarks.nightly.state import Outcome, State, parse


def test_a_killed_night_continues_where_it_stopped(world: World) -> None:
    first = world.head
    world.night()
    missed, head = world.commit(), world.commit()
    kill_night_at(world, "gate")
    code, calls = world.night()
    assert code == 0
    assert calls == [f"gate {first[:8]} {head[:8]}", f"law {head[:8]}", f"measure {missed[:8]}", "publish"]
    assert world.results() == {commit[:8] for commit in (first, missed, head)}


def test_outcomes_of_a_night_that_stopped_before_its_report_are_reported_by_the_next(world: World) -> None:
    first = world.head
    world.night()
    world.commit()
    world.gate = lambda base: slower_outcome()
    world.before = fail_at("publish", ZeroDivisionError())
    assert world.night()[0] == 1
    assert "the night stopped early: ZeroDivisionError" in world.summary()
    assert parse((world.branch / "cpu" / "state.json").read_text()).judged == first
    world.before = lambda step: None
    assert world.night() == (1, ["publish"])
    assert world.night() == (0, ["publish"])


def test_a_full_disk_ends_in_a_message_and_leaves_the_state_whole(world: World) -> None:
    world.night()
    world.commit()
    before = world.state()
    code, output = night_on_full_disk(world)
    assert code == 2
    assert "the night stopped early: [Errno 27] File too large" in output
    state = parse((world.branch / "cpu" / "state.json").read_text())
    assert state.judged == before.judged
    assert state.steps["last"].verdict == PASS
    code, calls = world.night()
    assert (code, [call.split()[0] for call in calls]) == (0, ["law", "publish"])


def test_a_second_night_at_the_same_time_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with only_one_night(world.root):
        assert world.night() == (2, [])
    assert "another nightly job is running" in capsys.readouterr().out
    assert world.night()[0] == 0


def test_a_clock_that_is_set_back_changes_no_order(world: World) -> None:
    world.night()
    dates = [f"{2030 - year}-01-01T00:00:00" for year in range(3)]
    older, newer, head = [world.commit(GIT_COMMITTER_DATE=date, GIT_AUTHOR_DATE=date) for date in dates]
    code, calls = world.night()
    assert code == 0
    assert [call for call in calls if call.startswith("measure")] == [
        f"measure {commit[:8]}" for commit in (head, newer, older)
    ]
    assert world.state().judged == head
    git(world.root, "checkout", "--quiet", older)
    code, calls = world.night()
    assert not [call for call in calls if call.startswith("gate")]
    assert world.state().judged == head


def test_after_a_rewritten_history_the_newest_measured_commit_is_the_base(world: World) -> None:
    world.night()
    kept = world.commit()
    world.night()
    gone = world.commit()
    world.night()
    git(world.root, "reset", "--quiet", "--hard", kept)
    git(world.root, "commit", "--quiet", "--allow-empty", "-m", "another")
    head = world.commit()
    for args in (["reflog", "expire", "--expire=now", "--all"], ["gc", "--quiet", "--prune=now"]):
        git(world.root, *args)
    code, calls = world.night()
    assert code == 0
    assert f"gate {kept[:8]} {head[:8]}" in calls
    assert f"Commit {gone[:8]}, which was judged last, no longer exists" in world.summary()


def test_the_summary_goes_to_github_too(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    world.night()
    assert (tmp_path / "summary").read_text() == world.summary()
    assert (tmp_path / "output").read_text() == "reported=false\n"


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"version": 2}', '{"version": 1, "steps": {"a": {}}}', '{"version": 1, "more": 1}']
)
def test_a_broken_state_is_refused_and_nothing_changes(world: World, text: str) -> None:
    with pytest.raises(ValueError, match=r"version|stored state"):
        parse(text)
    world.night()
    before = git(world.remote, "rev-parse", "asv-results")
    (world.branch / "cpu" / "state.json").write_text(text)
    assert world.night()[0] == 2
    assert "delete it to start again" in world.summary()
    assert git(world.remote, "rev-parse", "asv-results") == before


def test_a_state_is_read_as_it_was_written(world: World) -> None:
    state = State("a", "b", [1, 2], {"law": Outcome(PASS, "line", {"case": "x"}, shown={"law.json": {"checks": 1}})})
    assert parse(state.text()) == state


def test_a_state_from_before_told_was_renamed_to_reported_is_read() -> None:
    state = State("a", steps={"law": Outcome(PASS, "line", reported=True), "last": Outcome(PASS, "line")})
    assert parse(state.text().replace('"reported"', '"told"')) == state
