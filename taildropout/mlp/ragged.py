"""The ragged product of `TailMLP`: Linear, activation, keep_first, Linear, without computing what k drops.

Rows of the input are sorted by k, the largest first, and the hidden features are cut into blocks of columns. A block is then
computed for a prefix of the rows only, those that keep one of its features or more, so that the computed part is ragged:

    hidden features   1 … w   w+1 … 2w   2w+1 … 3w
    rows by k         ██████   ██████     ██████
                      ██████   ██████
                      ██████

Columns rather than rows are cut into blocks because the gradient of the weights of a block is then one product, with nothing to
add up. For backward a block saves the input of its activation and computes the activation again, which takes less memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..dims import positions
from ..selection import select
from .operands import Operands

# Products are slow if the number of columns is no multiple of a cache line: on one thread of a CPU with AVX-512, 341 columns
# were computed at 58 GFLOP/s and 320 columns at 90.
_TILE = 16


class Ragged(NamedTuple):
    """The part of the hidden features that is computed, in blocks.

    Block i has the hidden features from `edges[i]` to `edges[i + 1]` of the first `rows[i]` rows. Rows from `rows[i + 1]` to
    `rows[i]` keep only a part of block i.

    If all rows have the same k, `k` is an int and `order` is None. Otherwise `k` holds the k of each row, sorted, and `order`
    the indices of the rows in this order.
    """

    edges: list[int]
    rows: list[int]
    k: Tensor | int
    order: Tensor | None = None


def same_k(k: int, n: int, rows: int) -> Ragged:
    """Return the one block of `rows` rows that all keep the first k of n features."""
    return Ragged([0, min(n, -(-k // _TILE) * _TILE)], [rows, rows], min(k, n))


def k_per_row(k: Tensor, n: int, blocks: int) -> Ragged:
    """Cut n features into about `blocks` blocks for rows with the given k. On a GPU the host waits for the count of rows."""
    k, order = k.sort(descending=True)
    width = -(-n // blocks)
    if width > _TILE:
        width = _TILE * round(width / _TILE)
    edges = [*range(0, n, width), n]
    # Feature j stays iff j ≤ k, so the block after an edge has the rows with k ≥ edge + 1.
    firsts = torch.tensor(edges[:-1], device=k.device, dtype=k.dtype) + 1
    rows: list[int] = torch.searchsorted(-k, -firsts, right=True).tolist()
    return Ragged(edges, [*rows, 0], k, order)


class Activation(NamedTuple):
    """An elementwise module, and the autocast dtype in which it runs, forward and again in backward."""

    module: nn.Module
    device_type: str
    autocast: torch.dtype | None

    def __call__(self, hidden: Tensor) -> Tensor:
        # An activation that writes into its input must not change what is saved for backward, nor a leaf of autograd.
        hidden = hidden.clone() if getattr(self.module, "inplace", False) else hidden
        with torch.autocast(self.device_type, self.autocast, self.autocast is not None):
            result: Tensor = self.module(hidden)
        return result.to(hidden.dtype)  # as Linear casts its input in autocast


def full_product(operands: Operands, ragged: Ragged, activation: Activation) -> Tensor:
    """Compute the same from differentiable operations of torch, including the features that k drops."""
    x, w1, b1, w2, b2 = operands
    if isinstance(ragged.k, int) or ragged.order is None:
        k = torch.as_tensor(ragged.k, device=x.device)
    else:
        k = torch.empty_like(ragged.k).index_copy_(0, ragged.order, ragged.k).unsqueeze(1)
    return functional.linear(select(activation(functional.linear(x, w1, b1)), k, 1), w2, b2)


class _RaggedProduct(torch.autograd.Function):
    """The product of the blocks, with a backward that also computes the blocks only."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w1: Tensor,
        b1: Tensor | None,
        w2: Tensor,
        b2: Tensor | None,
        ragged: Ragged,
        activation: Activation,
        training: bool,
    ) -> Tensor:
        rows = _sorted(x, ragged)
        output = _accumulator(x, w2.size(0))
        if b2 is not None:
            output += b2
        saved = []
        for at, (start, end) in enumerate(_blocks(ragged)):
            hidden = functional.linear(rows[: ragged.rows[at]], w1[start:end], None if b1 is None else b1[start:end])
            _add_product(output, _cut(activation(hidden), ragged, at), w2[:, start:end].t())
            if training:
                saved.append(hidden)
        ctx.ragged, ctx.activation = ragged, activation
        ctx.save_for_backward(x, w1, b1, w2, b2, *saved)
        return _unsorted(output.to(x.dtype), ragged)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, b1, w2, b2, *saved = ctx.saved_tensors
        ragged, activation, wanted = ctx.ragged, ctx.activation, ctx.needs_input_grad[:5]
        if torch.is_grad_enabled():  # a graph of the backward is wanted
            operands = Operands(x, w1, b1, w2, b2)
            output = full_product(operands, ragged, activation)
            chosen: Any = [each for each, need in zip(operands, wanted, strict=True) if need]
            grads = iter(torch.autograd.grad(output, chosen, grad, create_graph=True))
            return *(next(grads) if need else None for need in wanted), None, None, None
        for_x, for_w1, for_b1, for_w2, for_b2 = wanted
        rows, grad = _sorted(x, ragged), _sorted(grad, ragged)
        grad_x = _accumulator(x, x.size(1)) if for_x else None
        grad_w1 = _blank(w1, ragged, 0) if for_w1 else None
        grad_b1 = _blank(b1, ragged, 0) if for_b1 else None
        grad_w2 = _blank(w2, ragged, 1) if for_w2 else None
        for at, (start, end) in enumerate(_blocks(ragged)):
            count = ragged.rows[at]
            with torch.enable_grad():
                hidden = saved[at].detach().requires_grad_()
                active = activation(hidden)
            if for_x or for_w1 or for_b1:
                (slope,) = torch.autograd.grad(active, hidden, grad[:count] @ w2[:, start:end])
                slope = _cut(slope, ragged, at)
                if grad_b1 is not None:
                    torch.sum(slope, 0, out=grad_b1[start:end])
                if grad_w1 is not None:
                    torch.mm(slope.t(), rows[:count], out=grad_w1[start:end])
                if grad_x is not None:
                    _add_product(grad_x, slope, w1[start:end])
            if grad_w2 is not None:  # last, because the backward of the activation may need its result
                torch.mm(grad[:count].t(), _cut(active.detach(), ragged, at), out=grad_w2[:, start:end])
        return (
            None if grad_x is None else _unsorted(grad_x.to(x.dtype), ragged),
            *(grad_w1, grad_b1, grad_w2, grad.sum(0) if for_b2 else None),
            *(None, None, None),
        )


def _blocks(ragged: Ragged) -> zip[tuple[int, int]]:
    """Return the first feature of each block and the first feature after it."""
    return zip(ragged.edges, ragged.edges[1:], strict=False)


def _sorted(rows: Tensor, ragged: Ragged) -> Tensor:
    return rows if ragged.order is None else rows.index_select(0, ragged.order)


def _unsorted(rows: Tensor, ragged: Ragged) -> Tensor:
    return rows if ragged.order is None else torch.empty_like(rows).index_copy_(0, ragged.order, rows)


def _cut(block: Tensor, ragged: Ragged, at: int) -> Tensor:
    """Zero the dropped features of a block in place, in the rows that keep only a part of the block."""
    start, end = ragged.edges[at : at + 2]
    if isinstance(ragged.k, int):
        block[:, ragged.k - start :].zero_()
    else:
        part = slice(ragged.rows[at + 1], ragged.rows[at])
        block[part].masked_fill_(ragged.k[part, None] < positions(end, 0, 1, block.device)[start:], 0)
    return block


def _accumulator(rows: Tensor, width: int) -> Tensor:
    """Return zeros to add up the products of the blocks in, in float32 or wider: a narrow dtype would round every sum."""
    return rows.new_zeros(rows.size(0), width, dtype=torch.promote_types(rows.dtype, torch.float32))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    total = total[: left.size(0)]
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _blank(weight: Tensor, ragged: Ragged, dim: int) -> Tensor:
    """Return memory for a gradient, zero where it belongs to features that no row keeps."""
    grad = torch.empty_like(weight)
    computed = ragged.edges[-1]
    grad.narrow(dim, computed, weight.size(dim) - computed).zero_()
    return grad


def ragged_product(operands: Operands, ragged: Ragged, activation: Activation) -> Tensor:
    """Compute `full_product` without the features that k drops.

    `operands.x` has shape (rows, in); the result has shape (rows, out).
    """
    training = torch.is_grad_enabled() and any(each.requires_grad for each in operands.tensors())
    result: Tensor = _RaggedProduct.apply(*operands, ragged, activation, training)  # type: ignore[no-untyped-call]
    return result
