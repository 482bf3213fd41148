"""Planner: choose for every layer whether its input is cut too or the layer slices, by trying."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from .._torch import tree_map_only
from .arguments import tied
from .cut import Cut, PruningError, merge
from .cutting import Plan, located, reached
from .graph import Proposal, propose
from .verification import Copies, Inputs, Trials, free, prove, references_to, run


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
    """Finds a plan that proves right: every layer cut on both sides, or slicing where its input must keep its size."""

    def __init__(
        self, copies: Copies, network: nn.Module, widths: Mapping[str, int], sizes: Mapping[str, int], inputs: Inputs
    ) -> None:
        self.copies, self.widths = copies, widths
        self.proposals = _proposals(network, widths, sizes, inputs)
        self.modules = {name: type(module).__name__ for name, module in network.named_modules()}
        feed = partial(run, inputs=inputs)
        self.marks = {
            name: reached(network, name, k, [*_known(self.proposals[name].everything), *self.proposals[name].after], feed)
            for name, k in widths.items()
        }
        self.trials: Trials | None = None
        self.inputs = inputs

    def _plan(self, names: Mapping[str, bool]) -> Plan:
        """Return the plan for these layers; True for those that slice."""
        cuts: list[Cut] = []
        for name, slices in names.items():
            proposed = self.proposals[name].after if slices else self.proposals[name].everything
            if isinstance(proposed, str):
                raise PruningError(proposed)
            cuts += located(self.modules, proposed, self.marks[name])
        if shared := tied(self.copies.model, {cut.name for cut in cuts}):
            raise PruningError(f"{shared} are one parameter; give each place its own, as nn.Parameter(weight.clone())")
        sliced = frozenset(name for name, slices in names.items() if slices)
        return Plan(merge(cuts), {name: self.widths[name] for name in names}, sliced)

    def _try(self, names: Mapping[str, bool]) -> tuple[Plan, dict[str, Tensor]] | str:
        """Return a plan that proved right and what dropped features add, or the reason why it is wrong."""
        if self.trials is None:
            self.trials = Trials(self.copies, self.inputs)
        try:
            plan = self._plan(names)
            return plan, prove(self.trials, plan)
        except Exception as error:  # of whatever type a network raises that was cut where it must not be
            return str(error) or type(error).__name__

    def solve(self) -> tuple[Plan, dict[str, Tensor], dict[str, str]]:
        """Return the plan, what dropped features add, and for each layer that slices the reason.

        Raises:
            PruningError: if there is none.
        """
        everything = dict.fromkeys(self.widths, False)
        found = self._try(everything)
        if not isinstance(found, str):
            return *found, {}
        choice, excuses = {}, {}
        for name in self.widths:
            reason = found if len(everything) == 1 else self._reason(name)
            choice[name] = reason is not None
            if reason is not None:
                excuses[name] = "; ".join(self.proposals[name].obstacles_before) or f"cutting it too went wrong ({reason})"
        last = self._try(choice)
        if isinstance(last, str):
            raise PruningError(self._refusal(choice, last))
        return *last, excuses

    def _reason(self, name: str) -> str | None:
        """Return why one layer alone cannot be cut on both sides, or None if it can.

        Raises:
            PruningError: if it cannot be cut at all.
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
        return (
            f"{what} without changing what the network computes: {reason}."
            + (f" After the layer, {' and '.join(obstacles)}." if obstacles else "")
            + " Have only operations feature by feature between it and a Linear or a convolution, by moving it, or prune "
            "another layer"
        )
