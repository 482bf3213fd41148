"""What a record holds beside times, and that it is made in an environment that has hardly anything."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ours import own_lines
from torch._dynamo.utils import counters

import taildropout
from benchmarks import ROOT
from benchmarks.results import record
from benchmarks.results import tables as table
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
    """A folder with the package and the benchmarks, and no history."""
    for name in ("benchmarks", "taildropout"):
        source = ROOT / name if name == "benchmarks" else Path(taildropout.__file__).parent
        shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("records", "__pycache__"))
    (tmp_path / "sitecustomize.py").write_text(BARE)
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command there, without git and without a network."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PATH": "", "TAILDROPOUT_COMMIT": "0123abcd" * 5}
    command = [sys.executable, "-m", "benchmarks", "run", "--record", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_a_record_is_made_without_asv_git_and_a_network(bare: Path) -> None:
    done = run(bare, "--device", "cpu", "--case", "8x16-f32-fwd", "--seconds", "0.05")
    assert done.returncode == 0, done.stderr
    assert "8x16-f32-fwd: measured" in done.stdout
    assert "commit 0123abcd" in " ".join(done.stdout.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is what the machine of this test lacks")
def test_without_a_gpu_a_record_of_one_says_so(bare: Path) -> None:
    done = run(bare, "--device", "cuda")
    assert done.returncode == 2
    assert own_lines(done.stderr) == ["Could not measure: torch finds no CUDA device"]
    assert not list(bare.glob("benchmarks/records/*"))


def test_bandwidth_is_a_share_of_the_copys() -> None:
    seconds = {"TailDropout": 0.75, "copy": 1.0}
    case = CASES["cuda-16384x4096-f32-fwd"]
    size = 16384 * 4096 * 4
    assert record.bandwidth(case, seconds) == {"bytes a second of copy": record.rounded(2 * size), "share of it": 1.0}
    train = record.bandwidth(CASES["cuda-16384x4096-bf16-train"], {"TailDropout": 3.0, "copy": 1.0})
    assert train == {"bytes a second of copy": record.rounded(size), "share of it": 0.5}
    fixed = record.bandwidth(CASES["cuda-16384x4096-f32-set_k"], {"TailDropout": 1.0, "copy": 1.0})
    assert fixed["share of it"] == pytest.approx((1 + 1365 / 4096) / 2, rel=1e-3)
    for name in ("cuda-8x16-f32-fwd", "cuda-16384x4096-f32-fwd-compiled", "cuda-block-bf16-train-compiled"):
        assert record.bandwidth(CASES[name], seconds) == {}


def test_costs_are_counted() -> None:
    case = CASES["1024x512-f32-train"]
    found = record.costs(case, make(case, taildropout), taildropout)
    assert 1024 * 4 <= found["saved bytes"] <= 1024 * 16
    assert found["peak bytes"] >= 1024 * 512 * 4
    assert record.costs(CASES["mlp-f32-step"], lambda: None, taildropout) == {}


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


def test_costs_of_a_gpu_have_a_table_of_their_own() -> None:
    costs = {"launches": 2, "share of it": 0.934, "bytes a second of copy": 4.3e12, "saved bytes": 65536}
    stored = {"goal": [None, 0.8], "ratio": {"original": [0.1, 0.09, 0.11]}, "costs": costs}
    text = table.details({"cases": {"cuda-16384x4096-f32-fwd": stored, "8x16-f32-fwd": {"goal": [None, None]}}})
    row = next(line for line in text.splitlines() if line.startswith("| cuda"))
    assert row == "| cuda-16384x4096-f32-fwd | 0.1 [0.09, 0.11] | 4300 GB/s | 93% | 2 | 65,536 B |  |  |  |"
    assert table.details({"cases": {"8x16-f32-fwd": {"goal": [None, None]}}}) == ""


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
            assert case.numel * (4 if case.dtype == "f32" else 2) >= record.PAST_CACHE


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_case_of_a_gpu_is_recorded_with_its_costs() -> None:
    found = record.measure_case("cuda-16384x4096-f32-train", taildropout, 0.2)
    assert {"launches", "saved bytes", "peak bytes", "share of it"} <= set(found["costs"])
    assert set(found["seconds"]) == {"TailDropout", "nn.Dropout", "copy", "original"}
    block = measure.on_cuda()(lambda: torch.ones(10**8, device="cuda"), 3)
    assert block > 1e5
