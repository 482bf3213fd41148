"""What prune accepts: which layers and widths are meant, and which models can be cut at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..fixed_k import check_k
from ..layer import TailDropout
from ..names import named
from .cut import PruningError
from .verification import Inputs

# What methods of quantisation call the integers that stand for a weight.
_INTEGER_WEIGHTS = ("weight", "qweight", "weight_packed", "W_q")


def resolve(model: nn.Module, widths: Mapping[Any, Any]) -> dict[str, int]:
    """Return k by the name of the layer; keys of `widths` are names, patterns as in `fnmatch`, or layers of the model.

    Raises:
        TypeError, ValueError, KeyError: as in `prune`.
    """
    layers = named(model, TailDropout, None)
    first = {layer: name for name, layer in reversed(layers.items())}  # a layer in several places goes by its first name
    if not widths:
        raise ValueError(f"widths is empty; give a width for one of {', '.join(map(repr, layers))}")
    resolved: dict[str, int] = {}
    for key, k in widths.items():
        k = _check_width(k)
        for layer in _matching(model, layers, key):
            name = first[layer]
            if resolved.setdefault(name, k) != k:
                raise ValueError(f"{name!r} is given two widths, k={resolved[name]} and k={k}; give one")
    return resolved


def _matching(model: nn.Module, layers: Mapping[str, TailDropout], key: Any) -> list[TailDropout]:
    """Return the layers that a key stands for."""
    if isinstance(key, TailDropout):
        if key not in layers.values():
            there = ", ".join(map(repr, layers))
            raise ValueError(f"layer is not in the model (a copy is another layer); there are {there}")
        return [key]
    if not isinstance(key, str):
        raise TypeError(f"layer is a {type(key).__name__}; give a TailDropout of the model, or its name")
    return list(named(model, TailDropout, key, "layer").values())


def _check_width(k: Any) -> int:
    if isinstance(k, Tensor):
        raise TypeError("k is a tensor; a network is cut at one width: give an int")
    if check_k(k, "an int") == 0:
        raise ValueError("k=0 leaves no feature and no network; give 1 or more")
    return int(k)


def as_arguments(example_inputs: Any) -> Inputs:
    """Return the example inputs as positional or named arguments of the model.

    Raises:
        TypeError: if they are neither.
    """
    if isinstance(example_inputs, Tensor):
        return (example_inputs,)
    if isinstance(example_inputs, Mapping):
        return dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs)
    if type(example_inputs).__module__ == "numpy":
        raise TypeError("example_inputs is a NumPy array; give tensors: torch.from_numpy(array)")
    raise TypeError(
        f"example_inputs is a {type(example_inputs).__name__}; give a tensor, a tuple of arguments or a dict of them"
    )


def check_model(model: nn.Module) -> None:
    """Refuse models whose weights are not there as plain numbers.

    Raises:
        ValueError: if the model is compiled.
        PruningError: if a weight is on the meta device, quantised, sharded or not yet made.
    """
    if any(hasattr(module, "_orig_mod") for module in model.modules()):
        raise ValueError("the model is compiled; prune what it was made of (model._orig_mod), and compile the result")
    for name, module in model.named_modules():
        if ".ao.nn.quantized" in type(module).__module__ or ".nn.quantized" in type(module).__module__:
            raise _quantised(name, type(module).__name__)
        for key, buffer in module.named_buffers(recurse=False):
            if key in _INTEGER_WEIGHTS and not (buffer.is_floating_point() or buffer.is_complex()):
                raise _quantised(f"{name}.{key}", str(buffer.dtype))
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise PruningError(f"{name!r} has no size before the first forward; run the model once")
        if tensor.is_meta:
            raise PruningError(
                f"{name!r} is on the meta device, offloaded or not yet loaded; load the whole model into memory first "
                "(from_pretrained without device_map)"
            )
        if isinstance(tensor, nn.Parameter) and not (tensor.is_floating_point() or tensor.is_complex()):
            raise _quantised(name, str(tensor.dtype))
        if hasattr(tensor, "placements"):
            raise PruningError(f"{name!r} is sharded over devices; gather the whole model first, then prune it")
        if isinstance(tensor, nn.Parameter) and type(tensor.data) is not Tensor:
            raise _quantised(name, type(tensor.data).__name__)


def _quantised(name: str, kind: str) -> PruningError:
    return PruningError(
        f"{name!r} is quantised ({kind}), and features of quantised weights cannot be removed exactly; "
        "prune the model before it is quantised"
    )


def tied(model: nn.Module, names: set[str]) -> str | None:
    """Return the names of a parameter that a cut of these modules or parameters touches and that other modules share."""
    owners: dict[int, dict[int, str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner = model.get_submodule(name.rpartition(".")[0])
        owners.setdefault(id(parameter), {}).setdefault(id(owner), name)
    for shared in owners.values():
        if len(shared) > 1 and any(name in names or name.rpartition(".")[0] in names for name in shared.values()):
            return " and ".join(map(repr, shared.values()))
    return None


def devices_of(model: nn.Module) -> set[torch.device]:
    """Return the GPUs that hold weights of the model."""
    return {tensor.device for tensor in [*model.parameters(), *model.buffers()] if tensor.is_cuda}
