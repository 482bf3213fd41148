"""Decide for a call of a feed-forward block whether a ragged product computes it, or its modules one after the other."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .._torch import forward_mode_active, has_global_hooks, has_hooks
from ..distribution import exponential, rate
from ..layer import TailDropout
from ..selection import transformed
from . import cost
from .activation import Named, NotElementwiseError, OfModule, name_of
from .autograd import ragged_product
from .compiled import output_in_graph
from .elementwise import compute_everything_with, is_elementwise
from .operands import COMPUTED, Operands
from .ragged import Ragged, k_per_row, same_k


class Parts(NamedTuple):
    """The modules of a block; `up` is the second inner Linear of a gated block. A user may have replaced any of them."""

    first: nn.Module | None
    activation: nn.Module | None
    dropout: nn.Module | None
    last: nn.Module | None
    up: nn.Module | None = None


def skipping_output(parts: Parts, input: Tensor) -> Tensor | None:
    """Return the output by a ragged product; None if the modules must compute the output, or raise the error for `input`."""
    if not (_worth_deciding(parts.first, input) and _as_constructed(parts)):
        return None
    first, activation, dropout, last, up = parts
    assert isinstance(first, nn.Linear)
    assert isinstance(activation, nn.Module)
    assert isinstance(dropout, TailDropout)
    assert isinstance(last, nn.Linear)
    per_row = dropout.batch_dim is None and input.dim() > 1 and dropout.k is None
    if per_row and not (torch.compiler.is_compiling() or cost.worth_deciding(input.numel(), first.out_features, per_row=True)):
        return None
    second = (up.weight, up.bias) if isinstance(up, nn.Linear) else (None, None)
    operands = Operands(input, first.weight, first.bias, last.weight, last.bias, *second)
    if torch.compiler.is_compiling():
        return None if _observed(parts) else output_in_graph(operands, activation, dropout)
    costs = _costs_if_safe(input)
    # Most blocks that cannot pay are small, so the tests that take longest come last.
    if costs is None or not _may_pay(operands, dropout, costs, per_row) or _observed(parts):
        return None
    return _ragged_output(operands, activation, dropout, costs)


def _worth_deciding(first: nn.Module | None, input: Tensor) -> bool:
    """Return True if the block is so large that the time of a decision is negligible, and `torch.jit.trace` is not active.

    A compiler decides once, and has a least size of its own.
    """
    if not (isinstance(first, nn.Linear) and isinstance(input, Tensor)):
        return False
    count = input.numel()
    return type(count) is int and (torch.compiler.is_compiling() or cost.worth_deciding(count, first.out_features))


def _as_constructed(parts: Parts) -> bool:
    """Return True if the modules are of the constructor's types."""
    return (
        (type(parts.first), type(parts.dropout), type(parts.last)) == (nn.Linear, TailDropout, nn.Linear)
        and type(parts.up) in (type(None), nn.Linear)
        and isinstance(parts.activation, nn.Module)
    )


def _observed(parts: Parts) -> bool:
    """Return True if a module has hooks, or another function replaces its `forward`."""
    modules = [module for module in parts if module is not None]
    return has_global_hooks() or any(has_hooks(module) or "forward" in module.__dict__ for module in modules)


def _costs_if_safe(input: Tensor) -> cost.Costs | None:
    """Return the costs of the device of `input` in the dtype of the products; None if the modules must compute the output."""
    if type(input) not in (Tensor, nn.Parameter) or input.layout is not torch.strided:
        return None
    if input.is_meta or not _ragged_is_safe(input):  # autocast on meta is unknown
        return None
    if input.dtype not in COMPUTED:  # before any costs are measured in it
        return None
    return cost.costs_of(input.device.type, _autocast(input.device.type) or input.dtype)


def _autocast(device: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _ragged_output(operands: Operands, activation: nn.Module, dropout: TailDropout, costs: cost.Costs) -> Tensor | None:
    """Return the output by a ragged product in eager mode, or None if the modules must compute the output."""
    input, device = operands.x, operands.x.device.type
    if not (operands.plain() and operands.fit()):
        return None
    autocast, name = _autocast(device), name_of(activation)
    if not (dropout.dropout_dim in (-1, input.dim() - 1) and (name or is_elementwise(activation))):
        return None
    cast = operands.in_one_dtype(autocast)
    if cast is None:
        return None
    before = None if name else _random_state(input.device)
    ragged = _ragged(dropout, cast, costs)
    if ragged is None:
        return None
    if before is None:
        output = ragged_product(cast.in_rows(), ragged, Named(str(name)))
    else:
        try:
            # A copy, because backward shall use the mode and the attributes of now.
            output = _by_module(cast, ragged, OfModule(copy.copy(activation), device, autocast, torch.is_grad_enabled()))
        except NotElementwiseError as reason:
            _set_random_state(before, input.device)  # the modules shall draw the same numbers as without this attempt
            compute_everything_with(activation, reason)
            return None
    # A result that is no view may be written into under FSDP.
    return output if input.dim() == 2 else output.reshape(*input.shape[:-1], -1)


def _by_module(operands: Operands, ragged: Ragged, activation: OfModule) -> Tensor:
    """Return the ragged product; raise NotElementwiseError if the activation draws random numbers or has tensors to train."""
    before = _random_state(operands.x.device)
    output = ragged_product(operands.in_rows(), ragged, activation)
    if not torch.equal(before, _random_state(operands.x.device)):
        raise NotElementwiseError("draws random numbers")
    return output


def _random_state(device: torch.device) -> Tensor:
    """Return the state of the default generator of a GPU; for any other device that of the CPU."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def _ragged_is_safe(input: Tensor) -> bool:
    """Return False if a transform, forward mode, a nested tensor or a CUDA graph needs the plain modules."""
    return (
        not (transformed() or input.is_nested)
        and not (input.is_cuda and torch.cuda.is_current_stream_capturing())
        and not forward_mode_active()
    )


def _may_pay(operands: Operands, dropout: TailDropout, costs: cost.Costs, per_row: bool) -> bool:
    """Return True if a ragged product could be faster at the best k; `per_row` means that each row draws its own."""
    n, features = operands.w1.shape
    share, whole = 0.0 if dropout.k is not None else 1 - dropout.p if dropout.training else 1.0, 1.0
    if per_row and 0 < share < 1:
        whole = _whole(dropout.p, n)
    rows = operands.x.numel() // max(1, features)
    return cost.blocks_that_pay(n, rows, operands.ends, share, whole, costs, torch.is_grad_enabled()) > 0


def _whole(p: float, n: int) -> float:
    """Return P(K = n)."""
    return math.exp(-rate(p, n) * n)


def _ragged(dropout: TailDropout, operands: Operands, costs: cost.Costs) -> Ragged | None:
    """Return the hidden features that `dropout` keeps, in the best number of blocks; None if the full product is as fast.

    Random numbers are drawn only if the result is not None, and then the same as `dropout` draws.
    """
    x, n = operands.x, operands.w1.shape[0]
    shape = torch.Size((*x.shape[:-1], n))
    rows = math.prod(shape[:-1])
    if dropout.k is not None:
        k, _ = dropout.k_for(shape, x.device)
        share, whole = _shares(k, dropout.fixed_k.largest, n)
    elif dropout.training and 0 < dropout.p < 1:
        k = None
        share, whole = 1 - dropout.p, 1.0
        if math.prod(dropout.k_shape(shape)) > 1:
            whole = _whole(dropout.p, n)
    else:
        return None
    blocks = cost.blocks_that_pay(n, rows, operands.ends, share, whole, costs, torch.is_grad_enabled())
    if blocks == 0:
        return None
    if k is None:
        k = exponential(x, dropout.k_shape(shape), rate(dropout.p, n))
    if k.numel() == 1:
        return same_k(int(k), n, rows)
    return k_per_row(k.expand(*shape[:-1], 1).reshape(-1), n, blocks)


def _shares(k: Tensor, largest: int, n: int) -> tuple[float, float]:
    """Return the mean share of the features kept, and the share of the samples that keep all (1 if k has one element)."""
    if k.numel() == 1:
        return min(largest, n) / n, 1.0
    share, whole = torch.stack([k.double().mean() / n, (k == n).double().mean()]).tolist()
    return share, whole
