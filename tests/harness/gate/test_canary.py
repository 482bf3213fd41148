"""The canary: a slowdown of known size counts as seen if the gate calls it slower by about that size."""

import json
from pathlib import Path

import pytest

from benchmarks import workload
from benchmarks.__main__ import main
from benchmarks.commands import canary as command
from benchmarks.gate import canary
from benchmarks.gate.report import Row
from benchmarks.gate.rule import FAILED, PASS, REGRESSED
from benchmarks.suite.cases import CASES


@pytest.mark.parametrize(
    ("verdict", "change", "seen"),
    [(REGRESSED, 0.1, True), (REGRESSED, 0.049, False), (REGRESSED, 0.21, False), (PASS, 0.1, False), (FAILED, None, False)],
)
def test_a_canary_is_seen_if_it_is_called_slower_by_about_what_was_injected(
    verdict: str, change: float | None, seen: bool
) -> None:
    rows = [Row("one", "time", REGRESSED, change=0.1), Row("two", "time", verdict, change=change)]
    assert canary.unseen(rows) == ([] if seen else ["two"])
    assert ("not seen" in canary.canary_line(rows, canary.unseen(rows))) != seen


def test_every_canary_is_a_case_of_its_device() -> None:
    assert {device: {CASES[name].device for name in cases} for device, cases in workload.CANARY.items()} == {
        "cpu": {"cpu"},
        "cuda": {"cuda"},
    }


def test_the_command_says_what_the_gate_saw(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Row("one", "time", REGRESSED, change=0.1)]
    asked = []
    monkeypatch.setattr(command, "judge_canary", lambda *words: asked.append(words) or rows)
    assert main(["canary", "--json", str(tmp_path / "found.json")]) == 0
    assert json.loads((tmp_path / "found.json").read_text())["line"].endswith("and seen: one REGRESSED +10.0%.")
    assert {slowdown.effect for slowdown in asked[0][1].values()} == {canary.EFFECT}
    rows[:] = [Row("one", "time", PASS, change=0.0)]
    assert main(["canary"]) == 1
    assert "and not seen: one PASS" in capsys.readouterr().out
