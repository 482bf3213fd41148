"""Inputs that are no plain tensors: proxies of torch.fx, and classes that override torch's functions."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import nn
from torch.fx import Proxy, Tracer
from torch.overrides import has_torch_function


def overridden(*inputs: object) -> bool:
    """Return True if the class of an input overrides torch's functions; always False in compiled code."""
    return not torch.compiler.is_compiling() and has_torch_function(inputs)


def refuse_script(module: nn.Module) -> NoReturn:
    """Raise TypeError. As `__prepare_scriptable__` of a layer, this is the first call that `torch.jit.script` makes."""
    raise TypeError(f"{type(module).__name__} cannot be scripted; use torch.jit.trace, torch.export or torch.compile instead")


def in_model(module: nn.Module, input: object) -> bool:
    """Return True if torch.fx is tracing a model around `module`, and not `module` alone."""
    return isinstance(input, Proxy) and isinstance(input.tracer, Tracer) and input.tracer.root is not module


def node(module: nn.Module, input: object) -> Any:
    """Record the call of `module` as one node of a torch.fx graph, like a call of nn.Dropout, and return its proxy.

    Raises:
        TypeError: if `input` is not a proxy of torch.fx, or `module` is traced alone.
    """
    if not isinstance(input, Proxy):
        raise TypeError(f"input has type {type(input).__name__}; give a tensor")
    if not in_model(module, input):
        raise TypeError(f"{type(module).__name__} is one node of a model that torch.fx traces; trace the model that holds it")
    return input.tracer.create_proxy("call_module", input.tracer.path_of_module(module), (input,), {})  # type: ignore[attr-defined]
