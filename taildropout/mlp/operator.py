"""The ragged product as two operators, forward and backward, that compilers keep whole in their graphs.

K is drawn outside, by the code that draws it for the compiled `TailDropout`. The operators are named after the package's import
name, so that two versions can be loaded in one process. The blocks are chosen when the operators run, so that another k, p
or number of rows needs no recompilation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from . import cost
from .activation import Named
from .autograd import differentiable_gradients
from .operands import Operands
from .ragged import Ragged, backward, forward, k_per_row, of_sorted, same_k, whole

_NAMESPACE = __name__.rsplit(".", 2)[0].replace(".", "_")
_OPERANDS = "Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, Tensor? up, Tensor? up_bias"


@custom_op(
    f"{_NAMESPACE}::ragged_mlp",
    mutates_args=(),
    schema=f"({_OPERANDS}, Tensor k, str activation, bool training) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def ragged_mlp(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    up: Tensor | None,
    up_bias: Tensor | None,
    k: Tensor,
    activation: str,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute Linear, activation (times a second Linear), keep_first, Linear without most of the features that k drops.

    Args:
        x, w1, b1, w2, b2, up, up_bias: as in `Operands`, with x of shape (rows, in); all of one dtype.
        k: (rows,), or 0-d for all rows.
        activation: one of the names of `activation.name_of`.
        training: if True, save for backward.

    Returns:
        The output (rows, out), and for backward: memory for the results of the inner Linears, flat, with rows · n elements for
        each, some of them unwritten; the order of the rows by k; k in this order; and the number of blocks, 0-d.
    """
    operands = Operands(x, w1, b1, w2, b2, up, up_bias)
    ragged, blocks = _planned(operands, k, training)
    saved = _flat(operands, training)
    output = forward(operands, ragged, Named(activation), saved if training else None)
    order = ragged.order if ragged.order is not None else torch.zeros_like(k, dtype=torch.int64)
    sorted_k = ragged.k if ragged.order is not None and isinstance(ragged.k, Tensor) else k.clone()
    return output, saved, order, sorted_k, torch.tensor(blocks, device="cpu")


def _flat(operands: Operands, training: bool) -> Tensor:
    """Return memory for the results of the inner Linears, flat; empty if not `training`.

    The size is a bound that does not depend on k. On a CPU, pages that are never written take no memory.
    """
    return operands.x.new_empty(operands.x.size(0) * operands.w1.size(0) * (1 if operands.up is None else 2) if training else 0)


def _planned(operands: Operands, k: Tensor, training: bool) -> tuple[Ragged, int]:
    """Return the blocks to compute and their number; if skipping does not pay, one block of all rows and features, and 0."""
    x, rows, n = operands.x, operands.x.size(0), operands.w1.size(0)
    if k.dim() == 0:
        return same_k(_first(k, n), n, rows), 1
    kept = k.clamp(max=n)
    share, all_kept = torch.stack([kept.double().mean() / n, (kept == n).double().mean()]).tolist()
    blocks = cost.blocks_that_pay(n, rows, operands.ends, share, all_kept, cost.costs_of(x.device.type, x.dtype), training)
    return (k_per_row(k, n, blocks) if blocks else whole(k, n)), blocks


def _again(operands: Operands, order: Tensor, k: Tensor, blocks: int) -> Ragged:
    """Return the blocks that the forward operator computed, from its results `order`, `k` and `blocks`."""
    n = operands.w1.size(0)
    if k.dim() == 0:
        return same_k(_first(k, n), n, operands.x.size(0))
    return of_sorted(k, order, n, blocks) if blocks else whole(k, n)


def _first(k: Tensor, n: int) -> int:
    return int(k.clamp(max=n))  # k may be an exponential, which may be inf


@ragged_mlp.register_fake
def _fake(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    up: Tensor | None,
    up_bias: Tensor | None,
    k: Tensor,
    activation: str,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    operands = Operands(x, w1, b1, w2, b2, up, up_bias)
    blocks = torch.empty((), dtype=torch.int64, device="cpu")
    order = k.new_empty(k.shape, dtype=torch.int64)
    return x.new_empty(x.size(0), w2.size(0)), _flat(operands, training), order, k.new_empty(k.shape), blocks


@custom_op(
    f"{_NAMESPACE}::ragged_mlp_backward",
    mutates_args=(),
    schema=f"(Tensor grad, {_OPERANDS}, Tensor saved, Tensor order, Tensor k, Tensor blocks, str activation, bool[] wanted) "
    "-> Tensor[]",
)
def ragged_mlp_backward(
    grad: Tensor,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    up: Tensor | None,
    up_bias: Tensor | None,
    saved: Tensor,
    order: Tensor,
    k: Tensor,
    blocks: Tensor,
    activation: str,
    wanted: list[bool],
) -> list[Tensor]:
    """Return the gradients of the operands for which `wanted` is True, in the order of `Operands`, without the others.

    `saved`, `order`, `k` and `blocks` are results of `ragged_mlp`.
    """
    operands = Operands(x, w1, b1, w2, b2, up, up_bias)
    ragged = _again(operands, order, k, int(blocks))
    grads = backward(grad, operands, ragged, Named(activation), saved, wanted)
    return [each for each in grads if each is not None]


@ragged_mlp_backward.register_fake
def _fake_backward(
    grad: Tensor,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    up: Tensor | None,
    up_bias: Tensor | None,
    saved: Tensor,
    order: Tensor,
    k: Tensor,
    blocks: Tensor,
    activation: str,
    wanted: list[bool],
) -> list[Tensor]:
    likes = x.new_empty(x.shape), w1, b1, w2, None if b2 is None else b2.new_empty(b2.shape), up, up_bias
    return [torch.empty_like(each) for each, need in zip(likes, wanted, strict=True) if need and each is not None]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *operands, _, ctx.activation, _ = inputs
    ctx.save_for_backward(*operands, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad[:7])
    if torch.is_grad_enabled():  # for a second derivative, which compilers that trace backward refuse
        *tensors, _, order, k, blocks = ctx.saved_tensors
        operands = Operands(*tensors)
        ragged = _again(operands, order, k, int(blocks))
        return *differentiable_gradients(grad, operands, ragged, Named(ctx.activation), wanted), None, None, None
    grads = iter(ragged_mlp_backward(grad, *ctx.saved_tensors, ctx.activation, wanted))
    return *(next(grads) if need else None for need in wanted), None, None, None


ragged_mlp.register_autograd(_backward, setup_context=_save)
