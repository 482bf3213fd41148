"""Describe the operations around a layer that need all its features, as far as their names in torch-pruning's graph tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from .kinds import is_product

# Operations that mix features, by autograd's names for them.
_MIXING = (
    "softmax",
    "norm",
    "mean",
    "sum",
    "mm",
    "dot",
    "cum",
    "sort",
    "topk",
    "prod",
    "var",
    "std",
    "fft",
    "glu",
    "attention",
)


def _contracts(graph: Any, node: Any) -> bool:
    """Return True if the input features and the output features of a node are different features, as for a Linear."""
    handler = graph.get_pruner_of_module(node.module)
    return bool(handler.prune_in_channels != handler.prune_out_channels)


def _around(graph: Any, start: Any, neighbours: str) -> Iterator[Any]:
    """Yield the nodes before ("inputs") or after ("outputs") `start`, on each path up to and with the first that contracts."""
    seen, waiting = {start}, list(getattr(start, neighbours))
    while waiting:
        node = waiting.pop(0)
        if node not in seen:
            seen.add(node)
            yield node
            if not _contracts(graph, node):
                waiting += getattr(node, neighbours)


def _obstacle(graph: Any, node: Any, after: bool, features: int) -> str | None:
    """Describe why an operation needs all features of the layer, if its name or type says so."""
    module = node.module
    name = (graph._param_to_name if isinstance(module, nn.Parameter) else graph._module2name).get(module)
    if isinstance(module, nn.GroupNorm):
        size = module.num_channels // module.num_groups
        return f"{name!r} (GroupNorm) mixes features, unless k is a multiple of {size}"
    if isinstance(module, nn.LayerNorm | nn.RNNBase | nn.MultiheadAttention | nn.Bilinear):
        return f"{name!r} ({type(module).__name__}) mixes features"
    if name is not None:
        return None
    operation = str(node.grad_fn.name()).partition("Backward")[0]
    product = operation.lower().endswith("mm")
    if product and any(is_product(each.module) for each in node.outputs):
        return None  # the product inside a module that is known
    if product and (weight := _own_weight(graph, node)):
        owner = graph.model.get_submodule(weight.rpartition(".")[0])
        if isinstance(owner, nn.RNNCellBase):
            return f"{weight.rpartition('.')[0]!r} ({type(owner).__name__}) mixes features"
        return f"{weight!r} is the weight of a module of a type that torch-pruning does not know; use a Linear"
    if any(word in operation.lower() for word in _MIXING):
        return f"{operation.lower()} mixes features"
    return _sum_obstacle(graph, node, features) if after and operation in ("Add", "Sub") else None


def _sum_obstacle(graph: Any, node: Any, features: int) -> str | None:
    """Describe why a sum or a difference needs all features: what is added is neither dropped nor constant."""
    learned = [parameters for each in node.inputs if (parameters := _parameters_alone(graph, each))]
    if len(node.inputs) > 1 + len(learned):
        return "a residual connection around the layer (a sum with features that do not pass it) needs all features"
    # One number for each feature can be cut, and what dropped features hold then is added to a bias.
    varying = [each for parameters in learned for each in parameters if each.numel() not in (1, features)]
    if not varying:
        return None
    names = " and ".join(repr(graph._param_to_name[each]) for each in varying)
    return f"{names} is added to the features after the layer, and differs between positions; add it before the layer"


def _parameters_alone(graph: Any, node: Any) -> list[nn.Parameter]:
    """Return the parameters of which a node is made; none if anything else goes into it."""
    found, waiting, seen = list[nn.Parameter](), [node], set[Any]()
    while waiting:
        each = waiting.pop()
        if each in seen:
            continue
        seen.add(each)
        if isinstance(each.module, nn.Parameter):
            found.append(each.module)
            continue
        if each.module in graph._module2name or not each.inputs:  # a module, or an input of the model
            return []
        waiting += each.inputs
    return found


def _own_weight(graph: Any, node: Any) -> str | None:
    """Return the name of the parameter that a matrix product reads directly or through one operation, such as a transpose."""
    for each in [*node.inputs, *(deeper for input in node.inputs for deeper in input.inputs)]:
        if isinstance(each.module, nn.Parameter) and each.module.dim() > 1:
            return str(graph._param_to_name[each.module])
    return None


def obstacles(graph: Any, layer: Any, neighbours: str) -> tuple[str, ...]:
    """Describe the operations that need all features, before ("inputs") or after ("outputs") a layer, as far as names tell."""
    after = neighbours == "outputs"
    nodes = list(_around(graph, layer, neighbours))
    features = graph.get_out_channels(layer)
    found = [obstacle for node in nodes if (obstacle := _obstacle(graph, node, after, features))]
    ends = [each for each in [layer, *nodes] if not getattr(each, neighbours) and not _contracts(graph, each)]
    if ends and after:
        found.append("the features are an output of the model")
    elif not found and not all(isinstance(each.module, nn.Parameter | nn.Embedding) for each in ends):
        found.append("the features come from the model's input")
    return tuple(dict.fromkeys(found))
