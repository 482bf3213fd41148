"""Check the arguments of `prune`: find the layers and widths, and refuse models that cannot be cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .._torch import tree_leaves
from ..fixed_k import check_k
from ..layer import TailDropout
from ..names import named
from .cut import PruningError
from .kinds import CHANNEL_NORMS
from .verification import Inputs

# The names under which methods of quantisation store integer weights.
_INTEGER_WEIGHTS = ("weight", "qweight", "weight_packed", "W_q")


def resolve(model: nn.Module, widths: Mapping[Any, Any]) -> dict[str, int]:
    """Return the width k of each layer by its name; keys of `widths` are names, patterns as in `fnmatch`, or layers.

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
    """Return the layers that a name, a pattern or a layer stands for."""
    if isinstance(key, TailDropout):
        if key not in layers.values():
            there = ", ".join(map(repr, layers))
            raise ValueError(f"layer is not in the model (a copy is another layer); the model's TailDropouts are: {there}")
        return [key]
    if not isinstance(key, str):
        raise TypeError(f"layer has type {type(key).__name__}; give a TailDropout of the model, or its name")
    return list(named(model, TailDropout, key, "layer").values())


def _check_width(k: Any) -> int:
    if isinstance(k, Tensor):
        raise TypeError("k is a tensor; a network is cut at one width: give an int")
    if check_k(k, "an int") == 0:
        raise ValueError("k=0 leaves no feature and no network; give 1 or more")
    return int(k)


def as_arguments(example_inputs: Any) -> Inputs:
    """Return the example inputs as a tuple of positional arguments or a dict of keyword arguments of the model.

    Raises:
        TypeError: if the example inputs are neither a tensor, a tuple, a list nor a mapping.
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
        f"example_inputs has type {type(example_inputs).__name__}; give a tensor, or a tuple or a dict of arguments"
    )


def check_model(model: nn.Module) -> None:
    """Refuse models whose weights are not plain tensors of floats in memory.

    Raises:
        ValueError: if the model is compiled.
        PruningError: if a weight is on the meta device, quantised, sharded or uninitialised (lazy), or holds NaN.
    """
    if any(hasattr(module, "_orig_mod") for module in model.modules()):
        raise ValueError("the model is compiled; prune the original model (model._orig_mod), and compile the result")
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
        if isinstance(tensor, nn.Parameter) and tensor.isnan().any():
            raise PruningError(f"{name!r} holds NaN, so that nothing can be checked; prune a network whose weights are numbers")


def check_numbers(inputs: Inputs, outputs: list[Any]) -> None:
    """Refuse example inputs on which all outputs are NaN, since then nothing can be checked.

    Raises:
        PruningError: if all outputs are NaN.
    """
    floats = [each for each in outputs if isinstance(each, Tensor) and each.is_floating_point() and each.numel()]
    if floats and all(each.isnan().all() for each in floats):
        where = "The example inputs hold NaN; give numbers" if holds_nan(inputs) else "Give inputs on which outputs are numbers"
        raise PruningError(f"every output is NaN on the example inputs, so that nothing can be checked. {where}")


def holds_nan(inputs: Inputs) -> bool:
    """Return True if a tensor of the example inputs holds NaN."""
    return any(isinstance(each, Tensor) and bool(each.isnan().any()) for each in tree_leaves(inputs))


def _quantised(name: str, kind: str) -> PruningError:
    return PruningError(
        f"{name!r} is quantised ({kind}), and features of quantised weights cannot be removed exactly; "
        "prune the model before it is quantised"
    )


def tied(model: nn.Module, names: set[str]) -> str | None:
    """Return the names of a parameter that several modules share and that belongs to the modules or parameters `names`.

    Returns None if there is no such parameter.
    """
    owners: dict[int, dict[int, str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner = model.get_submodule(name.rpartition(".")[0])
        owners.setdefault(id(parameter), {}).setdefault(id(owner), name)
    for shared in owners.values():
        if len(shared) > 1 and any(name in names or name.rpartition(".")[0] in names for name in shared.values()):
            return " and ".join(map(repr, shared.values()))
    return None


def buffers_of_size(model: nn.Module, sizes: set[int]) -> list[str]:
    """Return the names of the buffers with a dim of one of `sizes`, but for those of normalisations, which can be cut."""
    known = tuple(name for name, module in model.named_modules() if isinstance(module, CHANNEL_NORMS))
    named = [(name, buffer) for name, buffer in model.named_buffers() if name.rpartition(".")[0] not in known]
    return [name for name, buffer in named if sizes & {*buffer.shape}]


def devices_of(model: nn.Module) -> set[torch.device]:
    """Return the GPUs that hold parameters or buffers of the model."""
    return {tensor.device for tensor in [*model.parameters(), *model.buffers()] if tensor.is_cuda}
