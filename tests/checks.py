"""Statistical checks of draws of K. Each returns a p-value; all are judged as one family.

The family-wise false-alarm rate is ALPHA: if every draw follows the law, a run of all cells rejects any of them with at most
this probability. Holm's procedure decides. Its first step, p < ALPHA / SIZE for the smallest p, is also asserted in each cell,
so that a failure names its cell.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy.stats
import torch
from scipy.special import logsumexp
from torch import Tensor

from taildropout import CensoredGeometric

ALPHA = 1e-4
SIZE = 2500  # at least the number of p-values of all cells, fast and slow; `test_holm` checks it
LIMIT = ALPHA / SIZE

# With 10 expected counts in a bin, χ² rejects far too often at such small p; with 500, at about its nominal rate.
LEAST_EXPECTED = 500

# By Edgeworth's expansion, a standardised sum of skewness g exceeds z exp(g z³/6) times as often as a normal variable: for this
# g 1.3 times at z = 5.6, which LIMIT corresponds to. For a larger skewness, exact laws and bounds replace the normal.
NEGLIGIBLE_SKEWNESS = 0.01


@dataclass(frozen=True)
class Law:
    """The exact law of K for one (p, n)."""

    p: float
    n: int

    @cached_property
    def pmf(self) -> np.ndarray:
        law = CensoredGeometric(self.p, self.n)
        return law.log_prob(law.enumerate_support()).exp().numpy()

    @cached_property
    def standardised(self) -> np.ndarray:
        """Return (k − E[K]) / std(K) for k = 0 … n. E[K] is n(1 − p), as documented, not a sum over the law."""
        deviation = np.arange(self.n + 1) - self.n * (1 - self.p)
        standardised: np.ndarray = deviation / np.sqrt(self.pmf @ deviation**2)
        return standardised

    @cached_property
    def scores(self) -> np.ndarray:
        """Return P(K < k) + P(K = k)/2 − 1/2, standardised: bounded scores, whose products have light tails."""
        middle = np.cumsum(self.pmf) - self.pmf / 2 - 0.5
        return middle / np.sqrt(self.pmf @ middle**2)

    @cached_property
    def split(self) -> int:
        """Return the k for which P(K < k) is closest to ½."""
        return int(np.abs(np.cumsum(self.pmf)[:-1] - 0.5).argmin()) + 1


def goodness(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Return p of χ² with neighbouring bins merged to LEAST_EXPECTED or more; of the exact binomial test if two remain."""
    draws = counts.sum()
    expected = draws * probabilities
    ends, gathered = [], 0.0
    for end, each in enumerate(expected, start=1):
        gathered += each
        if gathered >= LEAST_EXPECTED:
            ends.append(end)
            gathered = 0.0
    starts = [0, *ends[:-1]]  # the last bin includes the rest
    if len(starts) <= 2:
        middle = starts[-1] or int(np.abs(np.cumsum(probabilities)[:-1] - 0.5).argmin()) + 1
        low = min(max(float(probabilities[:middle].sum()), 0.0), 1.0)
        return float(scipy.stats.binomtest(int(counts[:middle].sum()), int(draws), low).pvalue)
    observed, wanted = np.add.reduceat(counts, starts), np.add.reduceat(expected, starts)
    return float(scipy.stats.chi2.sf(((observed - wanted) ** 2 / wanted).sum(), len(starts) - 1))


def fine_structure(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Return p of K mod 16 (or 8, 4, 2) and K = n, which shows values that a coarse grid of random numbers skips."""

    def fold(values: np.ndarray, modulus: int) -> np.ndarray:
        return np.append(np.bincount(np.arange(len(values) - 1) % modulus, weights=values[:-1]), values[-1])

    # Merged neighbours would hide skipped values, so use as many residues as need no merging.
    enough = [m for m in (16, 8, 4) if (fold(probabilities, m)[:-1] * counts.sum() >= LEAST_EXPECTED).all()]
    modulus = enough[0] if enough else 2
    return goodness(fold(counts, modulus), fold(probabilities, modulus))


def coincidences(small: Tensor, n: int) -> float:
    """Return p of the number of repeated draws below n, for a λn so small that they are uniform on 0 … n − 1."""
    repeated = len(small) - len(small.unique())
    return float(scipy.stats.poisson.sf(repeated - 1, len(small) ** 2 / 2 / n))


def z_of_mean(counts: np.ndarray, law: Law) -> float:
    """Return (mean of K − n(1 − p)) in standard errors of the exact law."""
    return float(counts @ law.standardised / np.sqrt(counts.sum()))


def mean(counts: np.ndarray, law: Law) -> float:
    """Return p of `z_of_mean`: normal, or for a skewed law Chernoff's bound 2 exp(−N sup_t(t z̄ − log E e^(t Z)))."""
    draws, z = counts.sum(), z_of_mean(counts, law)
    if abs(law.pmf @ law.standardised**3) <= NEGLIGIBLE_SKEWNESS * np.sqrt(draws):
        return float(2 * scipy.stats.norm.sf(abs(z)))
    average = z / np.sqrt(draws)
    # Every t gives a valid bound. The best t is the average for a normal law, and near it for a skewed law.
    t = average * np.geomspace(0.1, 30, 60)
    occurs = law.pmf > 0
    log_terms = np.outer(t, law.standardised[occurs]) + np.log(law.pmf[occurs])
    exponents = t * average - logsumexp(log_terms, axis=1)
    return float(min(1.0, 2 * np.exp(-draws * exponents.max())))


def independence(a: Tensor, b: Tensor, law: Law) -> float:
    """Return p of the correlation of scores of paired draws; for skewed scores, p of the number of pairs with both rare.

    Neighbouring pairs may share draws, as (k₁, k₂), (k₂, k₃): their products are uncorrelated.
    """
    pairs = len(a)
    if (law.pmf @ law.scores**3) ** 2 <= NEGLIGIBLE_SKEWNESS * np.sqrt(pairs):
        scores = torch.from_numpy(law.scores)
        z = torch.dot(scores[a], scores[b]).item() / np.sqrt(pairs)
        return float(2 * scipy.stats.norm.sf(abs(z)))
    low = law.pmf[: law.split].sum()
    rare_a, rare_b = (a < law.split, b < law.split) if low < 0.5 else (a >= law.split, b >= law.split)
    # Here pairs must not share draws, so those with an even and with an odd start are tested separately.
    both, chance = (rare_a & rare_b).numpy(), min(low, 1 - low) ** 2
    halves = [scipy.stats.binomtest(int(each.sum()), len(each), chance).pvalue for each in (both[::2], both[1::2])]
    return float(min(1.0, 2 * min(halves)))


def check(first: Tensor, second: Tensor, p: float, n: int) -> dict[str, float]:
    """Return p-values of two sequences of K, drawn alternately by two layers, against the exact law of K."""
    law = Law(p, n)
    both = torch.cat([first, second])
    counts = torch.bincount(both, minlength=n + 1).numpy().astype(np.float64)
    if len(counts) != n + 1:
        raise ValueError(f"a K is greater than n={n}")
    return {
        "law": goodness(counts, law.pmf),
        "fine": fine_structure(counts, law.pmf),
        "mean": mean(counts, law),
        "lag 1": independence(both[:-1], both[1:], law),
        "between": independence(first, second, law),
    }


def holm(p_values: Mapping[str, float], alpha: float, size: int) -> list[str]:
    """Return the names Holm rejects among `size` hypotheses; hypotheses not given count as p = 1."""
    rejected = []
    for place, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        if not p_values[name] <= alpha / (size - place):
            break
        rejected.append(name)
    return rejected


@dataclass
class Family:
    """The p-values of every cell that ran, and the lines of the report."""

    p_values: dict[str, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def judge(self, cell: str, p_values: Mapping[str, float], note: str = "") -> None:
        """Record a cell, and fail unless all its p-values are above LIMIT."""
        shown = "  ".join(f"{name} {value:<7.2g}" for name, value in p_values.items())
        self.lines.append(f"{cell:<48}{note:<34}{shown}")
        self.p_values |= {f"{cell}: {name}": value for name, value in p_values.items()}
        wrong = {name: value for name, value in p_values.items() if not value > LIMIT}
        assert not wrong, f"{cell} does not follow the exact law: p={wrong}, below {ALPHA} / {SIZE}"
