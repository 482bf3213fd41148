"""What a record holds beside times, and that it is made in an environment that has hardly anything."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from own_warnings import own_lines
from rich.console import Console
from torch._dynamo.utils import counters

import taildropout
from benchmarks import ROOT
from benchmarks import __main__ as main_command
from benchmarks.results import recording, records
from benchmarks.suite import compilation, measure
from benchmarks.suite.cases import CASES, Case, layer, make

# Stands for an environment with torch, Triton, numpy and rich alone.
BARE = """
import sys
MISSING = {"asv", "asv_runner", "scipy", "jinja2", "tensorboard", "matplotlib", "pytest", "virtualenv"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Return a folder with the package and the benchmarks, but without a git history."""
    for name in ("benchmarks", "taildropout"):
        source = ROOT / name if name == "benchmarks" else Path(taildropout.__file__).parent
        shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("records", "__pycache__"))
    (tmp_path / "sitecustomize.py").write_text(BARE)
    return tmp_path


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the command in that folder, without git and without a network."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PATH": "", "TAILDROPOUT_COMMIT": "0123abcd" * 5}
    command = [sys.executable, "-m", "benchmarks", "record", *args]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_a_record_is_made_without_asv_git_and_a_network(bare: Path) -> None:
    done = run(bare, "--device", "cpu", "--case", "8x16-f32-fwd", "--seconds", "0.05")
    assert done.returncode == 0, done.stderr
    assert "8x16-f32-fwd: measured" in done.stdout
    assert "commit 0123abcd" in " ".join(done.stdout.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is what the machine of this test lacks")
def test_without_a_gpu_a_record_of_one_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recording, "with_environment", lambda: None)
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    assert main_command.main(["record", "--device", "cuda"]) == 2
    assert own_lines(capsys.readouterr().err) == ["Could not measure: torch finds no CUDA device"]
    assert not list(tmp_path.iterdir())


def test_bandwidth_is_a_share_of_the_copys() -> None:
    seconds = {"TailDropout": 0.75, "copy": 1.0}
    case = CASES["cuda-16384x4096-f32-fwd"]
    size = 16384 * 4096 * 4
    assert recording.bandwidth(case, seconds) == {"bytes a second of copy": recording.rounded(2 * size), "share of it": 1.0}
    train = recording.bandwidth(CASES["cuda-16384x4096-bf16-train"], {"TailDropout": 3.0, "copy": 1.0})
    assert train == {"bytes a second of copy": recording.rounded(size), "share of it": 0.5}
    fixed = recording.bandwidth(CASES["cuda-16384x4096-f32-set_k"], {"TailDropout": 1.0, "copy": 1.0})
    assert fixed["share of it"] == pytest.approx((1 + 1365 / 4096) / 2, rel=1e-3)
    for name in ("cuda-8x16-f32-fwd", "cuda-16384x4096-f32-fwd-compiled", "cuda-block-bf16-train-compiled"):
        assert recording.bandwidth(CASES[name], seconds) == {}


def test_costs_are_counted() -> None:
    case = CASES["1024x512-f32-train"]
    found = recording.costs(case, make(case, taildropout), taildropout)
    assert 1024 * 4 <= found["saved bytes"] <= 1024 * 16
    assert found["peak bytes"] >= 1024 * 512 * 4
    assert recording.costs(CASES["mlp-f32-step"], lambda: None, taildropout) == {}


def test_compiling_is_part_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(layer, "compiled", lambda case, module: torch.compile(module, backend=backend))
    for calls in (1, 2):
        assert compilation.seconds(Case("case", (64, 32), mode="default"), taildropout) > 0
        assert len(compiled) == calls


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.filterwarnings("ignore")  # inductor's own
def test_a_compiled_case_is_timed_from_nothing() -> None:
    case = Case("case", (64, 32), mode="default")
    compilation.seconds(case, taildropout)
    make(case, taildropout)  # leaves it in the caches
    before = dict(counters["inductor"])
    assert compilation.seconds(case, taildropout) > 0
    assert counters["inductor"]["fxgraph_cache_hit"] == before.get("fxgraph_cache_hit", 0), "a cache was read"
    assert counters["inductor"]["fxgraph_cache_miss"] == before["fxgraph_cache_miss"] + 1


GOALS = {
    "cuda-8x16-f32-fwd": (1.2, None),
    "cuda-8x16-f32-train": (1.2, None),
    "cuda-8x16-f32-fwd-graph": (1.0, None),
    "cuda-16384x4096-f32-fwd": (None, 0.8),
    "cuda-16384x4096-bf16-fwd": (None, 0.8),
    "cuda-16384x4096-f32-train": (0.6, None),
    "cuda-16384x4096-bf16-train": (0.6, None),
    "cuda-block-bf16-train-compiled": (None, 1.02),
}


def test_the_goals_of_a_gpu_are_set_on_tensors_past_its_cache() -> None:
    assert {name: CASES[name].goal for name in GOALS} == GOALS
    for case in CASES.values():
        if case.device == "cuda" and case.model == "layer" and any(case.goal) and case.numel > 2**17:
            assert case.numel * (4 if case.dtype == "f32" else 2) >= recording.PAST_CACHE


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_case_of_a_gpu_is_recorded_with_its_costs() -> None:
    found = recording.measure_case("cuda-16384x4096-f32-train", taildropout, 0.2)
    assert {"launches", "saved bytes", "peak bytes", "share of it"} <= set(found["costs"])
    assert set(found["seconds"]) == {"TailDropout", "nn.Dropout", "copy", "original"}
    block = measure.on_cuda()(lambda: torch.ones(10**8, device="cuda"), 3)
    assert block > 1e5


def test_a_case_that_breaks_is_a_failure_and_nothing_is_stored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = "8x16-f32-fwd"
    found = recording.measure([case, "cuda-8x16-f32-fwd"], taildropout, 0.02, Console(quiet=True))
    assert set(found[case]["seconds"]) == {"TailDropout", "nn.Dropout", "copy", "original"}
    median, low, high = found[case]["ratio"]["nn.Dropout"]
    assert 0 < low <= median <= high
    from benchmarks.suite import cases

    monkeypatch.setattr(cases, "make", lambda *_: 1 / 0)
    broken = recording.measure_case(case, taildropout, 0.02)
    assert broken["note"] == "failed"
    assert "ZeroDivisionError" in broken["error"]
    monkeypatch.setattr(recording, "with_environment", lambda: None)
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    assert main_command.main(["record", "--case", case]) == 1
    assert "Nothing is stored, since a case failed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seconds", ["0", "-1", "inf", "nan"])
def test_a_time_that_cannot_be_measured_for_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_command.main(["record", f"--seconds={seconds}"]) == 2
    assert "not a time to measure for; give a number above 0" in capsys.readouterr().err
