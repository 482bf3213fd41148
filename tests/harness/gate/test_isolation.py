"""What one benchmark leaves behind in its process is no error of another, and does not stop the gate."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from gate.test_asv_suite import this_environment

from benchmarks.gate import lockstep, pairs
from benchmarks.gate.asv_process import Context, copy_runner, discover
from benchmarks.gate.pairs import PairComparison

PLAIN = "def time_x(): sum(range(1000))\ndef time_y(): sum(range(1000))\ndef track_z(): return len(open(__file__).read())\n"
LEFT_BEHIND = {
    "a limit": "def time_a(): resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n",
    "an alarm": "def time_a(): signal.setitimer(signal.ITIMER_REAL, .2)\ndef time_w(): time.sleep(.4)\n",
    "a clock that stands still": "def time_a(): time.perf_counter = time.monotonic = lambda: 0.0\n",
    "a function that raises": "def time_a(): builtins.sum = None\n",
}


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take three rounds and few pairs, since times do not matter here."""
    for module in (lockstep, pairs):
        monkeypatch.setattr(module, "ROUNDS", 3)
        monkeypatch.setattr(module, "SECONDS", 0.01)
    monkeypatch.setattr(pairs, "FIGURE_PAIRS", 1)


def comparison_of(folder: Path, text: str) -> PairComparison:
    """Return a comparison of two equal versions of a suite with one module."""
    suite = folder / "suite"
    suite.mkdir()
    (suite / "__init__.py").write_text("")
    (suite / "b.py").write_text(f"import builtins, resource, signal, time\n{text}")
    shared = Context(folder, copy_runner(folder / "runner"), suite, 60.0, float("inf"))
    head = this_environment(suite)
    return PairComparison(shared, head, replace(head), {one["name"]: one for one in discover(shared, head)["cases"]}, [None])


@pytest.mark.parametrize("left", LEFT_BEHIND)
def test_others_are_measured(left: str, tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path, LEFT_BEHIND[left] + PLAIN)
    comparison.try_all()
    names = ["b.time_a", "b.time_x", "b.time_y"]
    drawn = comparison.draw(names, 1)
    comparison.take_figures(["b.track_z"])
    assert not {*comparison.failures} & {"b.time_x", "b.time_y", "b.track_z"}, comparison.failures
    assert drawn is not None
    assert (len(drawn["b.time_x"]), len(drawn["b.time_y"])) == (1, 1)
    assert len(comparison.figures["b.track_z"]) == 1


def test_what_fails_alone_too_is_failed(tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path, PLAIN + "def time_raises(): 1 / 0\ndef time_zz(): signal.raise_signal(9)\n")
    comparison.try_all()
    assert comparison.failures == {
        "b.time_raises": "both: ZeroDivisionError: division by zero",
        "b.time_zz": "both: its process died (signal 9)",
    }


def test_a_budget_measures_as_many_as_fit(tmp_path: Path) -> None:
    comparison, names = comparison_of(tmp_path, PLAIN), ["b.time_x", "b.time_y"]
    comparison.try_all()
    for_one, for_both = (pairs.SPARE * comparison.seconds(some, 2) for some in (names[:1], names))
    assert for_one < for_both
    comparison.shared.deadline = time.monotonic() + (for_one + for_both) / 2
    drawn = comparison.draw(names, 1)
    assert drawn is not None
    assert list(drawn) == ["b.time_x"]
    comparison.shared.deadline = time.monotonic() + for_one / 2
    assert comparison.draw(names, 1) is None
