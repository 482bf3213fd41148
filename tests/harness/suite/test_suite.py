"""The suite: every case runs or is not available, and a wrong layer is never timed."""

import json
import re
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

import taildropout
from benchmarks import ROOT
from benchmarks.suite import cases, measure
from benchmarks.suite.cases import CASES, LAYERS, Case, NotAvailable, WrongResult, make, names
from benchmarks.system import machine

QUICK = names(quick=True)  # test_speed.py runs these
CHEAP = [name for name, case in CASES.items() if case.model != "ddp" and case.mode == "eager" and case.numel <= 1 << 19]
EXPENSIVE = [name for name in CASES if name not in CHEAP and CASES[name].device == "cpu"]
# Products so large that a call takes half a second: run with few rows, and as they are with the expensive ones.
WIDE = [name for name in CHEAP if name not in QUICK and CASES[name].model in ("feedforward", "gated")]
SMALL = Case("small", (64, 32))


def run(case: Case, layer: str) -> None:
    """Assert that a case gives finite tensors or seconds; skip if this machine or the layer cannot run it."""
    try:
        found = tree_leaves(make(case.of(layer), taildropout)())
    except NotAvailable as error:
        pytest.skip(str(error))
    assert found
    assert all(torch.as_tensor(each).isfinite().all() for each in found)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", [name for name in CHEAP if name not in QUICK])
def test_a_case_runs_or_is_not_available(name: str, layer: str) -> None:
    case = CASES[name]
    run(replace(case, shape=(64, *case.shape[1:])) if name in WIDE else case, layer)


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", EXPENSIVE + WIDE)
@pytest.mark.filterwarnings("ignore")  # inductor's own
def test_a_large_or_compiled_case_runs_or_is_not_available(name: str, layer: str) -> None:
    run(CASES[name], layer)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is what the machine of this test lacks")
def test_a_case_of_cuda_is_not_available_without_cuda() -> None:
    with pytest.raises(NotAvailable, match="no CUDA device"):
        make(CASES["cuda-8x16-f32-fwd"], taildropout)


def test_not_available_is_asvs_exception_for_it() -> None:
    code = (
        "import asv_runner.run; from asv_runner.benchmarks.mark import SkipNotImplemented;"
        "from benchmarks.suite.cases import NotAvailable; assert issubclass(NotAvailable, SkipNotImplemented)"
    )
    pytest.importorskip("asv_runner")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert issubclass(NotAvailable, NotImplementedError)


def test_a_version_that_lacks_a_feature_is_not_available() -> None:
    with pytest.raises(NotAvailable, match="old has no TailDropout"):
        make(SMALL, types.ModuleType("old"))

    class WithoutK(torch.nn.Dropout):
        def __init__(self, p: float, batch_dim: object, dropout_dim: object) -> None:
            super().__init__(p)

    with pytest.raises(NotAvailable, match="WithoutK has no set_k"):
        make(Case("small", (64, 32), direction="set_k"), with_layer(WithoutK))


class Injected(torch.nn.Module):
    """A TailDropout with an injected fault: `faulty(x, kept)` is its forward, given a right mask."""

    faulty: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def __init__(self, p: float, batch_dim: int, dropout_dim: int) -> None:
        super().__init__()
        self.right = [taildropout.TailDropout(p, batch_dim, dropout_dim)]  # a list: the model sees one layer, not two

    def train(self, mode: bool = True) -> "Injected":
        self.right[0].train(mode)
        return super().train(mode)

    def set_k(self, k: int) -> None:
        self.right[0].set_k(k - self.set_too_low)

    set_too_low = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return type(self).faulty(x, self.right[0](torch.ones_like(x)) != 0)


def with_layer(layer: Callable[..., torch.nn.Module]) -> types.ModuleType:
    package: Any = types.ModuleType("injected")
    package.TailDropout = layer
    return package  # type: ignore[no-any-return]


def with_fault(faulty: Callable[..., torch.Tensor], **attributes: object) -> types.ModuleType:
    return with_layer(type("TailDropout", (Injected,), {"faulty": staticmethod(faulty), **attributes}))


FAULTS = {
    "no prefix": ("fwd", lambda x, kept: x * kept.flip(-1), "no prefix"),
    "one mask for all samples": ("fwd", lambda x, kept: x * (torch.arange(32) < 16), "share one k"),
    "rescaled": ("fwd", lambda x, kept: 2 * x * kept, "neither 0 nor bitwise"),
    "nothing dropped": ("fwd", lambda x, kept: x.clone(), "drops 0.0000 of the features"),
    "another gradient": ("train", lambda x, kept: x.detach() * kept + 0 * x, "the gradient is not that"),
    "drops in evaluation": ("eval", lambda x, kept: x * (torch.arange(32) < 31), "evaluation drops features"),
    "other dtype": ("fwd", lambda x, kept: (x * kept).double(), "float64"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_layer_fails_its_case(name: str) -> None:
    direction, faulty, message = FAULTS[name]
    with pytest.raises(WrongResult, match=message):
        make(Case("small", (64, 32), direction=direction), with_fault(faulty))


def test_the_injected_layer_without_a_fault_passes() -> None:
    for direction in ("fwd", "train", "eval", "set_k"):
        assert tree_leaves(
            make(Case("small", (64, 32), direction=direction), with_fault(lambda x, kept: torch.where(kept, x, 0)))()
        )


def test_a_width_that_is_off_by_one_fails() -> None:
    package = with_fault(lambda x, kept: torch.where(kept, x, 0), set_too_low=1)
    with pytest.raises(WrongResult, match=r"set_k\(10\) keeps \[9\]"):
        make(Case("small", (64, 32), direction="set_k"), package)


def test_k_that_differs_within_a_sample_fails() -> None:
    case = Case("small", (16, 8, 32), batch_dim=0)
    per_row = Case("small", (16, 8, 32), batch_dim=(0, 1))
    build = cases.build_layer(per_row, taildropout)
    package = with_layer(lambda p, batch_dim, dropout_dim: build)
    make(per_row, package)
    with pytest.raises(WrongResult, match="k differs within a sample"):
        make(case, package)


@pytest.mark.parametrize("model", ["block", "mlp"])
def test_a_wrong_layer_fails_inside_a_model(model: str) -> None:
    package = with_fault(lambda x, kept: x * kept.flip(-1))
    with pytest.raises(WrongResult, match="no prefix"):
        make(Case("small", (64, 32), direction="train", model=model), package)


def test_a_missing_compiler_is_not_available_and_another_error_is_not() -> None:
    wrapped = RuntimeError("backend failed")
    wrapped.__cause__ = type("InvalidCxxCompiler", (RuntimeError,), {})("No working C++ compiler found")
    assert cases.no_compiler(wrapped)
    assert not cases.no_compiler(RuntimeError("something else"))


def test_names_are_the_keys_and_short() -> None:
    assert [case.name for case in CASES.values()] == list(CASES)
    assert max(map(len, CASES)) <= 40
    assert all(re.fullmatch(r"[\w.-]+", name) for name in CASES)
    assert set(cases.names(quick=True, device="cpu")) < set(cases.names(quick=True)) < set(CASES)


def test_an_unknown_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="none of"):
        SMALL.of("Dropout")


def test_asv_uses_the_environment_that_records_use() -> None:
    asv = pytest.importorskip("asv.config")
    matrix = asv.Config.load(str(ROOT / "asv.conf.json")).matrix
    assert matrix["env_nobuild"] == {key: [value] for key, value in machine.ENVIRONMENT.items()}


def test_asv_uses_the_versions_of_the_constraints() -> None:
    asv = pytest.importorskip("asv.config")
    file = ROOT / "constraints.txt"
    if not file.exists():
        pytest.skip("there is no constraints.txt")
    pinned = dict(line.split("==") for line in file.read_text().split() if "==" in line)
    required = asv.Config.load(str(ROOT / "asv.conf.json")).matrix["req"]
    for package, versions in required.items():
        name = package.removeprefix("pip+")
        assert name not in pinned or versions == [pinned[name]], f"{name} is {versions} for asv, {pinned[name]} else"


def test_interleaved_figures_are_paired_and_tell_slow_from_fast() -> None:
    x = torch.zeros(1000)
    figures = measure.interleave({"TailDropout": lambda: [x.exp() for _ in range(8)], "copy": lambda: x.exp()}, seconds=0.05)
    assert len(figures["TailDropout"]) == len(figures["copy"]) >= measure.MIN_ROUNDS
    median, low, high = measure.summary(measure.ratios(figures, over="copy"))
    assert 1 < low <= median <= high


def test_a_slow_run_has_as_many_calls_after_another_as_a_fast_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call of a block finds cold caches; a run with one call per block would pay for it at every call."""
    blocks: list[tuple[int, int]] = []

    def block(run: Callable[[], int], calls: int) -> float:
        blocks.append((run(), calls))
        return run() * calls

    monkeypatch.setattr(measure, "on_cpu", block)
    figures = measure.interleave({"slow": lambda: 7_000_000, "fast": lambda: 100_000}, seconds=0)
    assert {calls for _, calls in blocks[-2 * measure.MIN_ROUNDS :]} == {3}  # the fast one's 300 µs
    assert figures["slow"] == pytest.approx([0.007] * measure.MIN_ROUNDS)


def test_saved_bytes_count_what_autograd_keeps() -> None:
    x = torch.ones(10, 7, requires_grad=True)
    assert measure.saved_bytes(lambda: x.exp()) == 280  # the result
    assert measure.saved_bytes(lambda: x.clone()) == 0
    assert measure.saved_bytes(lambda: x * x) == 280  # twice the same storage


def test_peak_bytes_count_what_lives_at_once() -> None:
    def call() -> torch.Tensor:
        first = torch.empty(1000)
        return first.exp()

    assert measure.peak_bytes(call, "cpu") == 8000


def test_instructions_are_counted_or_not_available() -> None:
    try:
        count = measure.instructions(lambda: torch.ones(100_000).exp())
    except NotAvailable:
        return
    assert count > 10_000


def test_the_counts_of_the_layer_are_what_it_promises() -> None:
    from benchmarks.suite.counts import Compilation, Law, Memory

    assert Memory().track_saved_per_sample("1024x512-f32-train") <= 16
    compilation = Compilation()
    assert compilation.track_graphs() == 1
    assert compilation.track_breaks() == 0
    assert compilation.track_recompilations_for_k() == 0
    assert Law().track_mean_error("0.001") < 1e-4


def test_stored_records_hold_known_cases() -> None:
    for file in (ROOT / "benchmarks" / "records").glob("*.json"):
        record = json.loads(Path(file).read_text())
        if "cases" in record:
            assert set(record["cases"]) <= set(CASES), file.name
