"""Change points: injected steps are found where they are, flat series are left alone, and the command reports them."""

import json
import math
import random
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.commands import history as command
from benchmarks.results import change_points as changes
from benchmarks.results import history, pinned
from benchmarks.suite import history as suite
from benchmarks.suite.cases import NotAvailable
from benchmarks.system.git import UnknownRevision


def ratios(levels: list[float], deviation: float, seed: int, heavy: bool = False) -> list[float]:
    """Return one figure per commit around each level; `heavy`: one in ten is four times as far off."""
    chance = random.Random(seed)
    return [level * math.exp(chance.gauss(0, deviation * (4 if heavy and chance.random() < 0.1 else 1))) for level in levels]


@pytest.mark.parametrize("heavy", [False, True])
def test_injected_steps_of_thirty_commits_are_found_where_they_are_and_no_other(heavy: bool) -> None:
    """+5 % at 9, −4 % at 16, +6 % at 23, noise .8 %, or .4 % with one figure in ten four times as far off."""
    levels, exact = [1.0] * 9 + [1.05] * 7 + [1.008] * 7 + [1.068] * 7, 0
    for seed in range(20):
        found = changes.changes(ratios(levels, 0.004 if heavy else 0.008, seed, heavy))
        assert len(found) == 3
        for change, at, size in zip(found, (9, 16, 23), (0.05, -0.04, 0.06), strict=True):
            assert abs(change.at - at) <= 2
            assert change.size == pytest.approx(size, abs=0.02)
            exact += change.at == at
    assert exact >= 50


def test_a_step_of_five_percent_shows_after_three_commits() -> None:
    """At 1 % noise, the level before known from 20 commits: found in 95 of 100."""
    found = [changes.changes(ratios([1.0] * 20 + [1.05] * 3, 0.01, seed)) for seed in range(100)]
    assert sum(any(abs(change.at - 20) <= 1 for change in changed) for changed in found) >= 90


def test_a_creeping_loss_shows() -> None:
    levels = [1.0 * 1.01 ** (month // 5) for month in range(40)]  # 1 % every five commits
    found = changes.changes(ratios(levels, 0.004, 1))
    assert found
    assert sum(change.size for change in found) > 0.04


@pytest.mark.parametrize("heavy", [False, True])
def test_of_flat_series_fewer_than_one_in_200_is_called_changed(heavy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "SMALLEST", 0.0)
    assert sum(bool(changes.changes(ratios([1.0] * 30, 0.01, seed, heavy))) for seed in range(1000)) < 5


def test_what_is_too_short_small_or_not_positive() -> None:
    assert changes.changes([1.0, 1.0, 2.0, 2.0, 2.0]) == []
    assert changes.changes([]) == []
    assert changes.changes([1.0] * 15 + [1.005] * 15) == []
    with pytest.raises(ValueError, match="positive"):
        changes.changes([1.0, 0.0] * 5)


def test_the_partition_is_the_best_of_all() -> None:
    chance = random.Random(5)
    series = np.array([chance.gauss(0, 1) + 3 * (4 < i < 9) for i in range(13)])

    def cost(edges: list[int]) -> float:
        return sum(float(((series[a:b] - series[a:b].mean()) ** 2).sum()) for a, b in pairwise(edges)) + 2.0 * (len(edges) - 2)

    cuts = [[0, *inner, 13] for size in range(4) for inner in combinations(range(1, 13), size)]
    allowed = [edges for edges in cuts if min(b - a for a, b in pairwise(edges)) >= changes.LEAST]
    assert changes.partition(series, 2.0) == min(allowed, key=cost)
    assert len(changes.partition(series, 2.0)) > 2


def test_noise_is_judged_beside_steps_and_outliers() -> None:
    steps = ratios([1.0] * 15 + [1.2] * 15, 0.01, 4)
    assert changes.deviation(np.log(steps)) == pytest.approx(0.01, rel=0.5)
    found = changes.changes([1.0] * 5 + [1.5] * 5)  # without any noise but the step itself
    assert [change.at for change in found] == [5]
    assert found[0].size == pytest.approx(0.5)


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """asv's results of 30 commits, with a step of 6 % at the 20th."""
    newest = [f"{number:08x}{'0' * 32}" for number in range(30)]
    monkeypatch.setattr(command, "git", lambda *args, otherwise: "\n".join(newest) if args[0] == "rev-list" else "a subject")
    folder = tmp_path / "results"
    (folder / "machine").mkdir(parents=True)
    (folder / "machine" / "machine.json").write_text(json.dumps({"machine": "machine", "version": 1}))
    params = [["'8x16-f32-fwd'", "'1024x512-f32-train'"]]
    benchmark = {"name": history.BENCHMARK, "params": params, "version": "1 pinned"}
    (folder / "benchmarks.json").write_text(json.dumps({history.BENCHMARK: benchmark, "version": 2}))
    stepped, flat = ratios([1.0] * 20 + [1.06] * 10, 0.005, 2), ratios([1.0] * 30, 0.005, 3)
    for place, commit in enumerate(newest):
        columns = ["result", "params", "version"]
        result = {history.BENCHMARK: [[stepped[place], flat[place]], params, "1 pinned"]}
        file = {"commit_hash": commit, "params": {"torch": "2.13.0"}, "result_columns": columns, "results": result}
        (folder / "machine" / f"{commit[:8]}-env.json").write_text(json.dumps(file))
    monkeypatch.setattr(command, "ASV_RESULTS", folder)
    return newest


def test_the_command_names_commit_case_and_size(stored: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history"]) == 1
    out = capsys.readouterr().out
    assert stored[20][:8] in out
    assert "8x16-f32-fwd" in out
    assert "1024x512-f32-train" not in out
    assert "2 series of up to 30 commits: 1 slowdown, 0 speed-ups." in out
    assert main(["history", "--case", "1024x512-f32-train"]) == 0


def test_an_empty_history_is_no_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "ASV_RESULTS", tmp_path)
    assert main(["history"]) == 2
    assert "no time is stored beside the pinned version" in capsys.readouterr().err


def test_a_broken_result_is_named(stored: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = next((tmp_path / "results" / "machine").glob("*-env.json"))
    broken.write_text("{")
    assert main(["history"]) == 2
    assert broken.name in capsys.readouterr().err


@pytest.mark.history
def test_the_pinned_version_is_laid_out_once_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned, "PINNED", tmp_path / "pinned")
    monkeypatch.setattr(pinned, "COMMIT", tmp_path / "pinned" / "commit")
    monkeypatch.setattr(pinned, "REVISIONS", ("v-none", "HEAD"))
    assert pinned.lay_out() is None
    marker = tmp_path / "pinned" / "taildropout" / "layer.py"
    written = marker.stat().st_mtime_ns
    assert pinned.lay_out() is None
    assert marker.stat().st_mtime_ns == written
    monkeypatch.setattr(suite, "PINNED", tmp_path / "pinned")
    monkeypatch.setattr(suite, "COMMIT", tmp_path / "pinned" / "commit")
    suite.pinned.cache_clear()
    samples: Any = suite.Pinned().track_over_pinned("8x16-f32-fwd")["samples"]
    suite.pinned.cache_clear()
    assert 0.3 < sorted(samples)[len(samples) // 2] < 3


def test_without_the_pinned_version_figures_are_not_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "COMMIT", tmp_path / "commit")
    suite.pinned.cache_clear()
    with pytest.raises(NotAvailable, match="no pinned version"):
        suite.pinned()

    def unknown(revision: str) -> None:
        raise UnknownRevision(revision)

    monkeypatch.setattr(pinned, "resolve", unknown)
    assert "lacks the pinned version" in (pinned.lay_out() or "")
