"""asv's results are read whole, or the broken file is named."""

import json
import math
from pathlib import Path

import pytest
import synthetic

from benchmarks.results import series
from benchmarks.results.stored import BrokenResult, Entry, Figure

CASE, COPY = "8x16-f32-fwd", "speed.Ratio.track_over_copy"


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, dict[str, int], list[Path]]:
    """Two commits measured, in asv's form; the folder and the order of the commits."""
    commits = ["a" * 40, "b" * 40]
    files = synthetic.measure(tmp_path, commits)
    return tmp_path / ".asv" / "results", {commit: place for place, commit in enumerate(commits)}, files


def test_series_are_read_oldest_commit_first(stored: tuple[Path, dict[str, int], list[Path]]) -> None:
    folder, order, _ = stored
    (found,), lost = series.read_all(folder, {commit: -place for commit, place in order.items()})
    assert (found.machine, found.torch, list(found.commits), lost) == (synthetic.MACHINE, "2.13.0", [*reversed(order)], set())
    assert set(found.tried()) == set(synthetic.CASES)
    spread = found.commits["a" * 40][Entry(COPY, (f"'{CASE}'",))].spread()
    assert spread is not None
    assert spread[1] < spread[0] < spread[2]
    assert Figure(math.nan).spread() is None
    assert Figure(None).spread() is None
    assert Figure(2.0, None, math.nan).spread() == (2.0, 2.0, 2.0)


def test_a_commit_that_is_no_longer_in_the_history_is_lost_not_shown(stored: tuple[Path, dict[str, int], list[Path]]) -> None:
    folder, order, _ = stored
    (found,), lost = series.read_all(folder, {"a" * 40: 0})
    assert list(found.commits) == ["a" * 40]
    assert lost == {"b" * 40}
    assert series.read_all(folder, {}) == ([], set(order))


def test_what_was_measured_last_counts_and_another_version_does_not(stored: tuple[Path, dict[str, int], list[Path]]) -> None:
    folder, order, (file, _) = stored
    again = json.loads(file.read_text())
    name = "speed.Ratio.track_over_copy"
    again["results"] = {name: [[7.0] * 6, again["results"][name][1], "1", 9e15, 1, *[[7.0] * 6] * 4]}
    other = file.with_name(file.name.replace("env", "aaa"))  # sorted before the first, and measured after it
    other.write_text(json.dumps(again))
    entry = Entry(name, (f"'{CASE}'",))
    assert series.read_all(folder, order)[0][0].commits["a" * 40][entry].value == 7.0
    again["results"][name][2] = "2"
    other.write_text(json.dumps(again))
    assert series.read_all(folder, order)[0][0].commits["a" * 40][entry].value != 7.0


def broken(text: str) -> list[str]:
    """A result file with one fault each."""
    whole = json.loads(text)
    faults = [{"results": []}, {"results": {COPY: [["x"], [], "1"]}}, {"params": None}, {"commit_hash": "f" * 40}]
    return [text[: len(text) // 2], "", "[]", "{}", *(json.dumps(whole | fault) for fault in faults)]


@pytest.mark.parametrize("number", range(8))
def test_a_broken_result_is_named_with_the_command_that_makes_it_anew(
    stored: tuple[Path, dict[str, int], list[Path]], number: int
) -> None:
    folder, order, (file, _) = stored
    file.write_text(broken(file.read_text())[number])
    with pytest.raises(BrokenResult, match=rf"{file.name} .*python -m benchmarks run aaaaaaaa"):
        series.read_all(folder, order)


@pytest.mark.parametrize("name", ["benchmarks.json", f"{synthetic.MACHINE}/machine.json"])
def test_what_describes_the_results_must_be_whole_too(stored: tuple[Path, dict[str, int], list[Path]], name: str) -> None:
    folder, order, _ = stored
    for content in ('{"x": ', "[]", '{"machine": {}}'):
        (folder / name).write_text(content)
        with pytest.raises(BrokenResult, match=Path(name).name):
            series.read_all(folder, order)
    (folder / name).unlink()
    with pytest.raises(BrokenResult, match="is missing"):
        series.read_all(folder, order)


def test_nothing_stored_is_no_series(tmp_path: Path) -> None:
    assert series.read_all(tmp_path, {}) == ([], set())
