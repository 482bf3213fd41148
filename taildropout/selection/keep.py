"""keep_first: its definition in one line, and the choice of the code that computes it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..dims import features_of, positions
from . import dispatch
from .dtensor import is_sharded, on_shard, part_of
from .layout import is_expanded
from .saving_k import keep_saving_k


def keep(input: Tensor, k: Tensor, one_to_n: Tensor) -> Tensor:
    """Keep feature j exactly when j ≤ k; `one_to_n` has the positions j. All other code of this folder gives the same bits."""
    return torch.where(one_to_n <= k, input, 0)


def select(input: Tensor, k: Tensor, feature: int, inplace: bool = False, one_to_n: Tensor | None = None) -> Tensor:
    """Keep the first `k` features of `input`, for checked arguments.

    Compiled code calls `keep`. Eager code calls `masked_fill` for small tensors, else an autograd function that saves k alone
    and calls the code that `dispatch` chooses.

    Args:
        input: any tensor with at least one dim.
        k: 0-d, or broadcasts to the input.
        feature: the dim of features, counted from 0.
        inplace: if True, write into the input.
        one_to_n: the positions 1 … n, for compiled code only; None: compiled code computes them.

    Returns:
        A new tensor, or `input` if `inplace` is True.

    Raises:
        RuntimeError: if `inplace` is True and `input` is expanded.
        ValueError: if `input` is a DTensor with a placement other than Replicate and Shard.
    """
    if is_sharded(input):
        return on_shard(input, lambda part, start: select(part, part_of(k, part, start, feature), feature, inplace))
    if inplace and not input.is_contiguous() and is_expanded(input):
        raise RuntimeError("input is expanded: several of its elements share one place in memory; write into input.clone()")
    count = input.numel()
    if torch.compiler.is_compiling() or type(count) is not int:  # `torch.jit.trace` gives sizes as tensors
        kept = keep(input, k, _positions_in_graph(input, feature, one_to_n))
    elif count >= dispatch.save_only_k_from(input):
        if inplace and dispatch.zero_tail(input, k, feature):
            return input
        kept = keep_saving_k(input, k, feature)
    else:
        dropped = k < dispatch.kept_positions(input.size(feature), feature, input.dim(), input.device)
        return input.masked_fill_(dropped, 0) if inplace else dispatch.fill(input, dropped)
    # In `copy_`, autograd refuses some inputs (a leaf, one of several views) before anything is written.
    return input.copy_(kept) if inplace else kept


def _positions_in_graph(input: Tensor, feature: int, one_to_n: Tensor | None) -> Tensor:
    """Return 1 … n along the dim of features; n stays symbolic where a compiler made it so."""
    if one_to_n is not None:
        return one_to_n.reshape(-1, *[1] * (input.dim() - feature - 1))
    n = input.shape[feature] if type(input.numel()) is int else features_of(input, feature)
    return positions(n, feature, input.dim(), input.device)
