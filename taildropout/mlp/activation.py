"""The activation of a TailMLP: any elementwise module in eager mode; in compiled code one of a few known by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

Slope = Callable[[Tensor], Tensor | None]


class Activation(Protocol):
    """An elementwise function with its derivative."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the activation of `hidden`, which stays unchanged."""

    def with_slope(self, hidden: Tensor) -> tuple[Tensor, Slope]:
        """Return the activation, and a function from the gradient of the activation to the gradient of `hidden`.

        The function returns None if the activation passes no gradient on, as a step function does not. It may
        read the activation, so do not write into the activation before calling the function.
        """


class NotElementwiseError(Exception):
    """An activation that passed its trial depends on more than its input, so that only its module can compute it."""


class OfModule(NamedTuple):
    """An elementwise module and the autocast dtype in which it runs, also in backward; None: without autocast.

    If `training`, a call raises NotElementwiseError if the module uses tensors of its own that require grad.
    """

    module: nn.Module
    device_type: str
    autocast: torch.dtype | None
    training: bool

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the result of the module."""
        if torch.is_grad_enabled() or not self.training:
            return self._result(hidden)
        with torch.enable_grad():  # the forward of a function of autograd, where `hidden` does not require grad
            result = self._result(hidden.detach())
        if result.requires_grad:
            raise NotElementwiseError("uses tensors of its own that require grad")
        return result

    def _result(self, hidden: Tensor) -> Tensor:
        # An activation that writes into its input must not change what is saved for backward, nor a leaf of autograd.
        hidden = hidden.clone() if getattr(self.module, "inplace", False) else hidden
        with torch.autocast(self.device_type, self.autocast, self.autocast is not None):
            result: Tensor = self.module(hidden)
        # The caller zeroes the tail of the result in place, so the result must not be `hidden`. Linear casts anyway.
        return result.clone() if result is hidden else result.to(hidden.dtype)

    def with_slope(self, hidden: Tensor) -> tuple[Tensor, Slope]:
        """Return the activation as autograd computes it, and a function that runs autograd."""
        with torch.enable_grad():
            hidden = hidden.detach().requires_grad_()
            active = self(hidden)

        def slope(grad: Tensor) -> Tensor | None:
            return torch.autograd.grad(active, hidden, grad, allow_unused=True)[0] if active.requires_grad else None

        return active.detach(), slope


class Named(NamedTuple):
    """An activation given by its name, for operators in compiled graphs, which can use neither a module nor autograd."""

    name: str

    def __call__(self, hidden: Tensor) -> Tensor:
        return _FORWARD[self.name](hidden)

    def with_slope(self, hidden: Tensor) -> tuple[Tensor, Slope]:
        """Return the activation, and the backward formula that torch has for it."""
        active = self(hidden)
        return active, lambda grad: _BACKWARD[self.name](grad, hidden, active)


_FORWARD: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda hidden: functional.gelu(hidden, approximate="tanh"),
    "relu": torch.relu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "identity": torch.clone,  # a copy, because the caller zeroes the tail of the result in place
}
# Functions of the gradient, the input of the activation and the result of the activation.
_BACKWARD: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "gelu": lambda grad, hidden, _: torch.ops.aten.gelu_backward(grad, hidden),
    "gelu_tanh": lambda grad, hidden, _: torch.ops.aten.gelu_backward(grad, hidden, approximate="tanh"),
    "relu": lambda grad, hidden, _: torch.ops.aten.threshold_backward(grad, hidden, 0),
    "silu": lambda grad, hidden, _: torch.ops.aten.silu_backward(grad, hidden),
    "tanh": lambda grad, _, active: torch.ops.aten.tanh_backward(grad, active),
    "sigmoid": lambda grad, _, active: torch.ops.aten.sigmoid_backward(grad, active),
    "identity": lambda grad, *_: grad,
}
_NAMES = {nn.ReLU: "relu", nn.SiLU: "silu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.Identity: "identity"}


def name_of(module: nn.Module) -> str | None:
    """Return the name under which compiled graphs know this activation, or None if they do not. Compilers can trace it."""
    if type(module) is nn.GELU:
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    return _NAMES.get(type(module))
