"""The ragged product as a function of autograd, for eager mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .._torch import has_storage
from ..selection import select, transformed
from .activation import Activation
from .operands import Operands
from .ragged import Ragged, backward, forward


def full_product(operands: Operands, ragged: Ragged, activation: Activation) -> Tensor:
    """Return the block's output, (rows, out), by differentiable operations of torch on all features, also dropped ones."""
    x, w1, b1, w2, b2, up, up_bias = operands
    if isinstance(ragged.k, int):
        k = torch.tensor(ragged.k, device=x.device)
    else:
        in_order = ragged.k if ragged.order is None else torch.empty_like(ragged.k).index_copy_(0, ragged.order, ragged.k)
        k = in_order.unsqueeze(1)
    active = activation(functional.linear(x, w1, b1))
    if up is not None:
        active = active * functional.linear(x, up, up_bias)
    return functional.linear(select(active, k, 1), w2, b2)


def differentiable_gradients(
    grad: Tensor, operands: Operands, ragged: Ragged, activation: Activation, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Return the gradient of each operand by differentiable operations on all features; in grad mode it is differentiable too.

    It is None where `wanted` is False, and where an activation that passes no gradient on leaves none.
    """
    # Autograd gives a tensor its gradient along every path. An alias of each operand has only the path of this operand, also
    # where two operands are one tensor or `x` was computed with the weights.
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = Operands(*(None if each is None else each.view_as(each) for each in operands))  # type: ignore[arg-type]
        chosen = [alias for alias, need in zip(aliases, wanted, strict=True) if need and alias is not None]
        product = full_product(aliases, ragged, activation)
    if not product.requires_grad:
        return [None] * len(aliases)
    grads = iter(torch.autograd.grad(product, chosen, grad, create_graph=again, allow_unused=True))
    return [next(grads) if need and alias is not None else None for alias, need in zip(aliases, wanted, strict=True)]


class _RaggedProduct(torch.autograd.Function):
    """The ragged product, with a backward that is a ragged product too."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w1: Tensor,
        b1: Tensor | None,
        w2: Tensor,
        b2: Tensor | None,
        up: Tensor | None,
        up_bias: Tensor | None,
        ragged: Ragged,
        activation: Activation,
        training: bool,
    ) -> Tensor:
        """Return the output, of shape (rows, out); if `training`, save what goes into the activation."""
        operands = Operands(x, w1, b1, w2, b2, up, up_bias)
        saved = x.new_empty(ragged.elements() * (1 if up is None else 2)) if training else None
        ctx.ragged, ctx.activation = ragged, activation
        ctx.save_for_backward(*operands, saved)
        return forward(operands, ragged, activation, saved)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the seven operands, None where none is wanted or left, and None for the other arguments."""
        *tensors, saved = ctx.saved_tensors
        operands, wanted = Operands(*tensors), ctx.needs_input_grad[:7]
        many = transformed() or not has_storage(grad)  # gradients at once, by vmap
        if torch.is_grad_enabled() or many:  # the former for a second derivative
            return *differentiable_gradients(grad, operands, ctx.ragged, ctx.activation, wanted), None, None, None
        return *backward(grad, operands, ctx.ragged, ctx.activation, saved, wanted), None, None, None


def ragged_product(operands: Operands, ragged: Ragged, activation: Activation) -> Tensor:
    """Return the result of `full_product` from the blocks in `ragged` alone.

    `operands.x` has shape (rows, in); the result has shape (rows, out).
    """
    training = torch.is_grad_enabled() and any(each.requires_grad for each in operands.tensors())
    result: Tensor = _RaggedProduct.apply(*operands, ragged, activation, training)  # type: ignore[no-untyped-call]
    return result
