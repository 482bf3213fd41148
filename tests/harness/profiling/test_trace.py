"""Traces: TensorBoard's plugin and Perfetto read them, the table is made from them, and a failure leaves no file behind."""

import contextlib
import gzip
import importlib.util
import io
import json
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

import pytest
import torch
from own_warnings import own_lines
from profiling.test_events import assert_nested
from rich.console import Console

from benchmarks import ROOT
from benchmarks import __main__ as command
from benchmarks.commands import trace as trace_command
from benchmarks.profiling import table, trace
from benchmarks.profiling.events import OUTSIDE, Operator, is_step, operators, read
from benchmarks.results import recording
from benchmarks.suite.cases import CASES
from benchmarks.system.git import git

CASE = "1024x512-f32-train"
RUNS = ["TailDropout", "nn.Dropout"]
Capture: TypeAlias = pytest.CaptureFixture[str]
Patch: TypeAlias = pytest.MonkeyPatch


@pytest.fixture(autouse=True, scope="module")
def in_this_process() -> Iterator[None]:
    """Keep a command from restarting itself in a new process, and restore the environment afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording, "with_environment", lambda: None)
        patch.setenv("KINETO_LOG_LEVEL", "6")
        patch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")
        yield


def run(*args: str) -> str:
    """Run the command in this process and return what it prints; assert that it prints no error."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = command.main(["trace", *args])
    assert (code, own_lines(errors.getvalue())) == (0, []), errors.getvalue()
    return out.getvalue()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Trace one case; return the folder and the printed text."""
    out = tmp_path_factory.mktemp("traces") / "new" / "folder"
    return out, run(CASE, "--out", str(out))


def events(out: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read(out / name)["traceEvents"]
    return found


def test_each_side_is_a_run_with_one_worker(traced: tuple[Path, str]) -> None:
    out, _ = traced
    assert sorted(path.name for path in out.iterdir()) == RUNS
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name]
    for name in RUNS:
        (file,) = (out / name).iterdir()
        assert file.name.startswith(f"{name}.")
        assert file.name.endswith(".pt.trace.json")


@pytest.mark.parametrize("name", RUNS)
def test_a_trace_is_what_perfetto_reads(traced: tuple[Path, str], name: str) -> None:
    """Perfetto counts as errors what lacks a number for its time, and misplaces slices of a thread that do not nest."""
    found = events(traced[0], name)
    assert len(found) > 100
    for event in found:
        assert isinstance(event["name"], str)
        assert event["ph"] in "XisfM"
        assert {"pid", "tid"} <= event.keys()
        if event["ph"] != "M":
            assert math.isfinite(event["ts"])
        assert (event["ph"] == "X") == ("dur" in event)
    assert_nested(found)


def test_a_trace_holds_steps_shapes_memory_stacks_and_modules(traced: tuple[Path, str]) -> None:
    for name, module in zip(RUNS, ("TailDropout_0", "Dropout_0"), strict=True):
        content = read(traced[0] / name)
        assert all(content[each] == 1 for each in ("record_shapes", "profile_memory", "with_stack", "with_modules"))
        found = content["traceEvents"]
        assert sum(map(is_step, found)) == trace.STEPS
        first = next(event for event in found if event["name"] in ("_KeepFirst", "aten::dropout"))
        assert first["args"]["Input Dims"][0] == [1024, 512]
        assert any(event["name"] == "[memory]" for event in found)
        assert any(event.get("cat") == "python_function" and "torch/autograd" in event["name"] for event in found)
        assert any(event["name"] == f"nn.Module: {module}" for event in found)


def test_the_table_shows_both_sides(traced: tuple[Path, str]) -> None:
    _, printed = traced
    for expected in ("TailDropout: calls", "nn.Dropout: calls", "_KeepFirstBackward", "aten::bernoulli_", OUTSIDE, "4 MiB"):
        assert expected in printed
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for line in printed.splitlines()
        if (cells := line.split("│"))[1:]
    }
    assert rows["_KeepFirst"][0] == "1"
    assert rows["_KeepFirst"][3:] == ["", "", ""]
    assert rows["aten::bernoulli_"][:3] == ["", "", ""]
    assert rows["aten::bernoulli_"][3] == "1"


@pytest.mark.skipif(not importlib.util.find_spec("torch_tb_profiler"), reason="torch-tb-profiler is not installed")
def test_tensorboard_shows_the_runs_and_their_operators(traced: tuple[Path, str], tmp_path: Path) -> None:
    out, printed = traced
    for get in tensorboard(printed, tmp_path):
        deadline = time.monotonic() + 60
        while (listed := get("runs"))["loading"] or len(listed["runs"]) < len(RUNS):  # one run after the other turns up
            assert time.monotonic() < deadline, "the plugin loads for ever"
            time.sleep(0.1)
        assert listed["runs"] == RUNS
        for name in RUNS:
            assert get("workers", run=name, view="Overview") == [name]
            assert {"Overview", "Operator", "Trace", "Memory", "Module"} <= set(get("views", run=name))
            where = {"run": name, "worker": name, "span": 1}
            steps = get("overview", **where)["steps"]["rows"]
            assert len(steps) == trace.STEPS
            ours = operators(events(out, name))
            shown = {row["name"]: row for row in get("operation/table", **where, group_by="Operation")["data"]}
            assert ("_KeepFirstBackward" if name == "TailDropout" else "aten::bernoulli_") in shown
            assert shown.keys() == ours.keys() - {OUTSIDE}
            for operator, row in shown.items():
                assert row["calls"] == ours[operator].calls
                assert row["host_self_duration"] == pytest.approx(ours[operator].host, abs=1)  # it shows whole µs
            memory = get("memory", **where)
            column = [column["name"] for column in memory["columns"]].index("Self Allocation Size (KB)")
            for row in memory["rows"]["CPU"]:
                assert row[column] == pytest.approx(ours[row[0]].allocated / 1024, abs=0.01)
            assert len(get("trace", **where)["traceEvents"]) == len(events(out, name))


def tensorboard(printed: str, folder: Path) -> Iterator[Callable[..., Any]]:
    """Start the printed command's server on a free port; return a function that requests a page of the plugin."""
    (line,) = [line for line in printed.splitlines() if "--logdir" in line]
    log = folder / "log"
    with log.open("w") as stream:
        command = [*shlex.split(line), "--host", "127.0.0.1", "--port", "0"]
        server = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream, env={"TMPDIR": str(folder)})
    try:
        deadline = time.monotonic() + 60
        while "(Press CTRL+C" not in (text := log.read_text()):
            assert server.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.1)
        base = next(word for word in text.split() if word.startswith("http://127.0.0.1:"))
        opener = build_opener(ProxyHandler({}))

        def get(page: str, **query: object) -> Any:
            with opener.open(f"{base}data/plugin/pytorch_profiler/{page}?{urlencode(query)}", timeout=30) as answer:
                body = answer.read()
                return json.loads(gzip.decompress(body) if answer.headers.get("Content-Encoding") == "gzip" else body)

        yield get
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.history
def test_the_working_tree_is_traced_beside_a_revision(tmp_path: Path) -> None:
    commit = git("rev-parse", "HEAD")
    printed = run("8x16-f32-fwd", "--against", "HEAD", "--out", str(tmp_path))
    names = ["TailDropout", f"TailDropout-{commit[:8]}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert printed.startswith(f"TailDropout is working tree ({commit[:8]}")
    assert f"{names[1]} is HEAD ({commit[:8]})" in printed
    assert f"{names[1]}: calls" in printed
    head, base = (operators(events(tmp_path, name)) for name in names)
    assert {"aten::exponential_", "aten::masked_fill"} <= head.keys() & base.keys()


@pytest.mark.slow  # a new process imports torch twice: the command restarts itself
def test_the_command_traces_as_a_user_starts_it(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks", "trace", "8x16-f32-fwd", "--out", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, own_lines(done.stderr)) == (0, []), done.stderr
    assert "TailDropout: calls" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == RUNS


def test_the_dearest_operators_of_either_side_come_first() -> None:
    many = {f"op{number}": Operator(1, float(number)) for number in range(40)}
    other = {"dear": Operator(1, 99.0), "op0": Operator(1, 98.0)}
    text = io.StringIO()
    Console(file=text, width=120).print(table.render({"one": many, "other": other}, CASES[CASE]))
    rows = [line.split("│")[1].strip() for line in text.getvalue().splitlines() if line.startswith("│")]
    dearest = [f"op{number}" for number in range(39, 39 - table.ROWS + 2, -1)]
    assert rows == ["dear", "op0", *dearest, "29 others", OUTSIDE, "all"]
    assert "435 µs" in text.getvalue()  # 1 + 2 + … + 29
    assert "780 µs" in text.getvalue()  # 0 + 1 + … + 39


def refused(capsys: Capture, *args: str, code: int = 2) -> str:
    """Return the command's error message."""
    assert command.main(["trace", *args]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_an_unknown_case_names_those_near_it(capsys: Capture, tmp_path: Path) -> None:
    message = refused(capsys, "1024x512-f32-trian", "--out", str(tmp_path / "new"))
    assert "no case '1024x512-f32-trian'; similar names are 1024x512-f32-train" in message
    assert message.count(", ") <= 5
    assert "one that exists is 1024x512-f32-train" in refused(capsys, "@", "--out", str(tmp_path / "new"))
    assert not list(tmp_path.iterdir())


def test_an_unknown_revision_is_refused(capsys: Capture, tmp_path: Path) -> None:
    message = refused(capsys, CASE, "--against", "no-such-branch", "--out", str(tmp_path / "new"))
    assert "Could not trace:" in message
    assert "commit" in message or "no git repository" in message
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_left_alone(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    for out in (tmp_path, tmp_path / "mine"):
        assert "is not empty; give a new or an empty folder" in refused(capsys, CASE, "--out", str(out))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_that_cannot_be_written_is_refused(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written: Not a directory" in refused(capsys, CASE, "--out", str(tmp_path / "file" / "below"))
    if sys.platform == "linux":
        assert "cannot be written" in refused(capsys, CASE, "--out", "/proc/traces")


def test_an_interruption_leaves_nothing(capsys: Capture, tmp_path: Path, monkeypatch: Patch) -> None:
    def interrupted(case: object, side: trace.Side, folder: Path) -> dict[str, Operator]:
        if side.name != "TailDropout":
            raise KeyboardInterrupt
        (folder / side.name).mkdir()
        return {}

    monkeypatch.setattr(trace_command, "trace", interrupted)
    assert "Interrupted." in refused(capsys, CASE, "--out", str(tmp_path / "a" / "b"), code=130)
    assert not list(tmp_path.iterdir())


def test_a_layer_that_fails_is_reported(capsys: Capture, tmp_path: Path, monkeypatch: Patch) -> None:
    import taildropout

    monkeypatch.setattr(taildropout.TailDropout, "forward", lambda self, x: 2 * x)
    message = refused(capsys, "8x16-f32-fwd", "--out", str(tmp_path / "new"))
    assert "TailDropout fails in 8x16-f32-fwd: WrongResult: " in message
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is what the machine of this test lacks")
def test_a_case_that_is_not_available_says_so(capsys: Capture, tmp_path: Path) -> None:
    message = refused(capsys, "cuda-8x16-f32-fwd", "--out", str(tmp_path / "new"))
    assert "cuda-8x16-f32-fwd is n/a: this machine has no CUDA device" in message
    assert not list(tmp_path.iterdir())


def test_the_gpu_is_recorded_where_the_case_runs_on_it(tmp_path: Path, monkeypatch: Patch) -> None:
    from torch.profiler import ProfilerActivity

    from benchmarks.suite import cases

    recorded: list[list[ProfilerActivity]] = []

    def profile(**options: Any) -> None:
        recorded.append(options["activities"])
        raise InterruptedError

    monkeypatch.setattr(torch.profiler, "profile", profile)
    monkeypatch.setattr(cases, "make", lambda *_: lambda: None)
    for name in (CASE, "cuda-8x16-f32-fwd"):
        with pytest.raises(InterruptedError):
            trace.trace(CASES[name], trace.Side("copy", "copy", torch), tmp_path)
    assert recorded == [[ProfilerActivity.CPU], [ProfilerActivity.CPU, ProfilerActivity.CUDA]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_a_case_on_the_gpu_shows_its_kernels(tmp_path: Path) -> None:
    printed = run("cuda-1024x512-f32-train", "--out", str(tmp_path))
    assert "on the GPU" in printed
    for name in RUNS:
        assert any(event.get("cat") == "kernel" for event in events(tmp_path, name))


def test_a_case_of_other_processes_is_refused(capsys: Capture, tmp_path: Path, monkeypatch: Patch) -> None:
    from benchmarks.suite import cases

    monkeypatch.setattr(cases, "make", lambda *_: lambda: None)
    message = refused(capsys, "ddp-2-gloo-f32-step", "--out", str(tmp_path / "new"))
    assert "ran no operator here: it works in other processes" in message
    assert not list(tmp_path.iterdir())


def test_the_default_folder_is_written_anew_and_ignored_by_git(capsys: Capture, tmp_path: Path, monkeypatch: Patch) -> None:
    assert trace_command.TRACES.relative_to(ROOT).parts[0] == ".asv"
    monkeypatch.setattr(trace_command, "TRACES", tmp_path)
    (tmp_path / CASE / "former").mkdir(parents=True)

    def fake(case: object, side: trace.Side, folder: Path) -> dict[str, Operator]:
        (folder / side.name).mkdir()
        assert (tmp_path / CASE / "former").exists()
        return {"op": Operator(1, 1.0)}

    monkeypatch.setattr(trace_command, "trace", fake)
    assert command.main(["trace", CASE, "--against", "copy"]) == 0
    assert sorted(path.name for path in (tmp_path / CASE).iterdir()) == ["TailDropout", "copy"]
    assert "TailDropout and copy are in" in capsys.readouterr().out
