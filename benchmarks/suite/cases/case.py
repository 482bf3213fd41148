"""The type of a case, and the errors of a case that cannot be measured or computes a wrong result."""

import sys
from dataclasses import dataclass, replace

import torch

LAYERS = ("TailDropout", "nn.Dropout", "copy")
ORIGINAL = "original"
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}

# asv takes its own exception as "n/a, not a failure". It is looked up, not imported, since asv may not be installed.
_asv_mark = sys.modules.get("asv_runner.benchmarks.mark")


class NotAvailable(_asv_mark.SkipNotImplemented if _asv_mark else NotImplementedError):  # type: ignore[misc]
    """The machine or the version of the package lacks something that the case needs: its result is n/a."""


class WrongResult(AssertionError):
    """The case computes a wrong result, so its time means nothing."""


@dataclass(frozen=True)
class Case:
    """One benchmarked situation. `goal` holds the wanted ratios of its time to those of nn.Dropout and of copy.

    For `direction` see `cases`. `mode` is "eager" or a mode of `torch.compile`. `model` is "layer" for the layer alone.
    `threads` None stands for all cores.
    """

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
        """Return the same case with another of `LAYERS`, or with `ORIGINAL`. Raises ValueError for any other layer."""
        if layer not in (*LAYERS, ORIGINAL):
            raise ValueError(f"layer={layer!r} is none of {(*LAYERS, ORIGINAL)}")
        return replace(self, layer=layer)

    @property
    def n(self) -> int:
        """Return the number of features."""
        return self.shape[self.dropout_dim]

    @property
    def numel(self) -> int:
        """Return the number of elements of the input."""
        return torch.Size(self.shape).numel()
