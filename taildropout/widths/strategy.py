"""The strategies by which outputs at several widths are computed; copies of tensors, made and split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..trees import flatten

Kind = Literal["running sums", "copies", "one k per sample", "one width at a time"]

PER_COPY = -1  # in place of a dim: the output is 0-d for one copy (a loss), and 1-d with an element per copy for several


@dataclass(frozen=True)
class Strategy:
    """How the outputs at several widths are computed.

    * "copies": the layer hands on a copy of its input for each width, side by side along `dim`.
    * "running sums": the same, but the copies begin after the Linear that reads the layer, whose output at every width is a
      running sum over features.
    * "one k per sample": the model gets a copy of its input for each width, side by side along `dim`, and the layer keeps the
      first k features of each sample, with the k of its copy. So residual connections around the layer are copied too.
    * "one width at a time": a forward for each width, as a loop over `set_k` does.
    """

    kind: Kind
    dim: int | None = None

    def __str__(self) -> str:
        return self.kind if self.dim is None else f"{self.kind} along dim {self.dim}"


ONE_AT_A_TIME = Strategy("one width at a time")


def copies_at_widths(input: Tensor, widths: Sequence[int], feature: int, dim: int) -> Tensor:
    """Return a copy of `input` for each width k, side by side along `dim`, with the features from k on set to 0.

    `feature` is the dim of features.
    """
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
    """Return `copies` copies of a tensor, side by side along `dim`."""
    shape = list(tensor.shape)
    shape.insert(dim, copies)
    return tensor.unsqueeze(dim).expand(shape).flatten(dim, dim + 1)


def dim_of_copies(output: Any, single: Any, copies: int) -> int | None:
    """Return the dim of `output` that is `copies` times as long as in `single`.

    Returns:
        The dim; `PER_COPY` if `single` is 0-d and `output` has shape (copies,); None if the shapes are equal, or if `output` or
        `single` is not a tensor.

    Raises:
        RuntimeError: if the shapes differ in another way.
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
    """Split an output, whose tensors hold the copies along `dims` (None: the same for all copies), into one for each copy."""
    leaves, rebuild = flatten(output)
    parts = [_parts(leaf, dim, copies) for leaf, dim in zip(leaves, dims, strict=True)]
    return [rebuild(leaves) for leaves in zip(*parts, strict=True)]


def _parts(leaf: Any, dim: int | None, copies: int) -> Sequence[Any]:
    if dim is None:
        return [leaf] * copies
    tensor: Tensor = leaf
    return tensor.unbind() if dim == PER_COPY else torch.unflatten(tensor, dim, (copies, -1)).unbind(dim)
