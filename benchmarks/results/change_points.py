"""Finds the commits at which a series of figures changed its level.

The series is cut into stretches of constant level so that the squared deviations, plus a price for each cut, are least of all
possible ways (optimal partitioning, Jackson et al. 2005). Noise is judged from the differences of neighbours, which a step
enters once, with large ones clipped. The price is that of a change of five standard errors: of flat series of 30 figures
fewer than one in 200 is cut, normal or with outliers (tests/test_history.py shows it).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

PRICE = 25.0  # of a cut, in variances of a figure: a split at five standard errors just pays
LEAST = 3  # figures of a level: fewer are an accident
SMALLEST = 0.01  # relative size of a change worth a maintainer's time
CLIP = 4.0  # robust standard deviations of a difference, beyond which it counts as that
MAD_TO_DEVIATION = 1.4826  # of a normal law


@dataclass(frozen=True)
class Change:
    """The level changes at index `at`, by `size` (0.05: 5 % more), which is so many standard errors."""

    at: int
    size: float
    errors: float


def changes(values: Sequence[float]) -> list[Change]:
    """The changes of a series of positive figures, in order."""
    if not all(0 < value < math.inf for value in values):
        raise ValueError("a series of ratios holds positive, finite numbers only")
    series = np.log(np.asarray(values, dtype=np.float64))
    if len(series) < 2 * LEAST:
        return []
    noise = deviation(series)
    edges = partition(series, PRICE * noise**2)
    found = []
    for (low, at), (_, high) in pairwise(pairwise(edges)):
        difference = float(series[at:high].mean() - series[low:at].mean())
        error = noise * math.sqrt(1 / (at - low) + 1 / (high - at))
        found.append(Change(at, math.expm1(difference), abs(difference) / error if error else math.inf))
    return [change for change in found if abs(change.size) >= SMALLEST]


def deviation(series: NDArray[np.float64]) -> float:
    """Standard deviation of a figure around its level, from the differences of neighbours."""
    steps = np.abs(np.diff(series))
    core = MAD_TO_DEVIATION * float(np.median(steps)) or float(steps.mean())
    return math.sqrt(float(np.mean(np.minimum(steps, CLIP * core) ** 2)) / 2)


def partition(series: NDArray[np.float64], price: float) -> list[int]:
    """The edges (0 and the length among them) of the stretches whose squared deviations plus prices are least."""
    n = len(series)
    sums, squares = (
        np.concatenate([[0.0], np.cumsum(each)]) for each in (series - series.mean(), (series - series.mean()) ** 2)
    )
    best, before = np.full(n + 1, np.inf), np.zeros(n + 1, dtype=int)
    best[0] = -price
    for end in range(LEAST, n + 1):
        starts = np.arange(end - LEAST + 1)
        costs = squares[end] - squares[starts] - (sums[end] - sums[starts]) ** 2 / (end - starts)
        totals = best[starts] + costs + price
        before[end] = int(totals.argmin())
        best[end] = totals[before[end]]
    edges = [n]
    while edges[-1]:
        edges.append(int(before[edges[-1]]))
    return edges[::-1]
