"""Jagged nested tensors: components of different lengths, which lie one after another in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Spread = Callable[[Tensor], Tensor]  # from one row per component to one row per position of every component


def is_jagged(input: Tensor) -> bool:
    """Return True if `input` is a nested tensor with the layout torch.jagged."""
    return input.is_nested and input.layout == torch.jagged


def on_components(input: Tensor, batch: Sequence[int], feature: int, keep: Callable[[Tensor, Spread], Tensor]) -> Tensor:
    """Apply `keep` to the values of all components at once, and return a jagged tensor with the result.

    Args:
        input: a jagged tensor of shape (components, ragged, …).
        batch: the dims of samples, counted from 0.
        feature: the dim of features, counted from 0.
        keep: a function of two arguments: the components joined along the ragged dim, of shape (sum of lengths, …); and a
            function that takes a tensor with one row per component and repeats each row for every position of its component.

    Raises:
        ValueError: if the ragged dim is the dim of features or is not dim 1, a sample would include parts of several
            components, or there are gaps between the components.
    """
    nested: Any = input  # torch's annotations lack the methods of jagged tensors
    values, offsets = nested.values(), nested.offsets()
    lengths = offsets.diff()
    why = ""
    if feature < 2:
        why = f"its features in dim {feature}, which differ in number"
    elif 1 in batch and 0 not in batch:
        why = "samples in dim 1 that go through all components"
    elif values.dim() != input.dim() - 1 or values.shape[1:] != input.shape[2:] or nested.lengths() is not None:
        why = "a ragged dim that is not dim 1, or gaps between components"
    if why:
        raise ValueError(f"input is a jagged tensor with {why}; pad it: torch.nested.to_padded_tensor(input, 0.0)")
    kept = keep(values, lambda each: each.repeat_interleave(lengths, 0, output_size=values.shape[0]))
    return torch.nested.nested_tensor_from_jagged(kept, offsets)
