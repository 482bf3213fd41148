"""A night that is killed, has no disk, meets another one or a rewritten history: a clear message, and nothing is lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nights
import pytest
from nights import CASE, World, git

from benchmarks.commands import nightly
from benchmarks.gate.rule import PASS, REGRESSED
from benchmarks.nightly.state import Outcome, State, parse

SEARCHED = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # so that a script finds what its folder's tests find


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A repository with a remote, on which no night has been."""
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT", "GITHUB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return World.new(tmp_path)


def slow(line: str = "slower") -> Outcome:
    return Outcome(REGRESSED, line, {CASE: "time +9.0%"}, markdown="the table", junit=nights.SUITE)


def killed(world: World, step: str) -> None:
    """A night in a process of its own, killed while it is at a step."""
    waiting = world.root / ".asv" / "waiting"
    waiting.unlink(missing_ok=True)
    with subprocess.Popen([sys.executable, nights.__file__, str(world.root), step], env=SEARCHED) as process:
        for _ in range(300):
            if waiting.exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        assert waiting.exists(), f"the night never came to {step}"
        process.send_signal(signal.SIGKILL)


def test_a_killed_night_goes_on_where_it_was(world):
    first = git(world.root, "rev-parse", "HEAD")
    world.night()
    missed, head = world.commit(), world.commit()
    killed(world, "gate")
    code, calls = world.night()
    assert code == 0
    wanted = [f"gate {first[:8]} {head[:8]}", f"law {head[:8]}", f"measure {missed[:8]}", "publish"]
    assert calls == wanted
    assert world.results() == {commit[:8] for commit in (first, missed, head)}


def test_a_night_killed_before_it_told_anybody_tells_it_the_next_time(world):
    first = git(world.root, "rev-parse", "HEAD")
    world.night()
    world.commit()
    world.gate = lambda base: slow()
    world.before = lambda step: 1 / 0 if step == "publish" else None
    assert world.night()[0] == 1
    assert "the night broke off: ZeroDivisionError" in world.summary()
    assert parse((world.branch / "cpu" / "state.json").read_text()).judged == first
    world.before = lambda step: None
    assert world.night() == (1, ["publish"])
    assert world.night() == (0, ["publish"])


def test_a_full_disk_ends_in_a_message_and_leaves_the_state_whole(world):
    world.night()
    world.commit()
    before = world.state()
    command = [sys.executable, nights.__file__, str(world.root), "disk"]
    done = subprocess.run(command, env=SEARCHED, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the night broke off: [Errno 27] File too large" in done.stdout
    state = parse((world.branch / "cpu" / "state.json").read_text())
    assert state.judged == before.judged
    assert state.steps["last"].verdict == PASS
    code, calls = world.night()
    assert (code, [call.split()[0] for call in calls]) == (0, ["law", "publish"])


def test_two_nights_at_once_do_not_meet(world, capsys):
    with nightly.alone(world.root):
        assert world.night() == (2, [])
    assert "another nightly job is under way" in capsys.readouterr().out
    assert world.night()[0] == 0


def test_a_clock_that_is_set_back_changes_no_order(world):
    world.night()
    dates = [f"{2030 - year}-01-01T00:00:00" for year in range(3)]
    older, newer, head = [world.commit(GIT_COMMITTER_DATE=date, GIT_AUTHOR_DATE=date) for date in dates]
    code, calls = world.night()
    assert code == 0
    assert [call for call in calls if call.startswith("measure")] == [f"measure {each[:8]}" for each in (head, newer, older)]
    assert world.state().judged == head
    git(world.root, "checkout", "--quiet", older)
    code, calls = world.night()
    assert not [call for call in calls if call.startswith("gate")]
    assert world.state().judged == head


def test_a_rewritten_history_of_the_package_is_compared_with_what_is_left_of_it(world):
    world.night()
    kept = world.commit()
    world.night()
    gone = world.commit()
    world.night()
    git(world.root, "reset", "--quiet", "--hard", kept)
    git(world.root, "commit", "--quiet", "--allow-empty", "-m", "another")
    head = world.commit()
    for words in (["reflog", "expire", "--expire=now", "--all"], ["gc", "--quiet", "--prune=now"]):
        git(world.root, *words)
    code, calls = world.night()
    assert code == 0
    assert f"gate {kept[:8]} {head[:8]}" in calls
    assert f"Commit {gone[:8]}, which was judged last, is no longer there" in world.summary()


def test_the_summary_goes_to_github_too(world, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    world.night()
    assert (tmp_path / "summary").read_text() == world.summary()
    assert (tmp_path / "output").read_text() == "told=false\n"


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"version": 2}', '{"version": 1, "steps": {"a": {}}}', '{"version": 1, "more": 1}']
)
def test_a_state_that_is_none_is_refused_and_nothing_changes(world, text):
    with pytest.raises(ValueError, match=r"version|stored state"):
        parse(text)
    world.night()
    before = git(world.remote, "rev-parse", "asv-results")
    (world.branch / "cpu" / "state.json").write_text(text)
    assert world.night()[0] == 2
    assert "delete it to begin anew" in world.summary()
    assert git(world.remote, "rev-parse", "asv-results") == before


def test_a_state_is_read_as_it_was_written(world):
    state = State("a", "b", [1, 2], {"law": Outcome(PASS, "line", {"case": "x"}, shown={"law.json": {"checks": 1}})})
    assert parse(state.text()) == state
