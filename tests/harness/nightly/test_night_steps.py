"""The steps of a night: the commands that they run, and how their outcomes are read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from nightly.nights import CASE, SUITE

from benchmarks import __main__ as command
from benchmarks.commands import nightly
from benchmarks.gate.rule import FAILED, PASS, REGRESSED, UNSTABLE
from benchmarks.nightly.state import VOID, Outcome
from benchmarks.nightly.steps import real_steps
from benchmarks.system import process_group


class FakeCommands:
    """Replaces the commands of the steps: the exit code, standard error and files to produce, and the calls so far."""

    def __init__(self) -> None:
        self.code, self.stderr = 0, "Nothing was measured on abc\nand more"
        self.files: dict[str, str] = {}  # by the option that names the file
        self.calls: list[list[str]] = []

    def run(self, args: Sequence[str], seconds: float, cwd: Path, **environment: str) -> tuple[int, str]:
        self.calls.append([*args])
        for option, text in self.files.items():
            Path(args[args.index(option) + 1]).write_text(text)
        return self.code, self.stderr


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> FakeCommands:
    """Fake commands that succeed, until a test changes that."""
    fake = FakeCommands()
    monkeypatch.setattr(process_group, "run", fake.run)
    return fake


def test_a_step_that_fails_says_why(commands: FakeCommands, tmp_path: Path) -> None:
    steps = real_steps(tmp_path, "cuda", [CASE])
    assert steps.measure("abc", 60).verdict == PASS
    assert commands.calls[0][3:] == ["run", "abc", "--case", CASE, "--device", "cuda"]
    commands.code = 2
    for outcome in (steps.measure("abc", 60), steps.gate("a", "b", 60), steps.publish(60)):
        assert outcome.verdict == FAILED
        assert outcome.line.endswith(": Nothing was measured on abc")
        assert "and more" in outcome.markdown
    canary = steps.canary("abc", 60)
    assert (canary.verdict, canary.line) == (VOID, "canary: Nothing was measured on abc")
    commands.stderr = ""
    assert steps.publish(60).line == "dashboard: exit code 2 without a message"
    assert steps.law is None


@pytest.mark.parametrize(("verdict", "expected"), [("REGRESSED", REGRESSED), ("UNSTABLE", UNSTABLE), ("INCOMPARABLE", FAILED)])
def test_the_verdict_of_the_gate_is_read_from_its_files(
    commands: FakeCommands, tmp_path: Path, verdict: str, expected: str
) -> None:
    row: dict[str, Any] = {"case": CASE, "signal": "time", "verdict": verdict, "change": 0.09, "note": ""}
    rows = [row, row | {"signal": "bytes", "change": None, "note": "0 → 8"}]
    stored = {"version": 1, "verdict": verdict, "line": f"{verdict}: a line", "rows": rows, "processes": [1], "seed": 3}
    commands.code, commands.files = 1, {"--json": json.dumps(stored), "--junit": SUITE, "--markdown": "a table"}
    outcome = real_steps(tmp_path, "cpu").gate("a", "b", 100)
    line = "a line" if expected == verdict else "INCOMPARABLE: a line"
    assert (outcome.verdict, outcome.line, outcome.markdown, outcome.junit) == (expected, line, "a table", SUITE)
    assert outcome.slower == ({CASE: "time +9.0%, bytes 0 → 8"} if verdict == REGRESSED else {})
    assert set(outcome.shown["verdict.json"]) == {"version", "verdict", "line", "rows"}
    assert commands.calls[0][commands.calls[0].index("--budget") + 1] == "85s"


def test_the_result_of_the_canary_is_read_from_its_file(commands: FakeCommands, tmp_path: Path) -> None:
    commands.code, commands.files = 1, {"--json": '{"line": "not seen"}'}
    assert real_steps(tmp_path, "cpu").canary("abc", 60) == Outcome(VOID, "not seen")
    commands.code = 0
    assert real_steps(tmp_path, "cpu").canary("abc", 60).verdict == PASS


def test_a_missing_device_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nightly, "has_cuda", lambda: False)
    assert command.main(["nightly", "--device", "cuda"]) == 2
    assert "torch finds no CUDA device" in capsys.readouterr().err


def test_a_case_of_another_device_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["nightly", "--device", "cuda", "--case", CASE]) == 2
    assert "none of these cases is for --device cuda" in capsys.readouterr().err
