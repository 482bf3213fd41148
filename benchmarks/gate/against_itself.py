"""Is the machine good for a verdict? Base against base, in the same run, must not look like a change.

The pairs of base and base are judged by the rule's own measure: a mean beyond the threshold, significant at the level that all
looks have together. Holm's correction is over the benchmarks and their mean, which shows a common shift soonest. So a machine
on which equal versions are equally fast is called unstable with probability 1 % at most.

`logs` holds, by benchmark, the log-ratio of each pair of base and base.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from .report import Row
from .rule import ALPHA, FAILED, INCOMPARABLE, UNSTABLE, Estimate, estimate, holm

ALL = "all benchmarks"
NAME = "the machine"
LEAST_PAIRS = 2


def estimates(logs: Mapping[str, Sequence[float]]) -> dict[str, Estimate]:
    """Return the change between base and base: for each benchmark with enough pairs and, as ALL, for their mean."""
    there = {name: values for name, values in logs.items() if len(values) >= LEAST_PAIRS}
    seen = {name: estimate(values) for name, values in there.items()}
    if len(there) > 1:
        pairs = min(len(values) for values in there.values())
        seen[ALL] = estimate([statistics.fmean(values[index] for values in there.values()) for index in range(pairs)])
    return seen


def disagreeing(logs: Mapping[str, Sequence[float]], threshold: float) -> dict[str, Estimate]:
    """Return the estimates of base against base that the rule would call a change."""
    seen = estimates(logs)
    adjusted = holm({name: found.p for name, found in seen.items()})
    return {name: found for name, found in seen.items() if abs(found.change) > threshold and adjusted[name] <= sum(ALPHA)}


def with_machine(rows: Sequence[Row], logs: Mapping[str, Sequence[float]], threshold: float) -> list[Row]:
    """Return the rows unchanged, unless base differs from itself.

    Then every verdict but FAILED and INCOMPARABLE becomes UNSTABLE, and a first row says that the machine is unstable.
    """
    found = disagreeing(logs, threshold)
    if not found:
        return list(rows)
    judged = [row if row.verdict in (FAILED, INCOMPARABLE) else spoiled(row) for row in rows]
    worst = max(found, key=lambda name: abs(found[name].change))
    note = f"base differs from itself here, most in {worst}: the machine is unstable, and no verdict counts"
    return [Row.of(NAME, "base against base", UNSTABLE, found[worst], note=note), *judged]


def spoiled(row: Row) -> Row:
    """Return the row with the verdict UNSTABLE; its note keeps the former verdict."""
    return row if row.verdict == UNSTABLE else replace(row, verdict=UNSTABLE, note=f"would be {row.verdict} {row.note}".strip())


def sentence(logs: Mapping[str, Sequence[float]]) -> str:
    """Return a sentence on the largest change between base and base, or an empty text if there are too few pairs."""
    seen = estimates(logs)
    if not seen:
        return ""
    worst = max(seen, key=lambda name: abs(seen[name].change))
    pairs = max(found.processes for found in seen.values())
    return f"Base against base, in {pairs} pairs: {seen[worst].change:+.2%} at most ({worst})."
