"""Find the commits at which a series of figures changed its level.

The series is cut into segments of constant level so that the sum of squared deviations plus a penalty per cut is minimal
(optimal partitioning, Jackson et al. 2005). Noise is estimated from the differences of neighbours, because a step changes only
one of them; large differences are clipped. The penalty is that of a change of five standard errors: of flat series of 30
figures fewer than one in 200 is cut, with normal noise or with outliers (tests/harness/results/test_history.py shows it).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

PENALTY = 25.0  # of a cut, in variances of a figure: a cut at five standard errors just pays
LEAST = 3  # figures in a segment; fewer can be chance
SMALLEST = 0.01  # relative size of a change that is reported
CLIP = 4.0  # robust standard deviations, to which larger differences are clipped
MAD_TO_DEVIATION = 1.4826  # for a normal law


@dataclass(frozen=True)
class Change:
    """A change of the level at index `at`, of relative `size` (0.05: 5 % more), `errors` standard errors large."""

    at: int
    size: float
    errors: float


def changes(values: Sequence[float]) -> list[Change]:
    """Return the changes of a series of ratios, in order, without those smaller than `SMALLEST`.

    Raises ValueError if a ratio is not positive and finite.
    """
    if not all(0 < value < math.inf for value in values):
        raise ValueError("a series of ratios must hold positive, finite numbers only")
    series = np.log(np.asarray(values, dtype=np.float64))
    if len(series) < 2 * LEAST:
        return []
    noise = deviation(series)
    edges = partition(series, PENALTY * noise**2)
    detected = []
    for (low, at), (_, high) in pairwise(pairwise(edges)):
        difference = float(series[at:high].mean() - series[low:at].mean())
        error = noise * math.sqrt(1 / (at - low) + 1 / (high - at))
        detected.append(Change(at, math.expm1(difference), abs(difference) / error if error else math.inf))
    return [change for change in detected if abs(change.size) >= SMALLEST]


def deviation(series: NDArray[np.float64]) -> float:
    """Estimate the standard deviation of a figure around its level, from the differences of neighbours."""
    steps = np.abs(np.diff(series))
    core = MAD_TO_DEVIATION * float(np.median(steps)) or float(steps.mean())
    return math.sqrt(float(np.mean(np.minimum(steps, CLIP * core) ** 2)) / 2)


def partition(series: NDArray[np.float64], penalty: float) -> list[int]:
    """Return the edges of the best segments, from 0 to the length of the series.

    They minimise the sum of squared deviations from the segments' means, plus `penalty` for each cut.
    """
    n = len(series)
    sums, squares = (
        np.concatenate([[0.0], np.cumsum(terms)]) for terms in (series - series.mean(), (series - series.mean()) ** 2)
    )
    best, before = np.full(n + 1, np.inf), np.zeros(n + 1, dtype=int)
    best[0] = -penalty
    for end in range(LEAST, n + 1):
        starts = np.arange(end - LEAST + 1)
        costs = squares[end] - squares[starts] - (sums[end] - sums[starts]) ** 2 / (end - starts)
        totals = best[starts] + costs + penalty
        before[end] = int(totals.argmin())
        best[end] = totals[before[end]]
    edges = [n]
    while edges[-1]:
        edges.append(int(before[edges[-1]]))
    return edges[::-1]
