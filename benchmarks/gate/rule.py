"""Decide: turn the change that each process measured into a verdict per case, with a known rate of false alarms.

A process gives one number per case: the logarithm of the median, over its rounds, of head's time over base's. The process is
the independent unit: the placement of its memory, for instance, stays the same for all of its rounds. Some processes are far
off, probably by that placement: in lock step, one pair in fifty of equal versions in pure Python differs by 13 % and more, up
to a factor of two. So the mean is trimmed by a sixth of the processes at each end, and the interval is Yuen's (1974):
Student's, from the winsorized deviation. On normal noise it holds the truth in 94 to 95 of 100 cases.

Looks take place at 6, 12 and 24 processes, declared beforehand. `ALPHA` is divided between them: however many looks are taken,
one case or more of two equal versions is suspected with probability 1 % at most (Holm over the cases at each look, Bonferroni
over the looks). A suspected case must change by more than the threshold, and then again in as many fresh processes:
only then is it REGRESSED or IMPROVED. A case passes once its interval is narrower than the threshold on either side: a slowdown
of twice the threshold then shows with probability 95 % or more. A case that neither passes nor is suspected at the last look,
or when the time is up, is UNSTABLE: never a pass.

Nothing here measures. `decide` calls its argument `draw` for more processes, which measures them or replays recorded ones.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtr, stdtrit  # Student's distribution, without the overhead of scipy.stats

THRESHOLD = 0.025  # relative change of time
LOOKS = (6, 12, 24)  # processes
TRIM = 6  # of so many ordered processes, one is left out at each end
# Spent at each look. Yuen's p-value is a little small in small samples: on normal noise these are .0051, .0029 and .0020.
ALPHA = (0.0035, 0.0020, 0.0015)
REVISION = 2  # of what this module decides: a trial of the gate that another revision judged does not count
AGREE = 0.05  # one-sided level of the second batch
CONFIDENCE = 0.95  # of the interval that is shown, and whose half-width must not exceed the threshold

PASS, REGRESSED, IMPROVED, UNSTABLE, INCOMPARABLE, FAILED = (
    "PASS", "REGRESSED", "IMPROVED", "UNSTABLE", "INCOMPARABLE", "FAILED",
)  # fmt: skip

NO_TIME = "no time for more processes"

Samples = Mapping[str, Sequence[float]]
# draw(names, count): measure these cases in `count` fresh processes. Return, by case, a log-ratio per process, without the
# cases for which there is no time; None if there is time for none.
Draw = Callable[[Sequence[str], int], Samples | None]


@dataclass(frozen=True)
class Estimate:
    """A change and its interval as fractions of base (0.05: head takes 5 % longer), with a two-sided p against no change."""

    change: float
    low: float
    high: float
    p: float
    processes: int

    @property
    def half_width(self) -> float:
        """Return half the length of the interval."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Decision:
    """The verdict on one case; `confirmed` is the estimate of the second batch, if one was measured."""

    verdict: str
    estimate: Estimate | None = None
    confirmed: Estimate | None = None
    note: str = ""


def log_ratio(base: Sequence[float], head: Sequence[float]) -> float:
    """Return the logarithm of the median of head / base over the rounds of one process; each round gives both a time."""
    return math.log(statistics.median(h / b for h, b in zip(head, base, strict=True)))


def estimate(sample: Sequence[float]) -> Estimate:
    """Return the trimmed mean of log-ratios and Yuen's interval, both as relative changes.

    Fewer than TRIM log-ratios are not trimmed: the interval is Student's. Raises ValueError for fewer than two.
    """
    n = len(sample)
    if n < 2:
        raise ValueError(f"an interval takes 2 processes or more, but {n} came")
    cut = n // TRIM
    kept = sorted(sample)[cut : n - cut]
    degrees = len(kept) - 1
    centre = statistics.fmean(kept)
    winsorized = [kept[0]] * cut + kept + [kept[-1]] * cut
    error = statistics.stdev(winsorized) * math.sqrt((n - 1) / (len(kept) * degrees))
    reach = float(stdtrit(degrees, (1 + CONFIDENCE) / 2)) * error
    p = float(2 * stdtr(degrees, -abs(centre) / error)) if error > 0 else float(centre == 0)
    return Estimate(math.expm1(centre), math.expm1(centre - reach), math.expm1(centre + reach), p, n)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values adjusted by Holm's method.

    If all cases with an adjusted p-value of at most α are rejected, a false rejection has probability α at most.
    """
    adjusted, worst = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = worst
    return adjusted


def decide(names: Sequence[str], draw: Draw, threshold: float = THRESHOLD) -> dict[str, Decision]:
    """Return a decision per case, after a look at 6, 12 and 24 processes until no case is open.

    A second batch confirms each suspected case. `threshold` is a relative change of time.
    """
    looks = Looks(names, threshold)
    note = f"not settled after {LOOKS[-1]} processes"
    for size, alpha in zip(LOOKS, ALPHA, strict=True):
        undecided = looks.undecided()
        if not undecided:
            break
        drawn = draw(undecided, size - len(looks.samples[undecided[0]]))
        if drawn is None:
            note = NO_TIME
            break
        looks.judge(drawn, size, alpha)
    decisions = looks.decided | {name: unstable(looks.samples[name], note) for name in looks.undecided()}
    decisions |= confirm(looks.suspected, draw, threshold)
    return {name: decisions[name] if name in decisions else Decision(UNSTABLE) for name in names}


class Looks:
    """The first batch: the log-ratios sampled so far, the cases decided and the cases suspected."""

    def __init__(self, names: Sequence[str], threshold: float) -> None:
        self.names, self.threshold = names, threshold
        self.samples: dict[str, list[float]] = {name: [] for name in names}
        self.decided: dict[str, Decision] = {}
        self.suspected: dict[str, Estimate] = {}

    def undecided(self) -> list[str]:
        """Return the cases that need more processes."""
        return [name for name in self.names if name not in self.decided and name not in self.suspected]

    def judge(self, drawn: Samples, size: int, alpha: float) -> None:
        """Add a draw and look: suspect, pass or fail each undecided case, or leave it undecided.

        `size` is the number of processes that each case should have now, `alpha` the level of this look.
        """
        estimates = {}
        for name in self.undecided():
            if name not in drawn:
                self.decided[name] = unstable(self.samples[name], NO_TIME)
                continue
            self.samples[name] += drawn[name]
            there = len(self.samples[name])
            if there < size:  # a process failed, and an incomplete sample is not judged
                self.decided[name] = Decision(FAILED, note=f"{there} of {size} processes gave a figure")
            else:
                estimates[name] = estimate(self.samples[name])
        # Holm over all cases, those decided before too: the family does not shrink from look to look.
        adjusted = holm({name: estimates[name].p if name in estimates else 1.0 for name in self.names})
        for name, seen in estimates.items():
            if abs(seen.change) > self.threshold and adjusted[name] <= alpha:
                self.suspected[name] = seen
            elif within(seen, self.threshold):
                self.decided[name] = Decision(PASS, seen)


def within(seen: Estimate, threshold: float) -> bool:
    """Return True if neither the change nor the half-width of its interval exceeds the threshold."""
    return abs(seen.change) <= threshold and seen.half_width <= threshold


def unstable(sample: Sequence[float], note: str) -> Decision:
    """Return UNSTABLE for a case that no look decided, with an estimate if the sample allows one."""
    return Decision(UNSTABLE, estimate(sample) if len(sample) > 1 else None, note=note)


def confirm(suspected: Mapping[str, Estimate], draw: Draw, threshold: float) -> dict[str, Decision]:
    """Return the decisions on suspected cases, by a second batch as large as the first and independent of it."""
    decisions = {}
    for size in LOOKS:
        names = [name for name, first in suspected.items() if first.processes == size]
        drawn = draw(names, size) if names else {}
        for name in names:
            sample = () if drawn is None else drawn.get(name, ())
            if len(sample) == size:
                decisions[name] = agree(suspected[name], estimate(sample), threshold)
            elif drawn is None or name not in drawn:
                decisions[name] = Decision(UNSTABLE, suspected[name], note="no time for the second batch")
            else:
                decisions[name] = Decision(FAILED, suspected[name], note="the second batch failed")
    return decisions


def agree(first: Estimate, second: Estimate, threshold: float) -> Decision:
    """Return the decision on a suspected case from the estimates of its first and second batch."""
    same_direction = second.change * first.change > 0
    if same_direction and abs(second.change) > threshold and second.p / 2 <= AGREE:
        return Decision(REGRESSED if first.change > 0 else IMPROVED, first, second)
    if within(second, threshold):
        return Decision(PASS, second, note=f"a first batch showed {first.change:+.1%}, a second one did not")
    return Decision(UNSTABLE, first, second, "the second batch does not agree")
