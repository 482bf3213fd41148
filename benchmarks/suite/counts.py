"""What does a call cost besides time? Counts are exact, or nearly so; times are noisy."""

import torch

from . import compilation, measure
from .cases import CASES, Case, build_layer
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
    """How many bytes does a call keep for backward, and how many does it allocate at its peak?"""

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
    """How many graphs does dynamo make of the layer, and when does it make new ones?"""

    version = "1"
    unit = "graphs"

    def track_graphs(self) -> int:
        return compilation.graphs(package())

    def track_breaks(self) -> int:
        return compilation.breaks(package())

    def track_recompilations_for_k(self) -> int:
        return compilation.recompilations_for_k(package())

    def track_recompilations_for_batch(self) -> int:
        return compilation.recompilations_for_batch(package())


class Law:
    """How far is the mean drop rate of 4e6 samples (n = 64) from p? At p = .5, about 2e-4 is due to chance."""

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
