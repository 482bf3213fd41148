"""Linear, activation, keep_first, Linear without what k drops: the products of `TailMLP`.

Rows of the input are sorted by k, the widest first, and the hidden features cut into blocks of columns. A block then needs a
prefix of the rows alone, those that keep one of its features, so what is computed has the shape of a staircase:

    hidden features   1 … w   w+1 … 2w   2w+1 … 3w
    rows by k         ██████   ██████     ██████
                      ██████   ██████
                      ██████

Columns rather than rows are cut because the gradient of a block of weights is then one product, with nothing to add up. For
backward a block keeps what goes into its activation, and computes the activation again, which is cheaper than memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..dims import positions
from ..selection.dispatch import select

# Products are slow where the columns are no multiple of a line of the cache: 341 had 58 GFLOP/s where 320 had 90, on one thread
# of a CPU with AVX-512.
_TILE = 16


class Staircase(NamedTuple):
    """What is computed: block i has the hidden features from `edges[i]` to `edges[i + 1]` of the first `rows[i]` rows.

    `k` is one number, and `order` None, where all rows share it; else k per row, sorted, and the rows in that order. Those from
    `rows[i + 1]` to `rows[i]` keep a part of block i.
    """

    edges: list[int]
    rows: list[int]
    k: Tensor | int
    order: Tensor | None = None


def one_step(k: int, n: int, rows: int) -> Staircase:
    """The staircase of a k that all rows share."""
    return Staircase([0, min(n, -(-k // _TILE) * _TILE)], [rows, rows], min(k, n))


def stairs(k: Tensor, n: int, blocks: int) -> Staircase:
    """The staircase of one k per row, of `n` features in some `blocks` blocks. It waits for the device to count the rows."""
    k, order = k.sort(descending=True)
    width = -(-n // blocks)
    if width > _TILE:
        width = _TILE * round(width / _TILE)
    edges = [*range(0, n, width), n]
    # Feature j stays iff j ≤ k, so that the block after an edge has the rows with k ≥ edge + 1.
    firsts = torch.tensor(edges[:-1], device=k.device, dtype=k.dtype) + 1
    rows: list[int] = torch.searchsorted(-k, -firsts, right=True).tolist()
    return Staircase(edges, [*rows, 0], k, order)


class Activation(NamedTuple):
    """An elementwise module and the state of autocast in which it runs, forward and again in backward."""

    module: nn.Module
    device_type: str
    autocast: torch.dtype | None

    def __call__(self, hidden: Tensor) -> Tensor:
        # One that writes into its input must leave what is saved for backward, and a leaf of autograd, as it is.
        hidden = hidden.clone() if getattr(self.module, "inplace", False) else hidden
        with torch.autocast(self.device_type, self.autocast, self.autocast is not None):
            result: Tensor = self.module(hidden)
        return result.to(hidden.dtype)  # what Linear does in autocast


def plain(
    x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, stairs: Staircase, activation: Activation
) -> Tensor:
    """The same from differentiable operations, with nothing left out."""
    if isinstance(stairs.k, int) or stairs.order is None:
        k = torch.as_tensor(stairs.k, device=x.device)
    else:
        k = torch.empty_like(stairs.k).index_copy_(0, stairs.order, stairs.k).unsqueeze(1)
    return functional.linear(select(activation(functional.linear(x, w1, b1)), k, 1), w2, b2)


class _Products(torch.autograd.Function):
    """`plain`, where k lets something through."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w1: Tensor,
        b1: Tensor | None,
        w2: Tensor,
        b2: Tensor | None,
        stairs: Staircase,
        activation: Activation,
        training: bool,
    ) -> Tensor:
        rows = _sorted(x, stairs)
        output = _accumulator(x, w2.size(0))
        if b2 is not None:
            output += b2
        saved = []
        for at, (start, end) in enumerate(_blocks(stairs)):
            hidden = functional.linear(rows[: stairs.rows[at]], w1[start:end], None if b1 is None else b1[start:end])
            _add_product(output, _cut(activation(hidden), stairs, at), w2[:, start:end].t())
            if training:
                saved.append(hidden)
        ctx.stairs, ctx.activation = stairs, activation
        ctx.save_for_backward(x, w1, b1, w2, b2, *saved)
        return _unsorted(output.to(x.dtype), stairs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, b1, w2, b2, *saved = ctx.saved_tensors
        stairs, activation, wanted = ctx.stairs, ctx.activation, ctx.needs_input_grad[:5]
        if torch.is_grad_enabled():  # a graph of the backward is wanted
            inputs = x, w1, b1, w2, b2
            output = plain(*inputs, stairs, activation)
            chosen = [each for each, need in zip(inputs, wanted, strict=True) if need]
            found = iter(torch.autograd.grad(output, chosen, grad, create_graph=True))
            return *(next(found) if need else None for need in wanted), None, None, None
        for_x, for_w1, for_b1, for_w2, for_b2 = wanted
        rows, grad = _sorted(x, stairs), _sorted(grad, stairs)
        grad_x = _accumulator(x, x.size(1)) if for_x else None
        grad_w1 = _blank(w1, stairs, 0) if for_w1 else None
        grad_b1 = _blank(b1, stairs, 0) if for_b1 else None
        grad_w2 = _blank(w2, stairs, 1) if for_w2 else None
        for at, (start, end) in enumerate(_blocks(stairs)):
            count = stairs.rows[at]
            with torch.enable_grad():
                hidden = saved[at].detach().requires_grad_()
                active = activation(hidden)
            if for_x or for_w1 or for_b1:
                (slope,) = torch.autograd.grad(active, hidden, grad[:count] @ w2[:, start:end])
                slope = _cut(slope, stairs, at)
                if grad_b1 is not None:
                    torch.sum(slope, 0, out=grad_b1[start:end])
                if grad_w1 is not None:
                    torch.mm(slope.t(), rows[:count], out=grad_w1[start:end])
                if grad_x is not None:
                    _add_product(grad_x, slope, w1[start:end])
            if grad_w2 is not None:  # last, since the activation may need its result for its own backward
                torch.mm(grad[:count].t(), _cut(active.detach(), stairs, at), out=grad_w2[:, start:end])
        return (
            None if grad_x is None else _unsorted(grad_x.to(x.dtype), stairs),
            *(grad_w1, grad_b1, grad_w2, grad.sum(0) if for_b2 else None),
            *(None, None, None),
        )


def _blocks(stairs: Staircase) -> zip[tuple[int, int]]:
    return zip(stairs.edges, stairs.edges[1:], strict=False)


def _sorted(rows: Tensor, stairs: Staircase) -> Tensor:
    return rows if stairs.order is None else rows.index_select(0, stairs.order)


def _unsorted(rows: Tensor, stairs: Staircase) -> Tensor:
    return rows if stairs.order is None else torch.empty_like(rows).index_copy_(0, stairs.order, rows)


def _cut(block: Tensor, stairs: Staircase, at: int) -> Tensor:
    """Zero what the rows that keep a part of this block drop of it, in place."""
    start, end = stairs.edges[at : at + 2]
    if isinstance(stairs.k, int):
        block[:, stairs.k - start :].zero_()
    else:
        part = slice(stairs.rows[at + 1], stairs.rows[at])
        block[part].masked_fill_(stairs.k[part, None] < positions(end, 0, 1, block.device)[start:], 0)
    return block


def _accumulator(rows: Tensor, width: int) -> Tensor:
    """Zeros to add up the products of the blocks in: a narrow type would round after each."""
    return rows.new_zeros(rows.size(0), width, dtype=torch.promote_types(rows.dtype, torch.float32))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    total = total[: left.size(0)]
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _blank(weight: Tensor, stairs: Staircase, dim: int) -> Tensor:
    """Memory for a gradient, zero where no row reaches."""
    grad = torch.empty_like(weight)
    reached = stairs.edges[-1]
    grad.narrow(dim, reached, weight.size(dim) - reached).zero_()
    return grad


def products(
    x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, stairs: Staircase, activation: Activation
) -> Tensor:
    """`plain` of rows `x` (rows, in), without computing what k drops.

    Shapes: `w1` (n, in), `b1` (n), `w2` (out, n), `b2` (out); returns (rows, out).
    """
    training = torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in (x, w1, b1, w2, b2))
    result: Tensor = _Products.apply(x, w1, b1, w2, b2, stairs, activation, training)  # type: ignore[no-untyped-call]
    return result
