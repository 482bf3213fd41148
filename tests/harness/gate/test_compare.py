"""The command: it says how long it takes, stores what it found, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gate.edits import SMALL
from gate.interrupts import heed_interrupts

from benchmarks import ROOT, workload
from benchmarks.__main__ import main
from benchmarks.commands import compare
from benchmarks.gate import counters, estimate
from benchmarks.gate import report as gate_report
from benchmarks.gate.measuring import Comparison
from benchmarks.gate.report import Row
from benchmarks.gate.rule import LOOKS, PASS
from benchmarks.gate.versions import Version
from benchmarks.gate.workload import Injectable
from benchmarks.results import choice

pytestmark = pytest.mark.history


@pytest.fixture
def small_case(pure: Injectable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command compare versions of the package without torch, whose processes take a tenth of a second."""
    monkeypatch.setattr(compare, "workload", pure)
    monkeypatch.setattr(choice, "select", lambda *_: ["small"])


def assert_stored(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> dict[str, Any]:
    """Run the command, assert that it stores and prints the rounds and the verdict of one case; return what it stored."""
    monkeypatch.setattr(compare, "VERDICT", folder / "verdict.json")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    monkeypatch.setattr(counters, "available", lambda: None)
    files = {name: folder / name for name in ("json", "junit")}
    code = main(["compare", *words, *[f"--{name}={file}" for name, file in files.items()]])
    stored: dict[str, Any] = json.loads(files["json"].read_text())
    assert code == gate_report.EXIT[stored["verdict"]]
    assert json.loads((folder / "verdict.json").read_text())["line"] == stored["line"]
    times = [each for each in stored["processes"] if each["what"] == "time"]
    assert len(times) >= LOOKS[0]
    assert all(len(each["found"][0]["head"]) >= 9 for each in times)
    assert stored["environment"]["OMP_NUM_THREADS"] == "1"
    out = capsys.readouterr().out
    assert stored["line"] in out.replace("\n", " ")
    assert out.index("1 case. It takes about ") < out.index("exact counts: 1 process")
    assert stored["line"] in (folder / "summary.md").read_text()
    return stored


@pytest.mark.usefixtures("small_case")
def test_the_command_stores_rounds_and_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = assert_stored(tmp_path, monkeypatch, capsys, ["v1", "v2"])
    assert [stored[side]["label"] for side in ("base", "head")] == ["v1", "v2"]
    assert stored["base"]["commit"] != stored["head"]["commit"]


@pytest.mark.slow  # half a minute: each process imports torch
def test_the_command_measures_the_working_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = assert_stored(tmp_path, monkeypatch, capsys, ["HEAD", "--case", SMALL])
    assert {stored["base"]["commit"], stored["head"]["commit"]} == {stored["base"]["commit"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such-commit"], "names no commit here"),
        (["HEAD", "--case", "8x16-f32-fwdd"], "similar names are 8x16-f32-fwd"),
        (["HEAD", "--threshold", "5"], "is not between 0 and 1"),
        (["HEAD", "--device", "cpu", "--case", "cuda-8x16-f32-fwd"], "none of these cases runs on cpu"),
        (["HEAD", "--device", "cuda"], "torch finds no CUDA device"),
        (["HEAD", "--case", "cuda-8x16-f32-fwd"], "torch finds no CUDA device"),
        (["HEAD", "--case", SMALL, "--json", "/dev/null/x"], "--json=/dev/null/x cannot be written"),
    ],
)
def test_what_cannot_be_measured_says_why(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compare, "VERDICT", tmp_path / "verdict.json")
    monkeypatch.setattr(compare, "compare", lambda *_: [Row("case", "time", PASS)])
    monkeypatch.setattr(choice, "has_cuda", lambda: False)
    assert main(["compare", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["10", "0m", "m", "1d"])
def test_a_budget_that_is_no_time_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["compare", "HEAD", "--budget", text])
    assert "write 90s, 10m or 1h" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        (float("inf"), "It takes about 4 min, 17 min at most where versions differ or the machine is noisy."),
        (300.0, "It takes about 4 min, 5 min at most where versions differ or the machine is noisy."),
        (40.0, "It would take about 4 min, of which the budget leaves 40 s."),
    ],
)
def test_the_duration_is_said_in_words(budget: float, sentence: str) -> None:
    assert estimate.Duration(240.0, 1020.0).sentence(budget) == sentence


def test_the_time_for_instructions_is_said() -> None:
    said = estimate.Duration(240.0, 240.0, 30.0).sentence()
    assert said == "It takes about 4 min (30 s of it to count instructions)."


def test_more_cases_take_longer_and_so_do_instructions(base: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = Comparison(workload, base, base, tmp_path)
    monkeypatch.setattr(counters, "available", lambda: None)
    one, two = (estimate.estimate_duration(comparison, [SMALL, "1024x512-f32-train"][:count]) for count in (1, 2))
    assert one.usual < two.usual < two.most
    monkeypatch.setattr(counters, "available", lambda: counters.CALLGRIND)
    assert estimate.estimate_duration(comparison, [SMALL, "1024x512-f32-train"]).usual > two.usual


@pytest.mark.usefixtures("small_case")
def test_ctrl_c_ends_the_processes_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, in the middle of a measurement that would take a minute."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    draw, started = Comparison.draw, list[Path]()

    def interrupted(self: Comparison, names: Sequence[str], count: int) -> dict[str, list[float]] | None:
        work = self.head.folder / self.workload.package / "work.py"
        work.write_text(f"import time\ntime.sleep(60)\n{work.read_text()}")

        def interrupt() -> None:
            while not (found := measuring(tmp_path)) and time.monotonic() < deadline:
                time.sleep(0.02)
            started.extend(found)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        return draw(self, names, count)

    monkeypatch.setattr(Comparison, "draw", interrupted)
    deadline = time.monotonic() + 20
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = main(["compare", "v1", "v2"])
    finally:
        signal.signal(signal.SIGINT, former)
    assert code == 130
    assert "Interrupted" in capsys.readouterr().err
    assert started
    assert_nothing_left(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_ends_its_processes_and_leaves_no_folder(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "benchmarks", "compare", "HEAD", "--case", SMALL]
    env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=env, **pipes, preexec_fn=heed_interrupts)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("exact counts"):
            break
    time.sleep(1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted" in errors
    assert_nothing_left(tmp_path)


def assert_nothing_left(folder: Path) -> None:
    """Assert that a comparison in `folder` left no file there, and no process after a while."""
    assert list(folder.iterdir()) == []
    deadline = time.monotonic() + 20  # a killed process may take a moment to go
    while measuring(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert measuring(folder) == []


def measuring(folder: Path) -> list[Path]:
    """Return the gate's worker processes of a comparison in `folder`."""
    there = Path("/proc").glob("[0-9]*/cmdline")
    return [
        file
        for file in there
        if b"benchmarks.gate.worker" in read(file) and str(folder).encode() in read(file.with_name("environ"))
    ]


def read(file: Path) -> bytes:
    """Return the content of a file in /proc, or b"" if the process has ended."""
    try:
        return file.read_bytes()
    except OSError:
        return b""
