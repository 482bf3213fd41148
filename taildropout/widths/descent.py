"""Search for the widths of all layers that have the least loss within each of several costs (the targets).

The search needs two functions of the widths: a cheap `cost`, and a `loss` that takes a forward over all batches. The search
goes from full width down, from one target to the next. At each target, a probe shrinks one layer alone until the cost is at
most the target, and measures how much the loss rises. Features are ordered by importance, so the loss rises faster than the
cost saved: as a power of the cost saved. The widths at which the sum of these powers over all layers is least are evaluated
too. The search continues from the best widths found at the target. The remaining budget is spent on exchanges, in which one
layer grows and another shrinks, as long as the loss falls.

So a step may shrink all layers, where a plain greedy search shrinks one layer at a time. The search needs an evaluation for
each layer and target, not for each layer and small step. If the budget allows every choice of widths, all are evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import permutations, product
from math import prod

Widths = tuple[int, ...]

_POWERS = (2.0, 1.5)  # exponents tried in: rise in loss ∝ (cost saved) ** power
_LEAST_SHARE = 1e-3  # the least rise in loss assumed of a probe, as a share of the largest: noise may hide a small rise
_EXCHANGED = (0.2, 0.05, 1.0)  # in an exchange a layer grows by this share of its width, or by one feature if that is more


class Search:
    """Search for widths with the least loss within given costs.

    Args:
        full: the number of features of each layer.
        cost: returns the cost at given widths.
        loss: returns the loss at given widths.
        budget: about how many widths may be evaluated with `loss`.

    Attributes:
        known: the losses evaluated so far, by widths.
    """

    def __init__(self, full: Widths, cost: Callable[[Widths], float], loss: Callable[[Widths], float], budget: int) -> None:
        self.full, self.cost, self.budget = full, cost, budget
        self.known: dict[Widths, float] = {}
        self._loss = loss
        # For the last probe of each layer: rise in loss, cost saved, and the number of the target (-1 before the first probe).
        self._probes: list[tuple[float, float, int]] = [(0.0, 0.0, -1)] * len(full)

    @property
    def left(self) -> int:
        """The number of evaluations left in the budget; negative if the budget is exceeded."""
        return self.budget - len(self.known)

    def loss(self, widths: Widths) -> float:
        """Return the loss at these widths, which is evaluated only once."""
        if widths not in self.known:
            self.known[widths] = self._loss(widths)
        return self.known[widths]

    def best(self, target: float) -> Widths:
        """Return the widths with the least loss among the evaluated widths that cost no more than `target`."""
        affordable = [widths for widths in self.known if self.cost(widths) <= target]
        return min(affordable, key=lambda widths: (self.known[widths], self.cost(widths)))

    def unbeaten(self) -> list[Widths]:
        """Return the Pareto-optimal ones of the evaluated widths, by rising cost: all cheaper widths have more loss."""
        least, unbeaten = float("inf"), []
        for widths in sorted(self.known, key=lambda widths: (self.cost(widths), self.known[widths])):
            if self.known[widths] < least:
                least = self.known[widths]
                unbeaten.append(widths)
        return unbeaten

    def sizes(self, targets: Sequence[float], track: Callable[[Iterable[float]], Iterable[float]] = iter) -> list[Widths]:
        """Search, and return distinct widths by rising cost: the best for each target, and at most one per target.

        If the same widths are the best for several targets, other Pareto-optimal widths fill the largest gaps between costs.

        Args:
            targets: as for `run`.
            track: wraps the loop over the targets, to show progress.
        """
        self.run(targets, track)
        while True:
            chosen = self._chosen(targets)
            if self.left <= 0 or not self._improve([self.cost(widths) for widths in chosen]):
                return chosen

    def _chosen(self, targets: Sequence[float]) -> list[Widths]:
        chosen = {self.best(target) for target in targets}
        others = {widths for widths in self.unbeaten() if widths not in chosen}
        while others and len(chosen) < len(targets):
            joins = max(others, key=lambda widths: min(abs(self.cost(widths) - self.cost(other)) for other in chosen))
            chosen.add(joins)
            others.remove(joins)
        return sorted(chosen, key=self.cost)

    def run(self, targets: Sequence[float], track: Callable[[Iterable[float]], Iterable[float]] = iter) -> list[Widths]:
        """Search, and return the best widths for each target.

        Args:
            targets: costs in falling order, from the cost at full width to the cost at one feature per layer.
            track: wraps the loop over the targets, to show progress.
        """
        if prod(self.full) <= self.budget:
            for widths in product(*(range(1, n + 1) for n in self.full)):
                self.loss(widths)
            return [self.best(target) for target in targets]
        smallest = (1,) * len(self.full)
        current = self.full
        self.loss(current)
        self.loss(smallest)
        between = [target for target in targets if self.cost(smallest) < target < self.cost(self.full)]
        for number, target in enumerate(track(between)):
            current = self._shrink(current, target, number, self.left // (len(between) - number))
        while self.left > 0 and self._improve(between):
            pass
        return [self.best(target) for target in targets]

    def _shrink(self, current: Widths, target: float, number: int, budget: int) -> Widths:
        """Shrink `current`, the widths of the previous target, to cost no more than `target`; return the best widths tried.

        `number` is the index of the target, and `budget` about how many evaluations may be made.
        """
        tried = []
        if self.cost(current) > target:
            for layer in self._layers_to_probe(current, max(1, budget - len(_POWERS))):
                tried.append(self._probe(current, layer, target, number))
            for power in _POWERS:
                tried.append(self._fit(self._spread(current, target, power), target))
                self.loss(tried[-1])
        affordable = [widths for widths in tried if self.cost(widths) <= target]
        return min(affordable, key=lambda widths: self.known[widths], default=current)

    def _layers_to_probe(self, current: Widths, most: int) -> list[int]:
        """Return `most` layers or fewer that are wider than 1: those whose last probe is the oldest."""
        layers = [layer for layer, k in enumerate(current) if k > 1]
        return sorted(layers, key=lambda layer: self._probes[layer][2])[:most]

    def _probe(self, current: Widths, layer: int, target: float, number: int) -> Widths:
        """Shrink one layer to reach the target, or to width 1, and record the rise in loss and the cost saved."""
        probe = self._shrunk(current, layer, target)
        self._probes[layer] = (self.loss(probe) - self.loss(current), self.cost(current) - self.cost(probe), number)
        return probe

    def _shrunk(self, widths: Widths, layer: int, target: float) -> Widths:
        """Return the widths with this layer shrunk as little as the target allows; to 1 if no width reaches the target."""
        low, high = 1, widths[layer]
        while low < high:
            middle = (low + high + 1) // 2
            if self.cost(_with(widths, layer, middle)) <= target:
                low = middle
            else:
                high = middle - 1
        return _with(widths, layer, low)

    def _steepness(self, power: float) -> list[float]:
        """Return, for each layer's last probe, rise in loss / (cost saved) ** power, scaled to a maximum of 1.

        A layer without a probe, or whose probe saved nothing, has 0.
        """
        worst = max(loss for loss, _, _ in self._probes)
        most = max((saved for _, saved, _ in self._probes), default=0.0)
        shares = [max(loss / worst, _LEAST_SHARE) if worst > 0 else 1.0 for loss, _, _ in self._probes]
        steepness = [
            share / (saved / most) ** power if saved > 0 else 0.0
            for share, (_, saved, _) in zip(shares, self._probes, strict=True)
        ]
        return [value / (max(steepness) or 1.0) for value in steepness]

    def _spread(self, current: Widths, target: float, power: float) -> Widths:
        """Return widths that reach the target with the least predicted loss: the sum of steepness * (cost saved) ** power."""
        steepness = self._steepness(power)
        caps = [self.cost(current) - self.cost(_with(current, layer, 1)) for layer in range(len(current))]
        inverse = -1 / (power - 1)
        ease = [value**inverse if value > 0 and cap > 0 else 0.0 for value, cap in zip(steepness, caps, strict=True)]
        saved = [0.0] * len(current)
        rest, free = self.cost(current) - target, {layer for layer, value in enumerate(ease) if value > 0}
        while free and rest > 0:  # the other layers save the part that a layer at width 1 cannot
            total = sum(ease[layer] for layer in free)
            full = {layer for layer in free if rest * ease[layer] / total >= caps[layer]}
            for layer in full or free:
                saved[layer] = caps[layer] if full else rest * ease[layer] / total
            if not full:
                break
            rest -= sum(caps[layer] for layer in full)
            free -= full
        shares = [part / cap if cap > 0 else 0.0 for part, cap in zip(saved, caps, strict=True)]
        return tuple(max(1, round(k - share * (k - 1))) for k, share in zip(current, shares, strict=True))

    def _fit(self, widths: Widths, target: float) -> Widths:
        """Bring rounded widths to the target: shrink layers, the least steep first; then grow layers, the steepest first."""
        steepness = self._steepness(_POWERS[0])
        for layer in sorted(range(len(widths)), key=lambda layer: steepness[layer]):
            if self.cost(widths) > target:
                widths = self._shrunk(widths, layer, target)
        for layer in sorted(range(len(widths)), key=lambda layer: -steepness[layer]):
            widths = self._grown(widths, layer, target)
        return widths

    def _grown(self, widths: Widths, layer: int, target: float) -> Widths:
        """Return the widths with this layer grown as far as the target allows."""
        grown = self._shrunk(_with(widths, layer, self.full[layer]), layer, target)
        return grown if grown[layer] > widths[layer] else widths

    def _improve(self, targets: Sequence[float]) -> int:
        """Try exchanges at each target, then the widths of neighbouring targets; return the number of targets improved."""
        return sum(self._exchange(target) or self._inherit(target, targets) for target in targets)

    def _exchange(self, target: float) -> bool:
        """Grow one layer and shrink another, for every pair of layers; return True if the loss at the target fell."""
        start = self.best(target)
        steepness = self._steepness(_POWERS[0])
        pairs = sorted(permutations(range(len(start)), 2), key=lambda pair: steepness[pair[1]] - steepness[pair[0]])
        before = self.known[start]
        for share in _EXCHANGED:
            for grows, shrinks in pairs:
                best = self.best(target)
                wider = min(self.full[grows], best[grows] + max(1, round(share * best[grows])))
                exchanged = self._shrunk(_with(best, grows, wider), shrinks, target)
                if exchanged[shrinks] <= best[shrinks] and self.cost(exchanged) <= target and self.left > 0:
                    self.loss(exchanged)
        return self.known[self.best(target)] < before

    def _inherit(self, target: float, targets: Sequence[float]) -> bool:
        """Fit the best widths of the neighbouring targets to this target, one layer at a time; return True if the loss fell."""
        before = self.known[self.best(target)]
        at = targets.index(target)
        for neighbour in (*targets[max(0, at - 1) : at], *targets[at + 1 : at + 2]):
            start = self.best(neighbour)
            for layer in range(len(start)):
                changed = self._grown(self._shrunk(start, layer, target), layer, target)
                if self.cost(changed) <= target and self.left > 0:
                    self.loss(changed)
        return self.known[self.best(target)] < before


def _with(widths: Widths, layer: int, k: int) -> Widths:
    return (*widths[:layer], k, *widths[layer + 1 :])
