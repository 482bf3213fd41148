"""Apply other decision rules to the rounds that the gate measured, so that they can be compared with it.

    asv       the rule of `asv continuous`: base's times from one process and head's from another, Mann-Whitney at .002,
              and a change of the median beyond the factor, here the gate's threshold
    t-test    Welch's t-test at .01 over the rounds of a single process, and a change of the mean beyond the threshold

Both look at slowdowns only.
"""

import statistics
from collections.abc import Mapping, Sequence

from scipy import stats

from .rule import THRESHOLD

ASV_P, T_P = 0.002, 0.01


def flags(processes: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, bool]:
    """Return, by rule, True if it calls head slower. `processes` holds the rounds, side -> times, of two processes or more."""
    first, second = processes[:2]
    return {"asv": by_asv(first["base"], second["head"]), "t-test": by_t_test(first["base"], first["head"])}


def by_asv(base: Sequence[float], head: Sequence[float]) -> bool:
    """Return True if the rule of `asv continuous` calls head slower; `base` and `head` are from different processes."""
    slower = statistics.median(head) > (1 + THRESHOLD) * statistics.median(base)
    return slower and float(stats.mannwhitneyu(base, head).pvalue) < ASV_P


def by_t_test(base: Sequence[float], head: Sequence[float]) -> bool:
    """Return True if the t-test, which assumes that rounds are independent, calls head slower."""
    slower = statistics.fmean(head) > (1 + THRESHOLD) * statistics.fmean(base)
    return slower and float(stats.ttest_ind(base, head, equal_var=False).pvalue) < T_P
