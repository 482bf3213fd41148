"""Find the attributes that a module has when its tensors have given shapes, and check that the shapes fit each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from .cut import PruningError
from .kinds import CHANNEL_NORMS, CONVOLUTIONS, is_conv1d

Shapes = Mapping[str, tuple[int, ...]]
Sizes = dict[str, Any]


def _linear(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    outputs, inputs = shapes["weight"]
    return {"in_features": inputs, "out_features": outputs, "bias": (outputs,)}


def _conv1d(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    inputs, outputs = shapes["weight"]
    return {"nf": outputs, "bias": (outputs,), **({"nx": inputs} if hasattr(module, "nx") else {})}


def _convolution(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    first, second = shapes["weight"][:2]
    # Pruning changes the number of groups only if every channel is its own group.
    depthwise = 1 < module.groups == module.in_channels
    groups = first if depthwise else module.groups
    inputs, outputs = (first, second * groups) if module.transposed else (second * groups, first)
    kernel = (*shapes["weight"][:2], *module.weight.shape[2:])
    return {"in_channels": inputs, "out_channels": outputs, "groups": groups, "weight": kernel, "bias": (outputs,)}


def _batch_norm(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    features = next(shape for key, shape in shapes.items() if key != "num_batches_tracked")
    return {"num_features": features[0], **dict.fromkeys(("weight", "bias", "running_mean", "running_var"), features)}


def _group_norm(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    channels, size = shapes["weight"][0], module.num_channels // module.num_groups
    if channels % size:
        raise PruningError(f"{channels} channels are no multiple of the {size} of a group")
    return {"num_channels": channels, "num_groups": channels // size, "bias": (channels,)}


def _layer_norm(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    return {"normalized_shape": shapes["weight"], "bias": shapes["weight"]}


def _embedding(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    return {"embedding_dim": shapes["weight"][1], "weight": (module.num_embeddings, shapes["weight"][1])}


def _prelu(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    return {"num_parameters": shapes["weight"][0]}


def _recurrent(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    first = {"weight_ih_l0", "weight_ih_l0_reverse"}
    inputs = shapes["weight_ih_l0"][1]
    fixed = {key: tuple(tensor.shape) for key, tensor in module.named_parameters() if key not in first}
    rows = {key: (module._parameters[key].shape[0], inputs) for key in first & shapes.keys()}
    return {"input_size": inputs, **fixed, **rows}


# By type of module, a function from the shapes of its tensors to the attributes and other shapes that follow.
_KNOWN: list[tuple[type[nn.Module] | tuple[type[nn.Module], ...], Callable[[Any, Mapping[str, tuple[int, ...]]], Sizes]]] = [
    (nn.Linear, _linear),
    (CONVOLUTIONS, _convolution),
    (CHANNEL_NORMS, _batch_norm),
    (nn.GroupNorm, _group_norm),
    (nn.LayerNorm, _layer_norm),
    (nn.Embedding, _embedding),
    (nn.PReLU, _prelu),
    (nn.RNNBase, _recurrent),
]


def attributes(module: nn.Module, shapes: Shapes) -> dict[str, Any]:
    """Return the attributes, such as `in_features`, that a module needs once its tensors have these smaller shapes.

    The result is empty if the shapes are those that the tensors have.

    Raises:
        PruningError: if a shape is larger than in the module, or the shapes do not fit the module or each other.
    """
    before = {key: tuple(tensor.shape) for key in shapes if isinstance(tensor := getattr(module, key), Tensor)}
    if shapes == before:
        return {}
    for key, full in before.items():
        shape = shapes[key]
        if len(shape) != len(full) or any(not 1 <= new <= old for new, old in zip(shape, full, strict=True)):
            raise PruningError(f"its {key} has shape {full} in the model and {shape} in the checkpoint, which is no part of it")
    if hasattr(module, "original0") or hasattr(module, "original"):
        raise PruningError("its tensors have other shapes")
    rule = _conv1d if is_conv1d(module) else next((rule for kind, rule in _KNOWN if isinstance(module, kind)), None)
    sizes = rule(module, shapes) if rule else {}
    for key, shape in shapes.items():
        if key in sizes and shape != tuple(sizes[key]):
            raise PruningError(f"its {key} has shape {shape} in the checkpoint, and the other tensors ask for {sizes[key]}")
    return {key: value for key, value in sizes.items() if key not in module._parameters and key not in module._buffers}
