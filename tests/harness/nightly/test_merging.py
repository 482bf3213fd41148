"""Merging two folders of results: every figure of either folder is kept."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.nightly.merging import combine, merge

NAME = "01234567-env.json"
COLUMNS = ["result", "params", "version", "started_at", "stats_q_25"]


def result_text(**results: list[Any]) -> str:
    """Return a result file as asv writes it."""
    return json.dumps({"params": {"machine": "here"}, "result_columns": COLUMNS, "results": results})


def test_each_text_fills_the_gaps_of_the_other_and_the_first_one_wins() -> None:
    first = result_text(both=[[1.0, None, None], [["a", "b", "c"]], "1"], mine=[[5.0], [], "1"])
    second = result_text(both=[[2.0, 3.0, None], [["a", "b", "c"]], "1", 7, [1.9, 2.9, None]], yours=[[6.0], [], "1"])
    results = json.loads(combine(NAME, first, second))["results"]
    assert results["both"] == [[1.0, 3.0, None], [["a", "b", "c"]], "1", None, [None, 2.9, None]]
    assert (results["mine"], results["yours"]) == ([[5.0], [], "1"], [[6.0], [], "1"])
    assert combine(NAME, first, first) == first


@pytest.mark.parametrize("other", [[[2.0], [["z"]], "1"], [[2.0], [], "2"], [None, [], "1"]])
def test_figures_of_another_benchmark_with_the_same_name_are_not_mixed_in(other: list[Any]) -> None:
    first = result_text(both=[[None], [], "1"])
    assert json.loads(combine(NAME, first, result_text(both=other)))["results"]["both"] == [[None], [], "1"]


def test_of_files_that_hold_no_figures_the_first_valid_one_is_taken() -> None:
    assert combine("machine.json", '{"a": 1}', '{"a": 2}') == '{"a": 1}'
    assert combine("machine.json", "{", '{"a": 2}') == '{"a": 2}'
    assert combine(NAME, "{", result_text()) == result_text()
    first = result_text(a=[[1], [], "1"])
    assert combine(NAME, first, result_text().replace("here", "there")) == first


@pytest.mark.parametrize("prefer_source", [True, False])
def test_a_merge_keeps_the_files_of_both_folders(tmp_path: Path, prefer_source: bool) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder, value in ((source, 1.0), (target, 2.0)):
        (folder / "here").mkdir(parents=True)
        (folder / "here" / NAME).write_text(result_text(a=[[value], [], "1"]))
        (folder / f"{folder.name}.json").write_text("{}")
    assert merge(source, target, tmp_path / "aside", prefer_source) == []
    merged = json.loads((target / "here" / NAME).read_text())["results"]
    assert merged["a"][0] == [1.0 if prefer_source else 2.0]
    assert {file.name for file in target.glob("*.json")} == {"source.json", "target.json"}
    assert not (source / "target.json").exists()
