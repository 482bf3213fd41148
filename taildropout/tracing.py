"""Layers as nodes of the graphs that torch.fx traces, and functions that the class of their input may override."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import nn
from torch.fx import Proxy, Tracer
from torch.overrides import has_torch_function


def overridden(*inputs: object) -> bool:
    """Return True if the class of an input takes over functions that it is given to; a compiler looks into them instead."""
    return not torch.compiler.is_compiling() and has_torch_function(inputs)


def refuse_script(module: nn.Module) -> NoReturn:
    """Raise TypeError in place of what `torch.jit.script` says about a module that it cannot read."""
    raise TypeError(f"{type(module).__name__} cannot be scripted; use torch.jit.trace, torch.export or torch.compile instead")


def in_model(module: nn.Module, input: object) -> bool:
    """Return True if torch.fx traces a model that holds `module`, and not the module alone."""
    return isinstance(input, Proxy) and isinstance(input.tracer, Tracer) and input.tracer.root is not module


def node(module: nn.Module, input: object) -> Any:
    """Return the call of `module` as one node of the graph that torch.fx traces, as a call of nn.Dropout is one.

    Raises:
        TypeError: if `input` is no proxy of torch.fx, or no model around `module` is traced.
    """
    if not isinstance(input, Proxy):
        raise TypeError(f"input is a {type(input).__name__}; give a tensor")
    if not in_model(module, input):
        raise TypeError(f"{type(module).__name__} is one node of a model that torch.fx traces; trace the model that holds it")
    return input.tracer.create_proxy("call_module", input.tracer.path_of_module(module), (input,), {})  # type: ignore[attr-defined]
