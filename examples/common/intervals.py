"""Confidence intervals over seeds, and Holm's correction for several comparisons."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import stats


class Interval(NamedTuple):
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return mean and interval as text with signs, for a difference."""
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"

    def plain(self, decimals: int = 2) -> str:
        """Return the mean ± half the width of the interval as text, without a sign."""
        return f"{self.mean:.{decimals}f} ± {self.high - self.mean:.{decimals}f}"

    @property
    def sign(self) -> int:
        """Return the sign of the mean if the interval excludes 0, else 0."""
        return (self.low > 0) - (self.high < 0)


def interval(values: Sequence[float]) -> Interval:
    """Return Student's 95 % interval for the mean of one value per seed, or of one paired difference per seed.

    Raises:
        ValueError: if there are fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"values has {len(values)} element(s); an interval needs at least two seeds")
    mean = statistics.fmean(values)
    if len(set(values)) == 1:  # equal values, for which scipy's interval is NaN
        return Interval(mean, mean, mean)
    ends = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    return Interval(mean, float(ends.low), float(ends.high))


def p_value(differences: Sequence[float]) -> float:
    """Return the p-value of the two-sided paired t test; if all differences are equal, 1 if they are 0, else 0."""
    if len(set(differences)) == 1:
        return float(differences[0] == 0)
    return float(stats.ttest_1samp(differences, 0).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values adjusted by Holm: rejecting all of them ≤ α has a probability ≤ α of any false rejection.

    Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted, least = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}
