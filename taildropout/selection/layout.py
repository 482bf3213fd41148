"""How features lie in memory, for code that works on addresses, and whether a tensor has memory to work on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from .._torch import dispatch_modes, has_storage, is_zero_tensor, transforms_active


class Layout(NamedTuple):
    """Rows of features in memory. A row holds n features of `unit` neighbouring elements each.

    Attributes:
        order: the dims of the tensor by stride, the largest first.
        per_row: the sizes in this order, with 1 for the dim of features and for all dims after it: one element per row.
        unit: number of elements of a feature within a row.
    """

    order: tuple[int, ...]
    per_row: tuple[int, ...]
    unit: int


def row_layout(shape: Sequence[int], strides: Sequence[int], k_shape: Sequence[int], feature: int) -> Layout | None:
    """Return the rows of a tensor with this shape and strides; None if the tensor is not dense, or k varies within a row."""
    order = tuple(sorted(range(len(shape)), key=lambda dim: -strides[dim]))
    expected = 1
    for dim in reversed(order):
        if shape[dim] != 1 and strides[dim] != expected:
            return None
        expected *= shape[dim]
    place = order.index(feature)
    before, after = order[:place], order[place + 1 :]
    if k_shape and any(k_shape[dim] > 1 for dim in after):
        return None
    per_row = (*(shape[dim] for dim in before), *[1] * (len(order) - place))
    return Layout(order, per_row, math.prod(shape[dim] for dim in after))


_cached_row_layout = lru_cache(maxsize=1024)(row_layout)


def rows_in_memory(input: Tensor, k: Tensor, feature: int) -> Layout | None:
    """Return the rows of `input`, or None if code that works on addresses would give wrong results."""
    if not (_in_memory(input) and _in_memory(k)) or transformed() or input.is_neg() or input.is_conj():
        return None
    return _cached_row_layout(input.shape, input.stride(), k.shape, feature)


def transformed() -> bool:
    """Return True if a transform of functorch may wrap tensors, or a dispatch mode may observe operations."""
    return transforms_active() or dispatch_modes() > 0


def is_expanded(input: Tensor) -> bool:
    """Return True if several elements of `input` share one place in memory."""
    return any(step == 0 and size > 1 for step, size in zip(input.stride(), input.shape, strict=True))


def _in_memory(tensor: Tensor) -> bool:
    """Return True if `data_ptr()` points at this tensor's own dense values."""
    return type(tensor) is Tensor and has_storage(tensor) and not (is_zero_tensor(tensor) or tensor.is_quantized)
