"""Intervals over seeds, and what can be said after several comparisons at once."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import stats


class Interval(NamedTuple):
    """A mean, and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Signed, with two decimals: for differences."""
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"

    def plain(self, decimals: int = 2) -> str:
        """Mean ± half the width."""
        return f"{self.mean:.{decimals}f} ± {self.high - self.mean:.{decimals}f}"

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves out 0, and else 0."""
        return (self.low > 0) - (self.high < 0)


def interval(values: Sequence[float]) -> Interval:
    """Student's t interval for the mean, 95 %: of a value for each seed, or of a difference where seeds are paired.

    Raises:
        statistics.StatisticsError: if there are fewer than two values.
    """
    mean, error = statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def p_value(differences: Sequence[float]) -> float:
    """Of the two-sided paired t test that their mean is 0."""
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / len(differences) ** 0.5
    if error == 0:
        return float(mean == 0)
    return float(2 * stats.t.sf(abs(mean / error), len(differences) - 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted for their number: where those at most α are called differences, one in any is false with probability ≤ α.

    Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted, least = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}
