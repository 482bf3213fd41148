"""How the outputs at several widths are computed, and the tensors that this takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from .._torch import tree_flatten, tree_unflatten

Kind = Literal["running sums", "copies", "one width at a time"]


@dataclass(frozen=True)
class Strategy:
    """How the outputs at several widths are computed.

    * "copies": the layer hands on a copy of its input for each width, side by side along `dim`.
    * "running sums": the same, but the copies begin after the Linear that reads the layer, whose output at every width is a
      running sum over features.
    * "one width at a time": a forward for each width, as a loop over `set_k` does.
    """

    kind: Kind
    dim: int | None = None

    def __str__(self) -> str:
        return self.kind if self.dim is None else f"{self.kind} along dim {self.dim}"


ONE_AT_A_TIME = Strategy("one width at a time")


def copies_at_widths(input: Tensor, widths: Sequence[int], feature: int, dim: int) -> Tensor:
    """Return the first features of `input` at each of the widths, side by side along `dim`."""
    feature %= input.dim()
    n = input.shape[feature]
    shape = list(input.shape)
    shape.insert(dim, len(widths))
    copies = input.new_empty(shape)
    for copy, k in zip(copies.unbind(dim), widths, strict=True):
        copy.narrow(feature, 0, k).copy_(input.narrow(feature, 0, k))
        copy.narrow(feature, k, n - k).zero_()
    return copies.flatten(dim, dim + 1)


def dim_of_copies(output: Any, single: Any, copies: int) -> int | None:
    """Return the dim of `output` that is `copies` times as long as in `single`; None if their shapes are equal.

    Raises:
        RuntimeError: if their shapes differ in another way.
    """
    if not isinstance(output, Tensor) or output.shape == single.shape:
        return None
    if output.dim() == single.dim():
        dims = [dim for dim in range(output.dim()) if output.shape[dim] != single.shape[dim]]
        if len(dims) == 1 and output.shape[dims[0]] == copies * single.shape[dims[0]]:
            return dims[0]
    raise RuntimeError(f"{copies} copies make the output {tuple(output.shape)} from {tuple(single.shape)}")


def split_copies(output: Any, dims: Sequence[int | None], copies: int) -> list[Any]:
    """Split an output, whose tensors hold the copies along `dims`, into one output for each copy."""
    leaves, tree = tree_flatten(output)
    pairs = zip(leaves, dims, strict=True)
    parts = [[leaf] * copies if dim is None else leaf.unflatten(dim, (copies, -1)).unbind(dim) for leaf, dim in pairs]
    return [tree_unflatten(list(leaves), tree) for leaves in zip(*parts, strict=True)]
