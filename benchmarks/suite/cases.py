"""The benchmarked situations: chosen, not multiplied, and only ever appended to (asv's history is keyed by name).

A name reads device (none: the CPU), shape or model, dtype, direction, then what is unusual: `1024x512-bf16-train`.

    forward  (fwd)     the layer in training mode, input without gradient
    train              forward and `torch.autograd.grad` with a given gradient; for a model also the optimiser's step
    eval               the layer in evaluation mode
    set_k              the layer in training mode with k fixed to a third of the features

Every case is measured for three layers. `copy` is the unit of speed, `x.clone()`: it moves the memory once, for its
backward hands the gradient on untouched. In a model it is `nn.Identity`: the same model without any dropout. A record also
holds `original`, the formulation of the original package, where the case is the layer alone.

`make(case, package)` prepares one case for a given taildropout module; this module never imports taildropout, so that
two versions can be handed in side by side.
"""

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch

from .original import ThresholdDropout

LAYERS = ("TailDropout", "nn.Dropout", "copy")
ORIGINAL = "original"
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}

# asv takes its own exception for "n/a, and no failure"; it is looked up, not imported, since asv need not be there.
_asv_mark = sys.modules.get("asv_runner.benchmarks.mark")


class NotAvailable(_asv_mark.SkipNotImplemented if _asv_mark else NotImplementedError):  # type: ignore[misc]
    """This machine, or this version of the package, lacks what the case needs: its result is n/a."""


class WrongResult(AssertionError):
    """What the case computes is wrong, so that its time says nothing."""


@dataclass(frozen=True)
class Case:
    """One benchmarked situation. `goal` holds the ratios to nn.Dropout and to copy that the design asks for."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "f32"
    direction: str = "fwd"
    layer: str = "TailDropout"
    device: str = "cpu"
    mode: str = "eager"
    model: str = "layer"
    p: float = 0.5
    batch_dim: int | tuple[int, ...] = 0
    dropout_dim: int = -1
    threads: int | None = 1
    quick: bool = False
    goal: tuple[float | None, float | None] = (None, None)

    def of(self, layer: str) -> "Case":
        """The same situation with another of `LAYERS`, or with `ORIGINAL`."""
        if layer not in (*LAYERS, ORIGINAL):
            raise ValueError(f"layer={layer!r} is none of {(*LAYERS, ORIGINAL)}")
        return replace(self, layer=layer)

    @property
    def n(self) -> int:
        """Number of features."""
        return self.shape[self.dropout_dim]

    @property
    def numel(self) -> int:
        """Number of elements of the input."""
        return torch.Size(self.shape).numel()


def _layers() -> list[Case]:
    tiny, small, medium, large = (8, 16), (128, 256), (1024, 512), (8192, 768)
    sequence: dict[str, Any] = {"shape": (64, 128, 768), "batch_dim": (0, 1)}
    images: dict[str, Any] = {"shape": (32, 64, 56, 56), "dropout_dim": 1}
    compiled: dict[str, Any] = {"mode": "default"}
    return [
        Case("8x16-f32-fwd", tiny, quick=True, goal=(0.9, None)),
        Case("8x16-f32-train", tiny, direction="train", quick=True, goal=(1.0, None)),
        Case("8x16-f32-eval", tiny, direction="eval"),
        Case("8x16-f32-set_k", tiny, direction="set_k"),
        Case("8x16-bf16-train", tiny, "bf16", "train"),
        Case("128x256-f32-fwd", small),
        Case("128x256-f32-train", small, direction="train"),
        Case("1024x512-f32-fwd", medium),
        Case("1024x512-f32-train", medium, direction="train", quick=True, goal=(0.08, 2.2)),
        Case("1024x512-f32-train-p.001", medium, direction="train", p=0.001, goal=(0.08, None)),
        Case("1024x512-f32-set_k", medium, direction="set_k"),
        Case("1024x512-bf16-fwd", medium, "bf16"),
        Case("1024x512-bf16-train", medium, "bf16", "train", quick=True, goal=(0.05, 2.2)),
        Case("8192x768-f32-fwd", large),
        Case("8192x768-f32-train", large, direction="train", quick=True, goal=(0.08, 2.2)),
        Case("8192x768-bf16-train", large, "bf16", "train", goal=(0.05, 2.2)),
        Case("64x128x768-f32-fwd", **sequence),
        Case("64x128x768-f32-train", direction="train", **sequence, goal=(0.08, 2.2)),
        Case("64x128x768-bf16-train", dtype="bf16", direction="train", **sequence, goal=(0.05, 2.2)),
        Case("32x64x56x56-f32-fwd", **images),
        Case("32x64x56x56-f32-train", direction="train", **images, goal=(0.08, 2.2)),
        Case("8x16-f32-fwd-compiled", tiny, **compiled),
        Case("1024x512-f32-fwd-compiled", medium, **compiled, quick=True, goal=(None, 1.1)),
        Case("1024x512-bf16-fwd-compiled", medium, "bf16", **compiled, quick=True, goal=(None, 1.3)),
        Case("1024x512-f32-train-compiled", medium, direction="train", **compiled),
        Case("1024x512-f32-set_k-compiled", medium, direction="set_k", **compiled),
        Case("8192x768-f32-fwd-compiled", large, **compiled, goal=(None, 1.1)),
    ]


def _models() -> list[Case]:
    train: dict[str, Any] = {"direction": "train"}
    step: dict[str, Any] = {"direction": "train", "threads": None}
    feedforward: dict[str, Any] = {"direction": "train", "model": "feedforward", "threads": 2}
    return [
        Case("block-f32-train", (1024, 512), model="block", **train),
        Case("block-f32-train-compiled", (1024, 512), model="block", mode="default", quick=True, **train, goal=(None, 1.02)),
        Case("mlp-f32-step", (512, 256), model="mlp", **step),
        Case("conv-f32-step", (32, 16, 32, 32), model="conv", dropout_dim=1, **step),
        Case("transformer-f32-step", (16, 64, 256), model="transformer", batch_dim=(0, 1), **step),
        Case("ddp-2-gloo-f32-step", (256, 256), model="ddp", **train),
        Case("feedforward-4096x1024-f32-train", (4096, 1024), **feedforward, goal=(None, 0.58)),
        Case("feedforward-512x1024-f32-train", (512, 1024), **feedforward, quick=True, goal=(None, 0.70)),
        Case("feedforward-512x1024-f32-train-p.001", (512, 1024), p=0.001, **feedforward),
    ]


def _cuda() -> list[Case]:
    gpu: dict[str, Any] = {"device": "cuda"}
    train: dict[str, Any] = {"device": "cuda", "direction": "train"}
    matrix, tokens = (16384, 4096), (8, 2048, 4096)  # past the cache: 256 MiB each in float32
    return [
        Case("cuda-8x16-f32-fwd", (8, 16), **gpu, quick=True, goal=(1.2, None)),
        Case("cuda-8x16-f32-train", (8, 16), **train, goal=(1.2, None)),
        Case("cuda-8x16-f32-fwd-graph", (8, 16), mode="reduce-overhead", **gpu, goal=(1.0, None)),
        Case("cuda-1024x512-f32-train", (1024, 512), **train, quick=True),
        Case("cuda-8192x768-bf16-train", (8192, 768), "bf16", **train),
        Case("cuda-64x128x768-f32-train", (64, 128, 768), batch_dim=(0, 1), **train),
        Case("cuda-32x64x56x56-f32-train", (32, 64, 56, 56), dropout_dim=1, **train),
        Case("cuda-16384x4096-f32-fwd", matrix, **gpu, quick=True, goal=(None, 0.8)),
        Case("cuda-16384x4096-f32-train", matrix, **train, quick=True, goal=(0.6, None)),
        Case("cuda-16384x4096-f32-train-p.001", matrix, p=0.001, **train, goal=(0.6, None)),
        Case("cuda-16384x4096-f32-set_k", matrix, device="cuda", direction="set_k"),
        Case("cuda-16384x4096-bf16-fwd", matrix, "bf16", **gpu, goal=(None, 0.8)),
        Case("cuda-16384x4096-bf16-train", matrix, "bf16", **train, quick=True, goal=(0.6, None)),
        Case("cuda-16384x4096-f16-train", matrix, "f16", **train, goal=(0.6, None)),
        Case("cuda-8x2048x4096-bf16-train", tokens, "bf16", batch_dim=(0, 1), **train, goal=(0.6, None)),
        Case("cuda-16384x4096-f32-fwd-compiled", matrix, mode="default", **gpu),
        Case("cuda-16384x4096-bf16-train-compiled", matrix, "bf16", mode="default", **train),
        Case("cuda-16384x4096-f32-fwd-autotune", matrix, mode="max-autotune", **gpu),
        Case("cuda-block-bf16-train-compiled", (8192, 2048), "bf16", model="block", mode="default", **train, goal=(None, 1.02)),
        Case("cuda-mlp-f32-step", (4096, 1024), model="mlp", **train),
        Case("cuda-data-parallel-f32-step", (1024, 1024), model="data_parallel", **train),
        Case("cuda-feedforward-16384x1024-bf16-train", (16384, 1024), "bf16", model="feedforward", **train, goal=(None, 0.75)),
    ]


CASES: dict[str, Case] = {case.name: case for case in (*_layers(), *_models(), *_cuda())}


def names(*, quick: bool = False, device: str | None = None) -> list[str]:
    """The names of all cases, or of the quick ones, or of those on one device."""
    return [c.name for c in CASES.values() if (c.quick or not quick) and device in (None, c.device)]


def feature(owner: object, name: str) -> Any:
    """A public name of the package or of its layer, or NotAvailable on a version that lacks it."""
    try:
        return getattr(owner, name)
    except AttributeError:
        raise NotAvailable(f"{getattr(owner, '__name__', type(owner).__name__)} has no {name}") from None


def build_layer(case: Case, package: ModuleType | None) -> torch.nn.Module:
    """The case's layer alone; `package` may be None where the layer is one of torch's."""
    if case.layer == "nn.Dropout":
        return torch.nn.Dropout(case.p)
    if case.layer == "copy":
        return Copy() if case.model == "layer" else torch.nn.Identity()
    if case.layer == ORIGINAL:
        return ThresholdDropout(case.p, case.batch_dim, case.dropout_dim, case.shape, DTYPES[case.dtype])
    if package is None:
        raise NotAvailable("taildropout is not installed")
    batch_dim = case.batch_dim if isinstance(case.batch_dim, int) else list(case.batch_dim)
    layer: torch.nn.Module = feature(package, "TailDropout")(case.p, batch_dim, case.dropout_dim)
    return layer


class Copy(torch.nn.Module):
    """`x.clone()`: the unit, since no dropout can write less than its output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


def use_threads(case: Case) -> None:
    """Set torch's threads to those of the case (None: all cores). Call it before timing if another case came between."""
    wanted = case.threads or os.cpu_count() or 1
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)


def compiled(case: Case, module: torch.nn.Module) -> Callable[..., torch.Tensor]:
    """The module as the case's mode wants it.

    Shapes are static: otherwise the second shape that a process sees would be compiled for any shape, and the figure
    would depend on what was measured before. One process may then hold many versions of the same code.
    """
    if case.mode == "eager":
        return module
    quote_library_path()
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * len(CASES))
    call: Callable[..., torch.Tensor] = torch.compile(module, mode=case.mode, fullgraph=True, dynamic=False)
    return call


def quote_library_path() -> None:
    """Let inductor link where the path of torch has a space in it: it quotes what it includes, not where it links."""
    from torch.utils import cpp_extension

    if " " in cpp_extension.TORCH_LIB_PATH and "'" not in cpp_extension.TORCH_LIB_PATH:
        cpp_extension.TORCH_LIB_PATH = shlex.quote(cpp_extension.TORCH_LIB_PATH)


def synchronise(case: Case) -> Callable[[], None] | None:
    """What waits for the case's device to finish; None on the CPU, which is never ahead."""
    return torch.cuda.synchronize if case.device == "cuda" else None


def make(case: Case, package: ModuleType | None = None) -> Callable[[], Any]:
    """Prepare `case` with the layer of `package`, warm it up (compiled cases compile here) and check what it computes.

    Returns a callable without arguments that does the work once: it gives the output, for a layer's `train` the pair
    of output and gradient, for a model the loss. On CUDA it does not wait for the device (`synchronise`).

    Raises NotAvailable where machine or package lack what it needs, WrongResult where the result is wrong.
    """
    from . import layers, models, parallel

    if case.device == "cuda" and not torch.cuda.is_available():
        raise NotAvailable("this machine has no CUDA device")
    if case.layer == ORIGINAL and (case.model != "layer" or case.direction == "set_k"):
        raise NotAvailable("the original formulation is measured as a random layer alone")
    use_threads(case)
    torch.manual_seed(0)
    maker = {"layer": layers.make, "ddp": parallel.make_ddp, "data_parallel": parallel.make_data_parallel}
    try:
        return maker.get(case.model, models.make)(case, package)
    except Exception as error:
        if no_compiler(error):
            raise NotAvailable("this machine has no C++ compiler") from error
        raise


def no_compiler(error: BaseException | None) -> bool:
    """Whether inductor failed for want of a C++ compiler; it wraps that error in others."""
    while error is not None:
        if "InvalidCxxCompiler" in f"{type(error).__name__} {error}":
            return True
        error = error.__cause__ or error.__context__
    return False
