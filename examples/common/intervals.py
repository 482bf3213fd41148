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
        ValueError: if there are fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"values has {len(values)} element(s); an interval needs at least two seeds")
    mean = statistics.fmean(values)
    if len(set(values)) == 1:  # without spread, for which scipy's interval is NaN
        return Interval(mean, mean, mean)
    ends = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    return Interval(mean, float(ends.low), float(ends.high))


def p_value(differences: Sequence[float]) -> float:
    """p-value of the two-sided paired t test of a mean difference of 0; 1 or 0 where the differences have no spread."""
    if len(set(differences)) == 1:
        return float(differences[0] == 0)
    return float(stats.ttest_1samp(differences, 0).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted for their number: where those at most α are called differences, one in any is false with probability ≤ α.

    Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted, least = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}
