"""Count the parameters or operations of a network at any widths, after cutting each layer only once.

`prune` cuts each layer once. The new shapes show by how many entries each dim of a weight shrinks for each dropped feature. So
every dim is a linear function of the widths, and a weight has as many parameters as the product of its dims: an exact count,
linear in each width, with products of two widths where one layer feeds another.
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
    """The shape of a parameter at full width, and how it shrinks when features are dropped."""

    shape: tuple[int, ...]
    macs: float  # multiply-accumulate operations for each entry, in one forward on the example inputs
    gone: dict[str, tuple[int, ...]] = field(default_factory=dict)  # by layer: entries that each dim loses per dropped feature

    def size(self, dropped: Mapping[str, int]) -> int:
        """Return the number of entries after `dropped[layer]` features of each layer are dropped."""
        sizes = list(self.shape)
        for layer, per_feature in self.gone.items():
            sizes = [size - gone * dropped[layer] for size, gone in zip(sizes, per_feature, strict=True)]
        return prod(sizes)


class CostModel:
    """Parameters, or multiply-accumulate operations (MACs), of a network as a function of the widths of its layers.

    MACs are half of the operations that torch's `FlopCounterMode` counts in a forward on the example inputs.

    Args:
        model: the model at full width.
        layers: the number of features of each layer, by name.
        example_inputs: as for `prune`.
        macs: True to count MACs, False to count parameters.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, int], example_inputs: Any, macs: bool) -> None:
        self.layers = dict(layers)
        self._inputs = _as_arguments(example_inputs)
        self._macs = macs
        network = evaluating(model)
        counted, self._weights = self._measure(network)
        self._other = counted - self._in_weights(dict.fromkeys(layers, 0))  # MACs of operations without a weight
        self._added: dict[str, int] = {}  # by layer: parameters that cutting adds, such as biases
        self._slopes: dict[str, float] = {}  # by layer: MACs saved per dropped feature in operations without a weight
        for layer, n in layers.items():
            if n > 1:
                self._learn(model, layer, n, example_inputs)

    def __call__(self, widths: Mapping[str, int]) -> float:
        """Return the parameters or MACs at these widths, by layer."""
        dropped = {layer: n - widths[layer] for layer, n in self.layers.items()}
        if not self._macs:
            added = sum(count for layer, count in self._added.items() if dropped[layer])
            return added + sum(weight.size(dropped) for weight in self._weights.values())
        slopes = sum(slope * dropped[layer] for layer, slope in self._slopes.items())
        return self._other - slopes + self._in_weights(dropped)

    def _in_weights(self, dropped: Mapping[str, int]) -> float:
        """Return the MACs of all operations with a weight, after `dropped[layer]` features of each layer are dropped."""
        return sum(weight.macs * weight.size(dropped) for weight in self._weights.values())

    def _learn(self, model: nn.Module, layer: str, n: int, example_inputs: Any) -> None:
        """Cut one layer to half its width, and record how much the weights and the MACs shrink per dropped feature."""
        k = (n + 1) // 2
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # modules that keep their size show it in their shapes
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
        """Return the MACs of a forward, and the parameters by name with their MACs; 0 MACs if parameters are counted."""
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
    """Return the cost as a function of the widths by layer; `layers` holds the number of features by layer.

    Raises:
        ValueError: if `cost` is neither "parameters", "macs" nor callable.
        TypeError: if `cost` is not callable and `example_inputs` is None.
        PruningError: if a layer cannot be cut.
        ImportError: if torch-pruning is missing.
    """
    if callable(cost):
        return cost  # type: ignore[no-any-return]
    if cost not in ("parameters", "macs"):
        raise ValueError(f"cost={cost!r} is no cost; give 'parameters', 'macs', or a callable of a dict of widths")
    if example_inputs is None:
        raise TypeError(f"cost={cost!r} is counted on example inputs; give example_inputs as for prune, or a callable as cost")
    with torch.random.fork_rng(), torch.no_grad():
        return CostModel(model, layers, example_inputs, macs=cost == "macs")


def check_cost(cost: Any) -> float:
    """Return the value of a cost function as a float.

    Raises:
        TypeError: if the value is not a number.
        ValueError: if the value is NaN or infinite.
    """
    if isinstance(cost, bool | str) or not hasattr(cost, "__float__"):
        raise TypeError(f"cost returned {cost!r} ({type(cost).__name__}); let it return a number for a dict of widths")
    if not isfinite(number := float(cost)):
        raise ValueError(f"cost returned {number}; let it return a finite number for a dict of widths")
    return number


def _as_arguments(example_inputs: Any) -> tuple[Any, ...] | dict[str, Any]:
    if isinstance(example_inputs, Mapping):
        return dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs)
    if not any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(example_inputs)):
        raise TypeError(
            f"example_inputs has type {type(example_inputs).__name__}; give a tensor, or a tuple or a dict of arguments"
        )
    return (example_inputs,)
