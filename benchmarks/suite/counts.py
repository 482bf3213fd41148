"""What does a call cost beside time? Counts are exact, or nearly so, where times are noisy."""

from collections.abc import Callable
from typing import Any

import torch

from . import measure
from .cases import CASES, Case, build_layer, feature
from .subject import package, prepared

SAVING = ("8x16-f32-train", "1024x512-f32-train", "8192x768-bf16-train", "64x128x768-f32-train", "cuda-16384x4096-f32-train")
ON_CUDA = tuple(name for name, case in CASES.items() if case.device == "cuda" and case.model == "layer")


class Instructions:
    """How many instructions does a call execute? (`n/a` where the kernel does not count them.)"""

    params = (("8x16-f32-fwd", "8x16-f32-train", "1024x512-f32-train", "block-f32-train"),)
    param_names = ("case",)
    version = "1"
    unit = "instructions"

    def track_user(self, case: str) -> float:
        return measure.instructions(prepared(case, "TailDropout"))


class Memory:
    """How many bytes does a call keep for backward, and how many does it hold at most?"""

    params = (SAVING,)
    param_names = ("case",)
    version = "1"
    unit = "bytes"

    def track_saved(self, case: str) -> int:
        return measure.saved_bytes(prepared(case, "TailDropout"))

    def track_saved_per_sample(self, case: str) -> float:
        situation = CASES[case]
        batch = situation.batch_dim if isinstance(situation.batch_dim, tuple) else (situation.batch_dim,)
        samples = torch.Size(situation.shape[d] for d in batch).numel()
        return measure.saved_bytes(prepared(case, "TailDropout")) / samples

    def track_peak(self, case: str) -> int:
        return measure.peak_bytes(prepared(case, "TailDropout"), CASES[case].device)


class Launches:
    """How many kernels does a call start on the GPU?"""

    params = (ON_CUDA,)
    param_names = ("case",)
    version = "1"
    unit = "launches"

    def track_kernels(self, case: str) -> int:
        return measure.launches(prepared(case, "TailDropout"))


class Compilation:
    """How many graphs does dynamo make of the layer, and when does it make new ones?

    The backend runs the graph as it is, so that no compiler is needed.
    """

    version = "1"
    unit = "graphs"

    def track_graphs(self) -> int:
        graphs, call, x = counted()
        call(x)
        return len(graphs)

    def track_breaks(self) -> int:
        torch._dynamo.reset()
        return int(torch._dynamo.explain(bare_layer())(torch.randn(64, 32)).graph_break_count)

    def track_recompilations_for_k(self) -> int:
        layer = bare_layer()
        graphs, call, x = counted(layer)
        feature(layer, "set_k")(1)
        call(x)
        before = len(graphs)
        for k in (2, 3, 31, 0):
            layer.set_k(k)
            kept = call(x) != 0
            if int(kept[0].sum()) != k:
                raise AssertionError(f"set_k({k}) keeps {int(kept[0].sum())} features when compiled")
        return len(graphs) - before

    def track_recompilations_for_batch(self) -> int:
        graphs, call, x = counted(dynamic=True)
        call(x)
        before = len(graphs)
        for batch in (3, 17, 1000):
            call(torch.randn(batch, 32))
        return len(graphs) - before


def bare_layer() -> Any:
    """TailDropout with its default dims."""
    return build_layer(Case("compilation", (64, 32)), package())


def counted(layer: Any = None, dynamic: bool = False) -> tuple[list[object], Callable[..., torch.Tensor], torch.Tensor]:
    """The graphs that dynamo will have made, the compiled layer, and an input without a zero."""
    graphs: list[object] = []

    def backend(graph: Any, inputs: object) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    torch.manual_seed(0)
    call = torch.compile(layer or bare_layer(), backend=backend, dynamic=dynamic or None)
    return graphs, call, torch.randn(64, 32).abs() + 1


class Law:
    """How far is the mean drop rate of 4e6 samples (n = 64) from p? About 2e-4 is chance at p = .5."""

    params = (("0.5", "0.001"),)
    param_names = ("p",)
    version = "1"
    unit = "drop rate"
    SAMPLES, CALLS = 1 << 16, 64

    def track_mean_error(self, p: str) -> float:
        n = 64
        layer = build_layer(Case("law", (self.SAMPLES, n), p=float(p)), package())
        torch.manual_seed(0)
        ones = torch.ones(self.SAMPLES, n)
        kept = sum(layer(ones).sum(dtype=torch.float64).item() for _ in range(self.CALLS))
        return float(abs(1 - kept / (self.CALLS * ones.numel()) - float(p)))
