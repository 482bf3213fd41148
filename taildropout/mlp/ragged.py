"""The ragged product: Linear, activation, keep_first, Linear, without computing most of the features that k drops.

Rows of the input are sorted by k, the largest first, and the hidden features are cut into blocks of columns. A block is then
computed only for the rows that keep one of its features or more, the first rows, so that the computed part is ragged:

    hidden features   1 … w   w+1 … 2w   2w+1 … 3w
    rows by k         ██████   ██████     ██████
                      ██████   ██████
                      ██████

Columns rather than rows are cut into blocks because the gradient of the weights of a block is then one product, with nothing to
add up. For backward a block saves the input of its activation and computes the activation again, which takes less memory.

In a gated block the activation is multiplied by a second Linear of the input before keep_first.

The products here are plain computations: `autograd` and `operator` make differentiable functions of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..dims import positions
from ..selection import dispatch
from .activation import Activation
from .operands import Operands

# Products are slow if the number of columns is no multiple of a cache line: on one thread of a CPU with AVX-512, 341 columns
# were computed at 58 GFLOP/s and 320 columns at 90.
_TILE = 16


class Ragged(NamedTuple):
    """The part of the hidden features that is computed, in blocks.

    Block i has the hidden features from `edges[i]` to `edges[i + 1]` of the first `rows[i]` rows. The first `full[i]` rows keep
    the whole block, and the others only a part of it or nothing. `edges` has one entry more than there are blocks.

    If all rows have the same k, `k` is an int and `order` is None. Otherwise `k` holds the k of each row, the largest first,
    and `order` the indices of the rows in this order. With one block of all rows, `k` need not be sorted, and `order` is None.
    """

    edges: list[int]
    rows: list[int]
    full: list[int]
    k: Tensor | int
    order: Tensor | None = None

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """Yield the first feature of each block, the first feature after it, and its number of rows."""
        return zip(self.edges[:-1], self.edges[1:], self.rows, strict=True)

    def elements(self) -> int:
        """Return the number of elements of all blocks."""
        return sum((end - start) * rows for start, end, rows in self.blocks())


def same_k(k: int, n: int, rows: int) -> Ragged:
    """Return one block for `rows` rows that all keep the first k of n features, with its end rounded up to whole tiles."""
    return Ragged([0, min(n, -(-k // _TILE) * _TILE)], [rows], [0], min(k, n))


def k_per_row(k: Tensor, n: int, blocks: int) -> Ragged:
    """Return about `blocks` blocks of n features for rows with the given k, (rows,). On a GPU the host waits for row counts."""
    k, order = k.sort(descending=True)
    return of_sorted(k, order, n, blocks)


def of_sorted(k: Tensor, order: Tensor, n: int, blocks: int) -> Ragged:
    """Return the blocks of `k_per_row` for a k that is sorted, the largest first, and its `order` of the rows."""
    width = -(-n // blocks)
    if width > _TILE:
        width = _TILE * round(width / _TILE)
    edges = [*range(0, n, width), n]
    # Feature j stays iff j ≤ k, so the block after an edge has the rows with k ≥ edge + 1.
    firsts = torch.tensor(edges[:-1], device=k.device, dtype=k.dtype) + 1
    rows: list[int] = torch.searchsorted(-k, -firsts, right=True).tolist()
    return Ragged(edges, [_rounded(each, k.numel()) for each in rows], [*rows[1:], 0], k, order)


def rows_step(rows: int) -> int:
    """Return the step to which the number of rows of a block is rounded up, for an input of `rows` rows.

    oneDNN compiles code for each new number of rows, for activations of every dtype and for products of bfloat16, which takes
    about as long as to compute a block. A block's number of rows is random, with a standard deviation of up to half the root
    of `rows`. Rounded up to multiples of about the root, a few numbers repeat, and are compiled once.
    """
    return 1 << (rows.bit_length() - 1) // 2


def _rounded(count: int, rows: int) -> int:
    step = rows_step(rows)
    return min(rows, -(-count // step) * step)


def whole(k: Tensor, n: int) -> Ragged:
    """Return one block of all rows and all n features, for rows with the given k in any order."""
    return Ragged([0, n], [k.numel()], [0], k)


def forward(operands: Operands, ragged: Ragged, activation: Activation, saved: Tensor | None) -> Tensor:
    """Return the output of the block, of shape (rows, out); `operands.x` has shape (rows, in).

    `saved` is a flat tensor for the results of the inner Linears, with `ragged.elements()` elements or more for each; None if
    there will be no backward.
    """
    x, w1, b1, w2, b2, up, up_bias = operands
    rows = _sorted(x, ragged)
    output = _accumulator(x, w2.size(0))
    if b2 is not None:
        output += b2
    kept = _pieces(saved, ragged, operands)
    for at, (start, end, count) in enumerate(ragged.blocks()):
        active = activation(_linear(rows[:count], w1[start:end], None if b1 is None else b1[start:end], next(kept)))
        if up is not None:
            active = active * _linear(rows[:count], up[start:end], None if up_bias is None else up_bias[start:end], next(kept))
        _add_product(output, _cut(active, ragged, at), w2[:, start:end].t())
    return _unsorted(output.to(x.dtype), ragged)


def backward(
    grad: Tensor, operands: Operands, ragged: Ragged, activation: Activation, saved: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Return the gradient of each operand, or None where `wanted` is False; `forward` has filled `saved`.

    With an activation that passes no gradient on, the gradients of `w1` and `b1` are None, and that of `x` if there is no `up`:
    these are the gradients of the block's modules too.
    """
    x, w1, b1, w2, b2, up, up_bias = operands
    rows, grad = _sorted(x, ragged), _sorted(grad, ragged)
    grad_x = _accumulator(x, x.size(1)) if wanted[0] else None
    grad_w1, grad_b1, grad_w2, grad_up, grad_up_bias = (
        None if each is None or not wanted[at] else _blank(each, ragged, 1 if at == 3 else 0)
        for at, each in ((1, w1), (2, b1), (3, w2), (5, up), (6, up_bias))
    )
    kept, passed = _pieces(saved, ragged, operands), list[bool]()
    for at, (start, end, count) in enumerate(ragged.blocks()):
        part = slice(start, end)
        hidden, lifted = next(kept), None if up is None else next(kept)
        assert hidden is not None
        active, slope_of = activation.with_slope(hidden)
        if any(wanted[at] for at in (0, 1, 2, 5, 6)):
            slope = grad[:count] @ w2[:, part]
            if up is not None and lifted is not None:
                _inner(_cut(slope * active, ragged, at), rows[:count], up[part], part, (grad_x, grad_up, grad_up_bias))
                slope = slope * lifted
            inner = slope_of(slope)
            passed.append(inner is not None)
            inner = torch.zeros_like(slope) if inner is None else inner  # another block may have a gradient
            _inner(_cut(inner, ragged, at), rows[:count], w1[part], part, (grad_x, grad_w1, grad_b1))
        if grad_w2 is not None:  # last, because it writes into `active`, which `slope_of` may read
            active = _cut(active if lifted is None else active * lifted, ragged, at)
            torch.mm(grad[:count].t(), active, out=grad_w2[:, part])
    grad_b2 = grad.sum(0) if wanted[4] and b2 is not None else None
    if passed and not any(passed):  # without a block, as where all is dropped, they are 0
        grad_w1 = grad_b1 = None
        grad_x = None if up is None else grad_x
    grad_x = None if grad_x is None else _unsorted(grad_x.to(x.dtype), ragged)
    return [grad_x, grad_w1, grad_b1, grad_w2, grad_b2, grad_up, grad_up_bias]


def _inner(
    slope: Tensor, rows: Tensor, weight: Tensor, part: slice, grads: tuple[Tensor | None, Tensor | None, Tensor | None]
) -> None:
    """Compute the share of a block in the gradients of an inner Linear: of its input (added up), its weight and its bias.

    `slope` is the gradient of the Linear's result in the block, and `part` the features of the block.
    """
    grad_x, grad_weight, grad_bias = grads
    if grad_bias is not None:
        torch.sum(slope, 0, out=grad_bias[part])
    if grad_weight is not None:
        torch.mm(slope.t(), rows, out=grad_weight[part])
    if grad_x is not None:
        _add_product(grad_x, slope, weight)


def _pieces(flat: Tensor | None, ragged: Ragged, operands: Operands) -> Iterator[Tensor | None]:
    """Yield a view of `flat` for each block and inner Linear, of shape (rows, features of the block); or None for each."""
    place = 0
    for start, end, count in ragged.blocks():
        size = (end - start) * count
        for _ in range(1 if operands.up is None else 2):
            yield None if flat is None else flat[place : place + size].view(count, end - start)
            place += size


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
    if bias is None:
        return torch.mm(rows, weight.t(), out=out)
    return torch.addmm(bias, rows, weight.t(), out=out)


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
        part = slice(ragged.full[at], ragged.rows[at])
        tail, kept = block[part], ragged.k[part, None] - start
        if not dispatch.zero_tail(tail, kept, 1):
            tail.masked_fill_(kept < positions(end - start, 0, 1, block.device), 0)
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
    """Return memory for the gradient of `weight`, zero for the features of dim `dim` that are in no block."""
    grad = torch.empty_like(weight)
    computed = ragged.edges[-1]
    grad.narrow(dim, computed, weight.size(dim) - computed).zero_()
    return grad
