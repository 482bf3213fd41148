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
    """Return the largest value of `k`; `wanted` says in the message what the caller accepts.

    Raises:
        TypeError: if `k` is not an int or an integer tensor.
        ValueError: if a value is negative, or no int64.
    """
    if isinstance(k, Tensor):
        if k.dtype == torch.bool or k.is_floating_point() or k.is_complex():
            raise TypeError(f"k is a tensor of dtype {k.dtype}; give an integer tensor, one k per sample: k.long()")
        if k.numel() == 0:
            return 0
        least, largest = (int(each) for each in k.long().aminmax())
    elif isinstance(k, bool) or not isinstance(k, Integral):  # NumPy's integers are Integral too
        raise TypeError(f"k={k!r} is a {type(k).__name__}; give {wanted}")
    else:
        least = largest = int(k)
    if largest > _MOST:
        raise ValueError(f"k={largest} is more than any number of features; give an int below 2**63")
    if least < 0:
        raise ValueError(f"k={least} is negative; give 0 (no feature) up to the number of features")
    return largest


class FixedK:
    """The k of a layer, or None while K is random. Not changed in place, so that replicas of the layer may share it.

    Attributes:
        k: an int64 tensor, 0-d or one k per sample; None while K is random. It is a tensor, not an int, so that another k
            compiles nothing. It is no buffer: DDP would send one rank's k to the other ranks.
        largest: the largest value of k; 0 while K is random.
        home: the device to which `set` moves k: that of the module, or of its last input.
        held_as: the layer's name in a model that `at_k` holds, or None. While held, `train()` and `eval()` keep k.
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
        """Return the same with a checked copy of `k` on the home device. Raises as `check_k` does."""
        if k is None:
            return FixedK(None, 0, self.home, self.held_as, self.at_most)
        largest = check_k(k)
        with torch.inference_mode(False):  # a later training step could not save an inference tensor
            k = k.detach() if isinstance(k, Tensor) else torch.tensor(k, device=self.home)
            k = k.to(self.home, torch.int64, copy=True)
        return FixedK(k, largest, self.home, self.held_as, self.at_most)

    def moved(self, home: torch.device) -> FixedK:
        """Return the same with another home device, and k moved to it."""
        return FixedK(None if self.k is None else self.k.to(home), self.largest, home, self.held_as, self.at_most)

    def held(self, name: str | None, at_most: bool = False) -> FixedK:
        """Return the same as held by `at_k` under this name; None releases it."""
        return FixedK(self.k, self.largest, self.home, name, at_most)

    def spread(self, k: Tensor, shape: torch.Size, batch_dims: Dims, dropout_dim: int) -> tuple[Tensor, int]:
        """Return `k`, this k on the input's device, so that it broadcasts to the input's shape; and the feature dim from 0.

        Raises:
            ValueError: if k has another shape than the dims of samples. In eager mode also if k exceeds the number of features.
        """
        batch, feature = sample_dims(len(shape), batch_dims, dropout_dim)
        if k.dim():
            wanted = constant_sizes([shape[dim] for dim in batch])
            if constant_sizes(k.shape) != wanted:
                raise ValueError(
                    f"k has shape {tuple(k.shape)}, but batch_dim={_as_given(batch_dims)} of an input of shape "
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
        """Show the number, or the shape of a tensor with one k per sample."""
        if self.k is None:
            return "None"
        return str(self.largest) if self.k.dim() == 0 else f"a tensor of shape {tuple(self.k.shape)}"

    def __getstate__(self) -> dict[str, Any]:
        # A pickle may be loaded where this device does not exist; the next input gives a new home. No `at_k` holds a copy.
        return {**self.__dict__, "home": _CPU, "held_as": None, "at_most": False}


def _as_given(batch_dims: Sequence[int] | None) -> object:
    """Show dims as they are usually written: an int for one dim, else a list."""
    if batch_dims is None:
        return None
    return batch_dims[0] if len(batch_dims) == 1 else list(batch_dims)
