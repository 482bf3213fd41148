"""Compare outputs of forwards that round alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def is_coarse(leaf: Any) -> bool:
    """Return True for a tensor of floats less precise than float32."""
    floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
    return floating and torch.finfo(leaf.dtype).eps > torch.finfo(torch.float32).eps


def identical(leaves: Sequence[Any], others: Sequence[Any]) -> bool:
    """Return True if all tensors are equal bit by bit, and NaN where the others are NaN."""
    pairs = [pair for pair in zip(leaves, others, strict=True) if isinstance(pair[0], Tensor)]
    return all(a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all()) for a, b in pairs)
