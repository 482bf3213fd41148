"""Count what `prune` takes from each parameter at any widths of a group of layers that share features.

Layers share features if the same features of a module depend on both: a TailDropout on the gate and one on the value of a gated
block, or before each of two heads that read one trunk. All other layers are groups of their own.

In a group, what comes after a layer is cut to the layer's own width. Features that several layers read are needed up to the
least width k such that the layers of width k or less cover them: without these layers' tails, no output needs the features
beyond k. For a gate and a value each layer covers the features alone, for two heads only both together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..pruning.cut import Cut
from .cut_plans import CutPlans, LayerCuts, Losses, Side, Solution, add_losses, times

# What a group takes from the parameters, and the modules that get a bias.
Taken = tuple[Losses, frozenset[str]]


def find_groups(layers: Mapping[str, LayerCuts]) -> list[tuple[str, ...]]:
    """Return the names of the layers by group: the cuts of layers in different groups have no feature in common."""
    groups: list[list[str]] = []
    for name in layers:
        joined = [group for group in groups if any(_overlap(layers[name], layers[other]) for other in group)]
        groups = [group for group in groups if group not in joined]
        groups.append([*(other for group in joined for other in group), name])
    return [tuple(name for name in layers if name in group) for group in groups]


def _overlap(layer: LayerCuts, other: LayerCuts) -> bool:
    return _meet(layer.most, other.most)


def _meet(cuts: Mapping[Side, Cut], others: Mapping[Side, Cut]) -> bool:
    return any(not {*cut.features}.isdisjoint(others[side].features) for side, cut in cuts.items() if side in others)


class Group:
    """The losses of parameters as a function of the widths of layers that share features.

    The losses are linear in the widths of sides if the plans at the least and the greatest width, and at uneven widths, say so.
    Otherwise each choice of widths is planned as `prune` does it.

    Args:
        plans: plans of the model.
        layers: the names of the layers.
        least, most: the plans with all layers of the model at one feature, and with one feature dropped of each.
        linear: False to plan each choice of widths.
    """

    def __init__(self, plans: CutPlans, layers: Sequence[str], least: Solution, most: Solution, linear: bool = True) -> None:
        self.plans, self.layers = plans, tuple(layers)
        self._known: dict[tuple[int, ...], Taken] = {}
        self._n = plans.features[self.layers[0]]
        self._cuts = {name: least.layers[name] for name in self.layers}
        self._covers: dict[frozenset[str], bool] = {frozenset(): False}
        self._per_feature: dict[Side, Losses] = {}
        self._biases = frozenset[str]()
        self.linear = linear and self._learn(least, most) and self._holds_at_uneven_widths()

    def __call__(self, widths: Mapping[str, int]) -> Taken:
        """Return what is taken at these widths, if all other layers keep all features."""
        key = tuple(widths[name] for name in self.layers)
        if key not in self._known:
            self._known[key] = self._predict(widths) if self.linear else self._plan(widths)
        return self._known[key]

    def _plan(self, widths: Mapping[str, int]) -> Taken:
        solution = self.plans.solve({name: widths[name] for name in self.layers})
        return solution.losses, solution.new_biases

    def _predict(self, widths: Mapping[str, int]) -> Taken:
        shared = self._shared_width(widths)
        kept: dict[Side, int] = {}
        for name, cuts in self._cuts.items():
            for side in cuts.after:
                kept[side] = min(kept.get(side, self._n), widths[name])
            for side in cuts.most if shared < self._n else ():
                kept[side] = min(kept.get(side, self._n), shared)
        losses = add_losses(times(self._per_feature[side], self._n - k) for side, k in kept.items() if k < self._n)
        cut = {side[0] for side, k in kept.items() if side[2] and k < self._n}
        return losses, self._biases & cut

    def _shared_width(self, widths: Mapping[str, int]) -> int:
        """Return how many of the features that the layers share are needed."""
        for k in sorted({widths[name] for name in self.layers}):
            if k < self._n and self._covered(frozenset(name for name in self.layers if widths[name] <= k)):
                return k
        return self._n

    def _covered(self, layers: frozenset[str]) -> bool:
        """Return True if no output needs the features that these layers drop, though the other layers keep all features."""
        if layers not in self._covers:
            if any(known and other <= layers for other, known in self._covers.items()):
                self._covers[layers] = True
            elif any(not known and layers <= other for other, known in self._covers.items()):
                self._covers[layers] = False
            else:
                half = (self._n + 1) // 2
                self._covers[layers] = not self.plans.solve(dict.fromkeys(layers, half)).plan.sliced
        return self._covers[layers]

    def _learn(self, least: Solution, most: Solution) -> bool:
        """Learn the losses per dropped feature of each side; return False if losses are not linear in the widths."""
        if any(self.plans.features[name] != self._n for name in self.layers):
            return False
        sliced, sliced_most = (not solution.plan.sliced.isdisjoint(self.layers) for solution in (least, most))
        self._covers[frozenset(self.layers)] = not sliced
        if sliced != sliced_most or (sliced and self._is_covered_at_some_width()):
            return False
        for solution, dropped in ((least, self._n - 1), (most, 1)):
            sides: dict[Side, Cut] = {}
            for name in self.layers:
                layer = solution.layers[name]
                if layer.after.keys() != self._cuts[name].after.keys():
                    return False
                for side, cut in [*layer.after.items(), *(() if sliced else layer.most.items())]:
                    if sides.setdefault(side, cut).features != cut.features:
                        return False
            for side, cut in sides.items():
                losses = self.plans.losses([cut])
                if losses != times(self._per_feature.setdefault(side, self._divided(losses, dropped)), dropped):
                    return False
            if not sliced and any(self._cuts[name].most.keys() != sides.keys() for name in self.layers):
                return False
        if sliced:
            for name, cuts in self._cuts.items():
                self._cuts[name] = LayerCuts(None, cuts.after)
        modules = {side[0] for side in self._per_feature if side[2]}
        self._biases = least.new_biases & modules
        return self._biases == most.new_biases & modules

    @staticmethod
    def _divided(losses: Losses, dropped: int) -> Losses:
        return {name: tuple(each // dropped for each in fewer) for name, fewer in losses.items()}

    def _is_covered_at_some_width(self) -> bool:
        """Return True if the input of the layers can be cut at some multiple of a divisor of n, as before a GroupNorm."""
        primes = [p for p in range(2, self._n + 1) if self._n % p == 0 and all(p % q for q in range(2, p))]
        ks = [self._n - self._n // p for p in primes]
        return any(not self.plans.solve(dict.fromkeys(self.layers, k)).plan.sliced for k in ks)

    def _holds_at_uneven_widths(self) -> bool:
        """Return True if plans with rising and with falling widths of the layers have the losses predicted."""
        if len(self.layers) == 1:
            return True
        cuts = [self._cuts[name].most for name in self.layers]
        if not any(_meet(cuts[a], cuts[b]) for a in range(len(cuts)) for b in range(a)):
            return True  # all slice, and what comes after each is its own
        steps = [1 + number * (self._n - 1) // len(self.layers) for number in range(len(self.layers))]
        for ks in (steps, steps[::-1]):
            widths = dict(zip(self.layers, ks, strict=True))
            if self._predict(widths) != self._plan(widths):
                return False
        return True
