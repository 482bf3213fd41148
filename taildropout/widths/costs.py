"""Parameters and operations of a network at chosen widths, without cutting it each time.

A layer is cut once, by `prune`. The shapes of the weights then show how many entries of each dim go with each of its features.
The size of a weight is the product of its dims, and a dim is linear in the widths. So parameters are known exactly for every
choice of widths: linear in each width, and with products of two where layers feed each other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite, prod
from typing import Any, Literal

import torch
from torch import nn

from .._torch import tree_leaves
from ..pruning import prune
from ..pruning.verification import evaluating, run

Cost = Literal["parameters", "macs"] | Callable[[Mapping[str, int]], float]


@dataclass
class _Weight:
    """The shape of a parameter: `gone[layer]` entries of each dim go with every feature of the layer."""

    shape: tuple[int, ...]
    macs: float  # multiplications for each entry, in one forward on the example inputs
    gone: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def size(self, dropped: Mapping[str, int]) -> int:
        """Return the number of entries when so many features of each layer are dropped."""
        sizes = list(self.shape)
        for layer, per_feature in self.gone.items():
            sizes = [size - gone * dropped[layer] for size, gone in zip(sizes, per_feature, strict=True)]
        return prod(sizes)


class CostModel:
    """Parameters, or multiply-accumulate operations (MACs), of a network as a function of the widths of its layers.

    MACs are those that torch's `FlopCounterMode` counts in a forward on the example inputs.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, int], example_inputs: Any, macs: bool) -> None:
        self.layers = dict(layers)
        self._inputs = _as_arguments(example_inputs)
        self._macs = macs
        network = evaluating(model)
        counted, self._weights = self._measure(network)
        self._other = counted - self._in_weights(dict.fromkeys(layers, 0))
        self._added: dict[str, int] = {}  # parameters that cutting a layer adds: biases
        self._slopes: dict[str, float] = {}  # MACs for each feature, in other operations than those with a weight
        for layer, n in layers.items():
            if n > 1:
                self._learn(model, layer, n, example_inputs)

    def __call__(self, widths: Mapping[str, int]) -> float:
        """Return the cost at these widths."""
        dropped = {layer: n - widths[layer] for layer, n in self.layers.items()}
        if not self._macs:
            added = sum(count for layer, count in self._added.items() if dropped[layer])
            return added + sum(weight.size(dropped) for weight in self._weights.values())
        slopes = sum(slope * dropped[layer] for layer, slope in self._slopes.items())
        return self._other - slopes + self._in_weights(dropped)

    def _in_weights(self, dropped: Mapping[str, int]) -> float:
        """Return the MACs of all operations with a weight."""
        return sum(weight.macs * weight.size(dropped) for weight in self._weights.values())

    def _learn(self, model: nn.Module, layer: str, n: int, example_inputs: Any) -> None:
        """Cut a layer, to learn what goes with its features."""
        k = (n + 1) // 2
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what cannot be cut keeps its size, which is seen here
            smaller = prune(model, layer, k, example_inputs)
        shapes = {name: tuple(parameter.shape) for name, parameter in smaller.named_parameters()}
        for name, weight in self._weights.items():
            fewer = [old - new for old, new in zip(weight.shape, shapes.get(name, weight.shape), strict=True)]
            if any(fewer):
                weight.gone[layer] = tuple(gone // (n - k) for gone in fewer)
        added = [prod(shape) for name, shape in shapes.items() if name not in self._weights]
        if added:
            self._added[layer] = sum(added)
        if self._macs:
            counted, _ = self._measure(evaluating(smaller))
            dropped = {other: n - k if other == layer else 0 for other in self.layers}
            self._slopes[layer] = (self._other + self._in_weights(dropped) - counted) / (n - k)

    def _measure(self, network: nn.Module) -> tuple[float, dict[str, _Weight]]:
        """Return the MACs of a forward, and every parameter with its share in them."""
        weights = {name: _Weight(tuple(parameter.shape), 0.0) for name, parameter in network.named_parameters()}
        if not self._macs:
            return 0.0, weights
        from torch.utils.flop_counter import FlopCounterMode

        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            run(network, self._inputs)
        root = type(network).__name__
        counts = {name: sum(operations.values()) / 2 for name, operations in counter.get_flop_counts().items()}
        for name, module in network.named_modules():
            weight = weights.get(f"{name}.weight" if name else "weight")
            if weight is not None and not list(module.children()):
                weight.macs = counts.get(f"{root}.{name}" if name else root, 0.0) / max(1, prod(list(weight.shape)))
        return counts.get("Global", 0.0), weights


def cost_function(
    cost: Any, model: nn.Module, layers: Mapping[str, int], example_inputs: Any
) -> Callable[[Mapping[str, int]], float]:
    """Return the cost as a function of the widths.

    Raises:
        TypeError, ValueError: if it is neither "parameters", "macs" nor callable, or needs example inputs that are missing.
        PruningError: if a layer cannot be cut.
        ImportError: if torch-pruning is missing.
    """
    if callable(cost):
        return cost  # type: ignore[no-any-return]
    if cost not in ("parameters", "macs"):
        raise ValueError(f"cost={cost!r} is no cost; give 'parameters', 'macs', or a callable of a dict of widths")
    if example_inputs is None:
        raise TypeError(f"cost={cost!r} is counted on example inputs, as for prune; give them, or a callable as cost")
    with torch.random.fork_rng(), torch.no_grad():
        return CostModel(model, layers, example_inputs, macs=cost == "macs")


def check_cost(cost: Any) -> float:
    """Return what a callable gave as a cost.

    Raises:
        TypeError, ValueError: if it is no number.
    """
    if isinstance(cost, bool | str) or not hasattr(cost, "__float__"):
        raise TypeError(f"cost gave {cost!r}, a {type(cost).__name__}; let it return a number for a dict of widths")
    if not isfinite(number := float(cost)):
        raise ValueError(f"cost gave {number}; let it return a finite number for a dict of widths")
    return number


def _as_arguments(example_inputs: Any) -> tuple[Any, ...] | dict[str, Any]:
    if isinstance(example_inputs, Mapping):
        return dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs)
    if not any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(example_inputs)):
        raise TypeError(
            f"example_inputs is a {type(example_inputs).__name__}; give a tensor, a tuple of arguments or a dict of them"
        )
    return (example_inputs,)
