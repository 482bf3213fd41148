"""Count the parameters or operations of a network at any widths, from few plans of how `prune` cuts it.

Two plans of `prune`, at the least and at the greatest widths, show which entries each layer takes from each parameter. Layers
that share features are counted together (see `shared_features`). So every dim of a parameter is known at any widths, and a
parameter has as many entries as the product of its dims.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import isclose, isfinite, prod
from typing import Any, Literal

import torch
from torch import nn

from ..pruning.kinds import is_conv1d
from ..pruning.pruner import undisturbed
from ..pruning.verification import evaluating, run
from .cut_plans import CutPlans, Losses, Solution, add_losses
from .shared_features import Group, Taken, find_groups

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
        PruningError: if a layer cannot be cut, or layers that share features cannot be cut to different widths.
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
        ones, all_but_one = dict.fromkeys(wide, 1), {name: n - 1 for name, n in wide.items()}
        least, most = (ones, self._plans.solve(ones)), (all_but_one, self._plans.solve(all_but_one))
        self._groups = self._grouped(least, most) if wide else []
        self._per_entry: dict[str, float] = {}  # by parameter: MACs for each entry
        self._other = 0.0  # MACs of operations without a weight
        self._slopes: dict[str, float] = {}  # by layer: of these, the MACs saved per dropped feature
        self._adds_up = True  # or the MACs are those of a forward of each network
        self._macs = macs
        if macs:
            self._other, self._per_entry = self._measure(network)
            self._other -= self._in_weights({})
            self._learn_other_macs(least, most)

    def __call__(self, widths: Mapping[str, int]) -> float:
        """Return the parameters or MACs at these widths, by layer."""
        if not self._adds_up:
            return self._counted(self._plans.solve(widths))
        losses, new_biases = self._taken(self._groups, widths)
        if self._macs:
            saved = sum(slope * (self._plans.features[name] - widths[name]) for name, slope in self._slopes.items())
            return self._in_weights(losses) + self._other - saved
        count = sum(prod(self._shape(name, losses)) for name in self._shapes)
        return count + sum(self._shape(f"{name}.weight", losses)[self._outputs[name]] for name in new_biases)

    def _shape(self, name: str, losses: Losses) -> tuple[int, ...]:
        shape = self._shapes[name]
        return tuple(size - fewer for size, fewer in zip(shape, losses[name], strict=True)) if name in losses else shape

    def _in_weights(self, losses: Losses) -> float:
        """Return the MACs of all operations with a weight."""
        return sum(macs * prod(self._shape(name, losses)) for name, macs in self._per_entry.items())

    def _grouped(self, least: tuple[dict[str, int], Solution], most: tuple[dict[str, int], Solution]) -> list[Group]:
        """Return the groups of layers that share features; all layers as one if the losses of groups do not add up."""
        solution = least[1]
        groups = find_groups(solution.layers)
        reads = [{side[0] for name in group for side in solution.layers[name].most if side[2]} for group in groups]
        readers = Counter(module for read in reads for module in read)
        found = []
        for group, read in zip(groups, reads, strict=True):
            clear = all(readers[module] == 1 for module in read & solution.new_biases)  # or whose constants are in the bias?
            found.append(Group(self._plans, group, solution, most[1], linear=clear))
        for widths, solution in (least, most):
            if self._taken(found, widths) != (solution.losses, solution.new_biases):
                return [Group(self._plans, tuple(widths), least[1], most[1], linear=False)]
        return found

    @staticmethod
    def _taken(groups: Sequence[Group], widths: Mapping[str, int]) -> Taken:
        taken = [group(widths) for group in groups]
        return add_losses(losses for losses, _ in taken), frozenset[str]().union(*(new for _, new in taken))

    def _learn_other_macs(self, least: tuple[dict[str, int], Solution], most: tuple[dict[str, int], Solution]) -> None:
        """Learn how many MACs of operations without a weight each layer saves per dropped feature, as of the input of a GRU."""
        checks = [(widths, self._counted(solution)) for widths, solution in (least, most)]

        def agrees() -> bool:
            return all(isclose(self(widths), counted, rel_tol=1e-9) for widths, counted in checks)

        if agrees():
            return
        for group in self._groups:
            name, n = group.layers[0], self._plans.features[group.layers[0]]
            solution = self._plans.solve({name: (n + 1) // 2})
            saved = self._in_weights(solution.losses) + self._other - self._counted(solution)
            self._slopes[name] = saved / (n // 2)
        self._adds_up = agrees() and all(len(group.layers) == 1 and group.linear for group in self._groups)

    def _counted(self, solution: Solution) -> float:
        """Return the MACs of the network that is cut by a solution."""
        return self._measure(self._plans.pruned(solution))[0]

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
