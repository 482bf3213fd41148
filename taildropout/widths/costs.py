"""Count the parameters or operations of a network at any widths, from few plans of how `prune` cuts it.

Two plans of `prune`, at the least and at the greatest widths, show which entries each layer takes from each parameter. Layers
that share features are counted together (see `shared_features`). So every dim of a parameter is known at any widths, and a
parameter has as many entries as the product of its dims.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from math import isclose, isfinite, prod
from typing import Any, Literal

import torch
from torch import nn

from ..pruning import PruningError
from ..pruning.kinds import is_conv1d
from ..pruning.pruner import undisturbed
from ..pruning.verification import evaluating, run
from .cut_plans import CutPlans, Losses, Solution, add_losses
from .shared_features import Group, find_groups

Cost = Literal["parameters", "macs"] | Callable[[Mapping[str, int]], float]


class CostModel:
    """Parameters, or multiply-accumulate operations (MACs), of the network that `prune` returns for given widths.

    MACs are half of the operations that torch's `FlopCounterMode` counts in a forward on the example inputs.

    Args:
        model: the model at full width.
        layers: the number of features of each layer, by name.
        example_inputs: as for `prune`.
        macs: True to count MACs, False to count parameters.

    Raises:
        PruningError: if a layer cannot be cut, or the count is not known at all widths.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, int], example_inputs: Any, macs: bool) -> None:
        self._plans = CutPlans(model, layers, example_inputs)
        network = evaluating(model)
        self._shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
        self._outputs = {
            name: 1 if is_conv1d(module) or getattr(module, "transposed", False) else 0
            for name, module in network.named_modules()
        }
        wide = {name: n for name, n in layers.items() if n > 1}
        least, most = (
            self._plans.solve(widths) for widths in (dict.fromkeys(wide, 1), {name: n - 1 for name, n in wide.items()})
        )
        self._groups = self._grouped(wide, least, most)
        self._per_entry: dict[str, float] = {}  # by parameter: MACs for each entry
        self._other = 0.0  # MACs of operations without a weight
        self._saved: dict[Group, Callable[[Mapping[str, int]], float]] = {}  # of these, the MACs that a group saves
        self._macs = macs
        if macs:
            self._other, self._per_entry = self._measure(network)
            self._other -= self._in_weights({})
            self._learn_other_macs(wide, least, most)

    def __call__(self, widths: Mapping[str, int]) -> float:
        """Return the parameters or MACs at these widths, by layer."""
        taken = [group(widths) for group in self._groups]
        losses = add_losses(losses for losses, _ in taken)
        if self._macs:
            return self._in_weights(losses) + self._other - sum(saved(widths) for saved in self._saved.values())
        count = sum(prod(self._shape(name, losses)) for name in self._shapes)
        new_biases = frozenset[str]().union(*(new for _, new in taken))
        return count + sum(self._shape(f"{name}.weight", losses)[self._outputs[name]] for name in new_biases)

    def _shape(self, name: str, losses: Losses) -> tuple[int, ...]:
        shape = self._shapes[name]
        return tuple(size - fewer for size, fewer in zip(shape, losses[name], strict=True)) if name in losses else shape

    def _in_weights(self, losses: Losses) -> float:
        """Return the MACs of all operations with a weight."""
        return sum(macs * prod(self._shape(name, losses)) for name, macs in self._per_entry.items())

    def _grouped(self, wide: Mapping[str, int], least: Solution, most: Solution) -> list[Group]:
        """Return the groups of layers whose losses add up to those of the whole network."""
        if not wide:
            return []
        groups = find_groups(least.layers)
        readers = Counter(
            module for group in groups for module in {side[0] for name in group for side in least.layers[name].most if side[2]}
        )
        found = []
        for group in groups:
            read = {side[0] for name in group for side in least.layers[name].most if side[2]}
            unclear = any(module in least.new_biases and readers[module] > 1 for module in read)  # whose constants are they?
            found.append(Group(self._plans, group, least, most, linear=not unclear))
        for solution, widths in ((least, dict.fromkeys(wide, 1)), (most, {name: n - 1 for name, n in wide.items()})):
            taken = [group(widths) for group in found]
            whole = add_losses(losses for losses, _ in taken), frozenset[str]().union(*(new for _, new in taken))
            if whole != (solution.losses, solution.new_biases):
                return [Group(self._plans, tuple(wide), least, most, linear=False)]
        return found

    def _learn_other_macs(self, wide: Mapping[str, int], least: Solution, most: Solution) -> None:
        """Learn how many MACs of operations without a weight each group saves, and check the sum.

        Raises:
            PruningError: if the MACs saved by several groups do not add up.
        """
        checks = [
            (widths, self._measure(self._plans.pruned(solution))[0])
            for solution, widths in ((least, dict.fromkeys(wide, 1)), (most, {name: n - 1 for name, n in wide.items()}))
        ]

        def agrees() -> bool:
            return all(isclose(self(widths), counted, rel_tol=1e-9) for widths, counted in checks)

        if agrees():
            return
        self._saved = {group: self._saved_by(group) for group in self._groups}
        if not agrees():
            raise PruningError(
                "the MACs of operations without a weight, such as a product of two activations, depend on the widths of "
                "several layers at once; give cost='parameters', or a callable of a dict of widths"
            )

    def _saved_by(self, group: Group) -> Callable[[Mapping[str, int]], float]:
        """Return a function from widths to the MACs that a group saves in operations without a weight."""
        known: dict[tuple[int, ...], float] = {}

        def measured(widths: Mapping[str, int]) -> float:
            key = tuple(widths[name] for name in group.layers)
            if key not in known:
                solution = self._plans.solve(dict(zip(group.layers, key, strict=True)))
                counted, _ = self._measure(self._plans.pruned(solution))
                known[key] = self._in_weights(solution.losses) + self._other - counted
            return known[key]

        if len(group.layers) > 1 or not group.linear:
            return measured
        name, n = group.layers[0], self._plans.features[group.layers[0]]
        all_but_one, one = (measured({name: k}) for k in (1, n - 1))
        linear = isclose(all_but_one, one * (n - 1), rel_tol=1e-9)
        return (lambda widths: one * (n - widths[name])) if linear else measured

    def _measure(self, network: nn.Module) -> tuple[float, dict[str, float]]:
        """Return the MACs of a forward, and by parameter the MACs for each entry."""
        from torch.utils.flop_counter import FlopCounterMode

        inputs = self._plans.inputs
        with undisturbed(network, inputs), FlopCounterMode(display=False) as counter:
            run(network, inputs)
        root = type(network).__name__
        counts = {name: sum(operations.values()) / 2 for name, operations in counter.get_flop_counts().items()}
        found = {}
        for name, module in network.named_modules():
            weight = f"{name}.weight".removeprefix(".")
            if (
                weight in self._shapes
                and not list(module.children())
                and (own := counts.get(f"{root}.{name}".removesuffix(".")))
            ):
                found[weight] = own / prod(module.get_parameter("weight").shape)
        return counts.get("Global", 0.0), found


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
