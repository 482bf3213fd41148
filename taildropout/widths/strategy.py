"""How the outputs at several widths are computed, and the tensors that this takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..trees import flatten

Kind = Literal["running sums", "copies", "one k per sample", "one width at a time"]

PER_COPY = -1  # in place of a dim: the output is a number, and the copies made it a row of numbers


@dataclass(frozen=True)
class Strategy:
    """How the outputs at several widths are computed.

    * "copies": the layer hands on a copy of its input for each width, side by side along `dim`.
    * "running sums": the same, but the copies begin after the Linear that reads the layer, whose output at every width is a
      running sum over features.
    * "one k per sample": the model gets a copy of its input for each width, side by side along `dim`, and the layer keeps
      as many features of each sample as belong to its copy. So every connection around the layer has its copies too.
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


def repeat(tensor: Tensor, dim: int, copies: int) -> Tensor:
    """Return copies of a tensor, side by side along `dim`."""
    shape = list(tensor.shape)
    shape.insert(dim, copies)
    return tensor.unsqueeze(dim).expand(shape).flatten(dim, dim + 1)


def dim_of_copies(output: Any, single: Any, copies: int) -> int | None:
    """Return the dim of `output` that is `copies` times as long as in `single`; None if their shapes are equal.

    Raises:
        RuntimeError: if their shapes differ in another way.
    """
    if not isinstance(output, Tensor) or not isinstance(single, Tensor) or output.shape == single.shape:
        return None
    if single.dim() == 0 and output.shape == (copies,):
        return PER_COPY
    if output.dim() == single.dim():
        dims = [dim for dim in range(output.dim()) if output.shape[dim] != single.shape[dim]]
        if len(dims) == 1 and output.shape[dims[0]] == copies * single.shape[dims[0]]:
            return dims[0]
    raise RuntimeError(f"{copies} copies make the output {tuple(output.shape)} from {tuple(single.shape)}")


def split_copies(output: Any, dims: Sequence[int | None], copies: int) -> list[Any]:
    """Split an output, whose tensors hold the copies along `dims`, into one output for each copy."""
    leaves, rebuild = flatten(output)
    parts = [_parts(leaf, dim, copies) for leaf, dim in zip(leaves, dims, strict=True)]
    return [rebuild(leaves) for leaves in zip(*parts, strict=True)]


def _parts(leaf: Any, dim: int | None, copies: int) -> Sequence[Any]:
    if dim is None:
        return [leaf] * copies
    tensor: Tensor = leaf
    return tensor.unbind() if dim == PER_COPY else torch.unflatten(tensor, dim, (copies, -1)).unbind(dim)
