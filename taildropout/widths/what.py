"""The name of a loss or metric, its options, and whether more of it is better."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn


def innermost(loss: Any) -> Any:
    """Return the loss inside a `functools.partial`, or inside several; a loss that is no partial as it is."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return loss


def option_of(loss: Any, name: str, default: Any = None) -> Any:
    """Return an option of a loss, such as `reduction`: an attribute, or a keyword argument of a `functools.partial`."""
    while isinstance(loss, functools.partial):
        if name in loss.keywords:
            return loss.keywords[name]
        loss = loss.func
    return getattr(loss, name, default)


def direction_of(loss: Callable[..., Any] | None) -> bool | None:
    """Return whether more is better: False for torch's losses and for the model's own loss (None); None if unknown."""
    loss = innermost(loss)
    if loss is None:
        return False
    if isinstance(loss, nn.Module):
        known = any(kind.__module__ == "torch.nn.modules.loss" for kind in type(loss).__mro__)
    else:
        name = getattr(loss, "__name__", "")
        is_loss = name.endswith(("_loss", "cross_entropy", "cross_entropy_with_logits")) or name == "kl_div"
        known = is_loss and getattr(loss, "__module__", None) == "torch.nn.functional"
    return False if known else None


def name_of(loss: Callable[..., Any] | None) -> str:
    """Return the name of a loss; "loss" for the model's own loss (None), and "" for a lambda or another loss without a name."""
    loss = innermost(loss)
    if loss is None:
        return "loss"
    name = type(loss).__name__ if isinstance(loss, nn.Module) else getattr(loss, "__name__", "")
    return "" if name == "<lambda>" else str(name)
