"""keep_first as an autograd function that saves k alone: 4 bytes per sample instead of a byte per element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from .._torch import transforms_active
from .dispatch import keep_unrecorded


class _KeepFirst(torch.autograd.Function):
    """keep_first for autograd. It is linear in the input, so its derivatives, backward and forward, are keep_first too."""

    @staticmethod
    def forward(input: Tensor, k: Tensor, feature: int) -> Tensor:
        return keep_unrecorded(input, k, feature)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, k, ctx.feature = inputs
        ctx.save_for_backward(k)
        ctx.save_for_forward(k)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (k,) = ctx.saved_tensors
        differentiable = torch.is_grad_enabled() or transforms_active()  # for a second derivative
        return (keep_saving_k if differentiable else keep_unrecorded)(grad, k, ctx.feature), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (k,) = ctx.saved_tensors
        return keep_saving_k(tangent, k, ctx.feature)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], input: Tensor, k: Tensor, feature: int) -> tuple[Tensor, int]:
        """Return the output for a batch of inputs and the dim of the batch in it; `in_dims` are the batch's dims in both."""
        at = in_dims[0]
        input = input.expand(info.batch_size, *input.shape) if at is None else input.movedim(at, 0)
        if in_dims[1] is not None:
            k = k.movedim(in_dims[1], 0)
            k = k.reshape(-1, *(k.shape[1:] or [1] * (input.dim() - 1)))
        elif k.dim():
            k = k.unsqueeze(0)
        return keep_saving_k(input, k, feature + 1), 0


# `Function.apply` inspects the signature of `forward` at every call, which takes longer than a kernel. The `apply` of its base
# class does not, and only functorch needs the inspection.
_apply: Callable[..., Tensor] = super(torch.autograd.Function, _KeepFirst).apply


def keep_saving_k(input: Tensor, k: Tensor, feature: int) -> Tensor:
    """Return keep_first of `input`, for which autograd saves k alone."""
    if transforms_active():
        return cast(Tensor, _KeepFirst.apply(input, k, feature))  # type: ignore[no-untyped-call]
    return _apply(input, k, feature)
