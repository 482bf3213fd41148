"""Planner: find by trials which layers have their input cut too, and which must slice their input."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from .._torch import tree_map_only
from .arguments import buffers_of_size, holds_nan, tied
from .cut import Cut, PruningError, merge
from .cutting import Plan, located, reached
from .graph import Proposal, propose
from .proving import prove
from .verification import Copies, Inputs, Trials, free, references_to, run, set_widths

# What `Planner` found: a plan and the constants to add to biases, or the reason why the plan fails.
_Found = tuple[Plan, dict[str, Tensor]] | str


def _proposals(network: nn.Module, widths: Mapping[str, int], sizes: Mapping[str, int], inputs: Inputs) -> dict[str, Proposal]:
    def visible(tensor: Tensor) -> Tensor:  # autograd records nothing of a tensor that needs no gradient
        return tensor.detach().clone().requires_grad_(tensor.is_floating_point())

    traced = copy.deepcopy(network)
    references = references_to(traced)
    run_visibly = partial(run, inputs=tree_map_only(Tensor, visible, inputs))
    proposals = propose(traced, widths, sizes, run_visibly)
    del traced
    free(references)
    return proposals


def _known(cuts: tuple[Cut, ...] | str) -> tuple[Cut, ...]:
    return () if isinstance(cuts, str) else cuts


class Planner:
    """Find a plan that passes the trials: every layer is cut on both sides, or slices if its input must keep its size.

    Args:
        copies: copies of the model.
        network: a copy with all layers at their widths.
        widths: how many features each layer keeps, by name; less than it has.
        sizes: how many features each layer has, by name.
        inputs: the example inputs.
    """

    def __init__(
        self, copies: Copies, network: nn.Module, widths: Mapping[str, int], sizes: Mapping[str, int], inputs: Inputs
    ) -> None:
        self.copies, self.widths, self.sizes = copies, widths, sizes
        self.proposals = _proposals(network, widths, sizes, inputs)
        self.modules = {name: type(module).__name__ for name, module in network.named_modules()}
        feed = partial(run, inputs=inputs)
        set_widths(network, dict.fromkeys(widths))  # another layer's tail would hide a part of what depends on this layer's
        self.marks = {
            name: reached(network, name, k, [*_known(self.proposals[name].everything), *self.proposals[name].after], feed)
            for name, k in widths.items()
        }
        self.trials: Trials | None = None
        self.inputs = inputs

    def plan(self, names: Mapping[str, bool]) -> Plan:
        """Return the plan for these layers; `names` maps each layer to True if it slices.

        Raises:
            PruningError: if the graph proposes no cut, or a parameter to be cut is shared by several modules.
        """
        by_layer: dict[str, list[Cut]] = {}
        for name, slices in names.items():
            proposed = self.proposals[name].after if slices else self.proposals[name].everything
            if isinstance(proposed, str):
                raise PruningError(proposed)
            by_layer[name] = located(self.modules, proposed, self.marks[name])
        cuts = [cut for found in by_layer.values() for cut in found]
        if shared := tied(self.copies.model, {cut.name for cut in cuts}):
            raise PruningError(f"{shared} are one parameter; give each place its own, as nn.Parameter(weight.clone())")
        sliced = frozenset(name for name, slices in names.items() if slices and not self._gone(name, by_layer))
        return Plan(merge(cuts), {name: self.widths[name] for name in names}, sliced)

    def _gone(self, name: str, by_layer: Mapping[str, list[Cut]]) -> bool:
        """Return True if the cuts of other layers take the tail of a layer from its input, so that nothing is left to slice."""
        others = [cut for other, cuts in by_layer.items() if other != name for cut in cuts]
        gone = {feature for cut in others if cut.name == name for feature in cut.features}
        return gone.issuperset(range(self.widths[name], self.sizes[name]))

    def _try(self, names: Mapping[str, bool]) -> _Found:
        """Return a plan that passed the trials and the constants to add to biases, or the reason why the plan fails."""
        if self.trials is None:
            self.trials = Trials(self.copies, self.inputs)
        try:
            plan = self.plan(names)
            return plan, prove(self.trials, plan)
        except Exception as error:  # a network that was cut wrongly may raise any type
            return str(error) or type(error).__name__

    def solve(self) -> tuple[Plan, dict[str, Tensor], dict[str, str]]:
        """Return the plan, the constants to add to biases by module, and by layer what it slices and why.

        Raises:
            PruningError: if no plan passes the trials.
        """
        everything = dict.fromkeys(self.widths, False)
        found = self._try(everything)
        if not isinstance(found, str):
            return *found, {}
        choice: dict[str, bool] = {}
        reasons: dict[str, str] = {}
        for name in self.widths:
            reason = found if len(everything) == 1 else self._reason(name)
            choice[name] = reason is not None
            if reason is not None:
                reasons[name] = "; ".join(self.proposals[name].obstacles_before) or f"cutting its input failed ({reason})"
        last = self._narrow(choice, self._try(choice))
        if isinstance(last, str):
            raise PruningError(self._refusal(choice, last))
        return *last, {name: self._excuse(name, choice, reason) for name, reason in reasons.items() if name in last[0].sliced}

    def _excuse(self, name: str, choice: Mapping[str, bool], reason: str) -> str:
        """Say what a layer slices, and why; `reason` is why its input keeps its size, if no other layer has the input cut."""
        others = [other for other, slices in choice.items() if not slices and self._overlap(name, other)]
        if others:
            kept = min(self.widths[other] for other in others)
            return f"{self.widths[name]} of the {kept} features kept for {' and '.join(map(repr, others))}"
        return f"{self.widths[name]} of {self.sizes[name]} features, and its input keeps its size: {reason}"

    def _narrow(self, choice: dict[str, bool], found: _Found) -> _Found:
        """Cut the features that several layers read to the greatest of their widths, where this passes the trials.

        Alone, none of these layers can have its input cut, since the others need all features. `choice` is changed in place.

        Args:
            choice: the layers, with True for each that slices.
            found: what `_try` returned for `choice`.

        Returns:
            What `_try` returns for the new `choice`.
        """
        failed: list[str] = []
        for name in sorted((name for name, slices in choice.items() if slices), key=lambda name: -self.widths[name]):
            shares = any(self._overlap(name, other) for other in choice if other != name)
            if not shares or any(self._overlap(name, other) for other in failed):
                continue  # where a wider layer's features are needed elsewhere, so are those of a narrower one
            attempt = self._try({**choice, name: False})
            if isinstance(attempt, str):
                failed.append(name)
            else:
                choice[name], found = False, attempt
        return found

    def _overlap(self, name: str, other: str) -> bool:
        """Return True if the cuts of two layers on both sides have a feature of some module in common."""
        first, second = (
            {(cut.name, cut.reads): {*cut.features} for cut in _known(self.proposals[each].everything)}
            for each in (name, other)
        )
        return any(features & second.get(side, set()) for side, features in first.items())

    def _reason(self, name: str) -> str | None:
        """Return why one layer alone cannot be cut on both sides, or None if it can.

        Raises:
            PruningError: if the layer cannot be cut even when it slices.
        """
        found = self._try({name: False})
        if not isinstance(found, str):
            return None
        alone = self._try({name: True})
        if isinstance(alone, str):
            raise PruningError(self._refusal([name], alone))
        return found

    def _refusal(self, names: Mapping[str, bool] | list[str], reason: str) -> str:
        what = " and ".join(f"{name!r} cannot be cut to k={self.widths[name]}" for name in names)
        obstacles = {each: None for name in names for each in self.proposals[name].obstacles_after}
        refused = f"{what} without changing what the network computes: {reason}."
        if holds_nan(self.inputs):
            return f"{refused} The example inputs hold NaN, which hides what depends on what; give numbers"
        if not obstacles and ("size" in reason or "shape" in reason):
            found = buffers_of_size(self.copies.model, {self.sizes[name] for name in names})
            if found:
                return (
                    f"{refused} {' and '.join(map(repr, found))} {'are buffers' if len(found) > 1 else 'is a buffer'} with as "
                    "many elements as the layer has features, and prune cuts no buffers; make it an nn.Parameter with "
                    "requires_grad=False"
                )
        refused += f" After the layer, {' and '.join(obstacles)}." if obstacles else ""
        if any("; " in each for each in (reason, *obstacles)):  # what can be done about it is said there
            return refused
        return (
            f"{refused} Move the layer so that only feature-wise operations stand between it and a Linear or a convolution, or "
            "prune another layer"
        )
