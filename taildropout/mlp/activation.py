"""The activation of a TailMLP: any elementwise module in eager mode, or one of a few known by name to compilers too."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

Slope = Callable[[Tensor], Tensor]


class Activation(Protocol):
    """An elementwise function with its derivative."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the activation of `hidden`, which stays unchanged."""

    def with_slope(self, hidden: Tensor) -> tuple[Tensor, Slope]:
        """Return the activation, and a function from the gradient of the activation to the gradient of `hidden`.

        The function may read the activation, so the activation must not change before the call.
        """


class OfModule(NamedTuple):
    """An elementwise module, and the autocast dtype in which it runs, forward and again in backward."""

    module: nn.Module
    device_type: str
    autocast: torch.dtype | None

    def __call__(self, hidden: Tensor) -> Tensor:
        # An activation that writes into its input must not change what is saved for backward, nor a leaf of autograd.
        hidden = hidden.clone() if getattr(self.module, "inplace", False) else hidden
        with torch.autocast(self.device_type, self.autocast, self.autocast is not None):
            result: Tensor = self.module(hidden)
        # A module that returns its input must not have it cut in place. Linear casts its input in autocast.
        return result.clone() if result is hidden else result.to(hidden.dtype)

    def with_slope(self, hidden: Tensor) -> tuple[Tensor, Slope]:
        """Return the activation as autograd computes it, and a function that runs autograd."""
        with torch.enable_grad():
            hidden = hidden.detach().requires_grad_()
            active = self(hidden)
        return active.detach(), lambda grad: torch.autograd.grad(active, hidden, grad)[0]


class Named(NamedTuple):
    """An activation that a compiled graph knows by its name: no module and no autograd within an operator."""

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
    "identity": torch.clone,  # the result is cut in place
}
# From the gradient, the input of the activation and its result.
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
