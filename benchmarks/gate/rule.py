"""How the gate decides: from the change that each process saw to a verdict per case, with a known rate of false alarms.

A process gives one number per case: the logarithm of the median, over its rounds, of head's time over base's. The
process is the independent unit (what it was dealt, by the placement of memory for instance, stays with it), so an
interval is Student's over processes.

There are looks at 6, 12 and 24 processes, declared beforehand, between which `ALPHA` is divided: however many looks are
taken, one case or more of a pair of equal versions is suspected with probability ALPHA at most (Holm over the cases at
each look, Bonferroni over the looks). A suspected case must change by more than the threshold, and then again in as many
fresh processes: only then is it REGRESSED or IMPROVED. A case passes once its interval is narrower than the threshold on
either side: a slowdown of twice the threshold then shows itself with 95 % or more. What neither passes nor is suspected at the
last look, or when the time is up, is UNSTABLE: never a pass.

Nothing here measures. `decide` draws its processes from whatever is handed in: live ones, or recorded ones replayed.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtr, stdtrit  # Student's distribution, without the overhead of scipy.stats

THRESHOLD = 0.025  # relative change of time
LOOKS = (6, 12, 24)  # processes
ALPHA = (0.005, 0.003, 0.002)  # spent at each look; their sum bounds the probability of suspecting equal versions
AGREE = 0.05  # one-sided level of the second batch
CONFIDENCE = 0.95  # of the interval that is shown, and whose half-width must not exceed the threshold

PASS, REGRESSED, IMPROVED, UNSTABLE, INCOMPARABLE, FAILED = (
    "PASS", "REGRESSED", "IMPROVED", "UNSTABLE", "INCOMPARABLE", "FAILED",
)  # fmt: skip

Samples = Mapping[str, Sequence[float]]
# So many fresh processes for these cases: what each gave. None: there is no time for them.
Draw = Callable[[Sequence[str], int], Samples | None]


@dataclass(frozen=True)
class Estimate:
    """A change with its interval, as fractions of base (0.05: head takes 5 % longer); p is two-sided, against no change."""

    change: float
    low: float
    high: float
    p: float
    processes: int

    @property
    def half_width(self) -> float:
        """Half the interval's length."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Decision:
    """The verdict on one case; `confirmed` is what the second batch found, where there was one."""

    verdict: str
    estimate: Estimate | None = None
    confirmed: Estimate | None = None
    note: str = ""


def log_ratio(base: Sequence[float], head: Sequence[float]) -> float:
    """What one process saw: the logarithm of the median of paired head / base."""
    return math.log(statistics.median(h / b for h, b in zip(head, base, strict=True)))


def estimate(sample: Sequence[float]) -> Estimate:
    """Mean of the processes' log-ratios with Student's interval, turned into a relative change."""
    n = len(sample)
    if n < 2:
        raise ValueError(f"{n} process(es) give no interval; hand in 2 or more")
    centre = statistics.fmean(sample)
    error = statistics.stdev(sample) / math.sqrt(n)
    reach = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * error
    p = float(2 * stdtr(n - 1, -abs(centre) / error)) if error > 0 else float(centre == 0)
    return Estimate(math.expm1(centre), math.expm1(centre - reach), math.expm1(centre + reach), p, n)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values: rejecting those at most α errs anywhere with probability α at most."""
    adjusted, worst = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = worst
    return adjusted


def decide(names: Sequence[str], draw: Draw, threshold: float = THRESHOLD) -> dict[str, Decision]:
    """Look at 6, 12, 24 processes until every case is decided, and confirm what is suspected by a second batch."""
    samples: dict[str, list[float]] = {name: [] for name in names}
    decided: dict[str, Decision] = {}
    suspected: dict[str, Estimate] = {}
    note = f"not settled after {LOOKS[-1]} processes"
    for look, alpha in zip(LOOKS, ALPHA, strict=True):
        open_cases = [name for name in names if name not in decided and name not in suspected]
        if not open_cases:
            break
        fresh = draw(open_cases, look - len(samples[open_cases[0]]))
        if fresh is None:
            note = "no time for more processes"
            break
        found = {}
        for name in open_cases:
            samples[name] += fresh.get(name, ())
            if len(samples[name]) < look:  # a process broke off; what is incomplete is not judged
                decided[name] = Decision(FAILED, note=f"{len(samples[name])} of {look} processes gave a figure")
            else:
                found[name] = estimate(samples[name])
        adjusted = holm({name: found[name].p if name in found else 1.0 for name in names})
        for name, seen in found.items():
            if abs(seen.change) > threshold and adjusted[name] <= alpha:
                suspected[name] = seen
            elif abs(seen.change) <= threshold and seen.half_width <= threshold:
                decided[name] = Decision(PASS, seen)
    for name in names:
        if name not in decided and name not in suspected:
            last = estimate(samples[name]) if len(samples[name]) > 1 else None
            decided[name] = Decision(UNSTABLE, last, note=note)
    return {name: decided[name] if name in decided else Decision(UNSTABLE) for name in names} | confirm(
        suspected, draw, threshold
    )


def confirm(suspected: Mapping[str, Estimate], draw: Draw, threshold: float) -> dict[str, Decision]:
    """Judge what is suspected by a second batch, as large as the first and independent of it."""
    found = {}
    for size in LOOKS:
        names = [name for name, first in suspected.items() if first.processes == size]
        fresh = draw(names, size) if names else {}
        for name in names:
            sample = () if fresh is None else fresh.get(name, ())
            if len(sample) == size:
                found[name] = agree(suspected[name], estimate(sample), threshold)
            else:
                note = "no time for the second batch" if fresh is None else "the second batch failed"
                found[name] = Decision(UNSTABLE if fresh is None else FAILED, suspected[name], note=note)
    return found


def agree(first: Estimate, second: Estimate, threshold: float) -> Decision:
    """The verdict on a suspected case, given its second batch."""
    same = second.change * first.change > 0 and abs(second.change) > threshold and second.p / 2 <= AGREE
    if same:
        return Decision(REGRESSED if first.change > 0 else IMPROVED, first, second)
    if abs(second.change) <= threshold and second.half_width <= threshold:
        return Decision(PASS, second, note=f"a first batch showed {first.change:+.1%}, a second one did not")
    return Decision(UNSTABLE, first, second, "the second batch does not agree")
