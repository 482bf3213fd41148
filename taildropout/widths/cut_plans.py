"""Plan the cuts that `prune` would make at given widths, and count what they take from each parameter."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ..pruning.arguments import as_arguments, check_model
from ..pruning.cut import Cut, PruningError
from ..pruning.cutting import Plan, cut_down
from ..pruning.planning import Planner
from ..pruning.pruner import features_of, undisturbed
from ..pruning.verification import Copies, evaluating, set_widths

# By parameter: the entries that each dim loses.
Losses = dict[str, tuple[int, ...]]
# The input or the output of a module, or a dim of a parameter: name, dim, True for the input.
Side = tuple[str, int, bool]


@dataclass(frozen=True)
class LayerCuts:
    """The cuts for the tail of one layer at one width, by the side cut.

    Attributes:
        everything: the cuts before and after the layer; None if the graph cannot be followed before the layer.
        after: the cuts after the layer.
    """

    everything: dict[Side, Cut] | None
    after: dict[Side, Cut]

    @property
    def most(self) -> dict[Side, Cut]:
        """The cuts on both sides as far as they are known."""
        return self.after if self.everything is None else self.everything


@dataclass(frozen=True)
class Solution:
    """How `prune` cuts the network at some widths.

    Attributes:
        plan: the cuts.
        added: the constants that are added to biases, by module.
        layers: the cuts that belong to each layer alone.
        losses: what the plan takes from the parameters.
        new_biases: the modules that get a bias.
    """

    plan: Plan
    added: Mapping[str, Tensor]
    layers: Mapping[str, LayerCuts]
    losses: Losses
    new_biases: frozenset[str]


class CutPlans:
    """Plans of `prune` for a model, each found once.

    Args:
        model: the model at full width.
        features: the number of features of each layer, by name.
        example_inputs: as for `prune`.

    Attributes:
        inputs: the example inputs as arguments of the model.
    """

    def __init__(self, model: nn.Module, features: Mapping[str, int], example_inputs: Any) -> None:
        self.model, self.features = model, dict(features)
        self.inputs = as_arguments(example_inputs)
        check_model(model)
        network = evaluating(model)
        set_widths(network, dict.fromkeys(features))
        with undisturbed(model, self.inputs):
            features_of(network, dict.fromkeys(features, 1), self.inputs)
        self._shapes = network.to("meta")  # modules without memory, which are cut to see their shapes
        first: dict[int, str] = {}
        parameters = self._shapes.named_parameters(remove_duplicate=False)
        self._first_name = {name: first.setdefault(id(parameter), name) for name, parameter in parameters}
        self._known: dict[tuple[tuple[str, int], ...], Solution] = {}

    def solve(self, widths: Mapping[str, int]) -> Solution:
        """Return how `prune` cuts the network at these widths; layers that are not named keep all features.

        Raises:
            PruningError: if `prune` cannot cut the network at these widths.
        """
        cut = {name: k for name, k in widths.items() if k < self.features[name]}
        key = tuple(sorted(cut.items()))
        if key not in self._known:
            with undisturbed(self.model, self.inputs):
                self._known[key] = self._solve(cut)
        return self._known[key]

    def _solve(self, cut: dict[str, int]) -> Solution:
        if not cut:
            return Solution(Plan((), {}, frozenset()), {}, {}, {}, frozenset())
        copies = Copies(self.model)
        network = copies.another()
        set_widths(network, dict.fromkeys(self.features))
        set_widths(network, cut)
        planner = Planner(copies, network, cut, self.features, self.inputs)
        del network  # its memory is needed for the trials
        plan, added, _ = planner.solve()
        copies.free()
        layers = {name: LayerCuts(_cuts(planner, name, False), _cuts(planner, name, True) or {}) for name in cut}
        new = frozenset(name for name in added if getattr(self._shapes.get_submodule(name), "bias", None) is None)
        return Solution(plan, added, layers, self.losses(plan.cuts), new)

    def pruned(self, solution: Solution) -> nn.Module:
        """Return the network cut by a solution, in evaluation mode."""
        network = evaluating(self.model)
        with undisturbed(self.model, self.inputs):
            cut_down(network, solution.plan, solution.added)
        return network

    def losses(self, cuts: Iterable[Cut]) -> Losses:
        """Return what cuts on different sides take from the parameters."""
        return add_losses(self._losses(cut) for cut in cuts)

    def _losses(self, cut: Cut) -> Losses:
        """Return what one cut takes, found by cutting a copy of the module or parameter that has no memory."""
        parent, _, child = cut.name.rpartition(".")
        owner = self._shapes.get_submodule(parent)
        alone = nn.Module()
        alone.target = copy.deepcopy(getattr(owner, child) if child else owner)
        before = {name: parameter.shape for name, parameter in alone.named_parameters()}
        replace(cut, name="target").apply(alone)
        found = {}
        for name, parameter in alone.named_parameters():
            fewer = tuple(old - new for old, new in zip(before[name], parameter.shape, strict=True))
            if any(fewer):
                found[self._first_name[f"{cut.name}{name.removeprefix('target')}".removeprefix(".")]] = fewer
        return found


def _cuts(planner: Planner, name: str, slices: bool) -> dict[Side, Cut] | None:
    try:
        return {(cut.name, cut.dim, cut.reads): cut for cut in planner.plan({name: slices}).cuts}
    except PruningError:
        return None


def add_losses(several: Iterable[Losses]) -> Losses:
    """Return the sum of losses."""
    total: Losses = {}
    for losses in several:
        for name, fewer in losses.items():
            total[name] = tuple(map(sum, zip(total[name], fewer, strict=True))) if name in total else fewer
    return total


def times(losses: Losses, factor: int) -> Losses:
    """Return losses multiplied by a factor."""
    return {name: tuple(factor * each for each in fewer) for name, fewer in losses.items()}
