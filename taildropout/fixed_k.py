"""The k that `TailDropout.set_k` has set: its check, its device, and its shape for an input."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from .dims import Dims, constant_sizes, sample_dims

_MOST = 2**63 - 1  # the largest int64
_CPU = torch.device("cpu")


def check_k(k: object, wanted: str = "an int, an integer tensor or None") -> int:
    """Check `k`, and return its largest value (0 if empty); `wanted` names the types that the caller accepts, for messages.

    Raises:
        TypeError: if `k` is not an int or an integer tensor.
        ValueError: if a value is negative, or above the largest int64.
    """
    if isinstance(k, Tensor):
        if k.dtype == torch.bool or k.is_floating_point() or k.is_complex():
            raise TypeError(f"k is a tensor of dtype {k.dtype}; give an integer tensor, one k per sample: k.long()")
        if k.numel() == 0:
            return 0
        least, largest = (int(each) for each in k.long().aminmax())
    elif isinstance(k, bool) or not isinstance(k, Integral):  # NumPy's integers are Integral too
        raise TypeError(f"k={k!r} has type {type(k).__name__}; give {wanted}")
    else:
        least = largest = int(k)
    if largest > _MOST:
        raise ValueError(f"k={largest} is more than any number of features; give an int below 2**63")
    if least < 0:
        raise ValueError(f"k={least} is negative; give 0 (no feature) up to the number of features")
    return largest


class FixedK:
    """The k of a layer, or None while K is random. Methods return a new object, so that replicas of the layer may share one.

    Attributes:
        k: an int64 tensor, 0-d or one k per sample; None while K is random. It is a tensor, not an int, so that another k
            needs no recompilation; and not a buffer, because DDP would send one rank's k to the other ranks.
        largest: the largest value of k; 0 while K is random.
        home: the device of the layer or of its last input, to which `set` moves k.
        held_as: in an `at_k` block the layer's name in the model, and `train()` and `eval()` keep k; None outside.
        at_most: if True, a k above the number of features keeps all features instead of raising an error.
    """

    def __init__(
        self,
        k: Tensor | None = None,
        largest: int = 0,
        home: torch.device = _CPU,
        held_as: str | None = None,
        at_most: bool = False,
    ) -> None:
        self.k, self.largest, self.home, self.held_as, self.at_most = k, largest, home, held_as, at_most

    def set(self, k: int | Tensor | None) -> FixedK:
        """Return a FixedK with a checked int64 copy of `k` on the home device (None: K is random). Raises as `check_k` does."""
        if k is None:
            return FixedK(None, 0, self.home, self.held_as, self.at_most)
        largest = check_k(k)
        with torch.inference_mode(False):  # a later training step could not save an inference tensor
            k = k.detach() if isinstance(k, Tensor) else torch.tensor(k, device=self.home)
            k = k.to(self.home, torch.int64, copy=True)
        return FixedK(k, largest, self.home, self.held_as, self.at_most)

    def moved(self, home: torch.device) -> FixedK:
        """Return a FixedK with the device `home`, and k moved to this device."""
        return FixedK(None if self.k is None else self.k.to(home), self.largest, home, self.held_as, self.at_most)

    def held(self, name: str | None, at_most: bool = False) -> FixedK:
        """Return a FixedK for a layer called `name` in an `at_k` block; None as the name ends the block."""
        return FixedK(self.k, self.largest, self.home, name, at_most)

    def spread(self, k: Tensor, shape: torch.Size, batch_dims: Dims, dropout_dim: int) -> tuple[Tensor, int]:
        """Return `k` reshaped to broadcast to an input of this shape, and the feature dim counted from 0.

        `k` is the attribute `k`, moved to the input's device by the caller.

        Raises:
            IndexError: if a dim is out of range.
            ValueError: if k has other sizes than the dims of samples. In eager mode also if k exceeds the number of features.
        """
        batch, feature = sample_dims(len(shape), batch_dims, dropout_dim)
        if k.dim():
            wanted = constant_sizes([shape[dim] for dim in batch])
            if constant_sizes(k.shape) != wanted:
                raise ValueError(
                    f"k has shape {tuple(k.shape)}, but batch_dim={_shown(batch_dims)} of an input of shape "
                    f"{tuple(shape)} has {wanted}; call set_k with an int or with one k per sample"
                )
            order = sorted(range(k.dim()), key=lambda i: batch[i])
            k = k.permute(order).reshape([size if dim in batch else 1 for dim, size in enumerate(shape)])
        n = shape[feature]
        if type(n) is int and not torch.compiler.is_compiling() and self.largest > n and not self.at_most:
            of_layer = f" of {self.held_as!r}" if self.held_as else ""
            raise ValueError(
                f"k={self.largest} is greater than the {n} features of dropout_dim={dropout_dim}{of_layer}; "
                f"call {'set_k' if self.held_as is None else 'at_k'}({n}) or less"
            )
        return k, feature

    def __str__(self) -> str:
        """Return k as text: the number, or the shape of a tensor with one k per sample."""
        if self.k is None:
            return "None"
        return str(self.largest) if self.k.dim() == 0 else f"a tensor of shape {tuple(self.k.shape)}"

    def __getstate__(self) -> dict[str, Any]:
        # A pickle may be loaded where this device does not exist; the next input sets the home. No `at_k` holds a copy.
        return {**self.__dict__, "home": _CPU, "held_as": None, "at_most": False}


def _shown(batch_dims: Sequence[int] | None) -> object:
    """Return dims as users usually write them: an int for one dim, else a list."""
    if batch_dims is None:
        return None
    return batch_dims[0] if len(batch_dims) == 1 else list(batch_dims)
