"""Turn measurements into rows of the report: exact counts, time, and the cases that could not be measured.

instructions.py makes the rows of instructions.
"""

import statistics
from collections.abc import Sequence
from typing import Protocol

from .measuring import Comparison
from .messages import BASE, HEAD, Counts, Times
from .report import Row
from .rule import FAILED, IMPROVED, INCOMPARABLE, PASS, REGRESSED, UNSTABLE, decide


class Measurements(Protocol):
    """A comparison that gives rows of time: with both versions in one process, or in pairs of processes."""

    failures: dict[str, str]
    lacking: dict[str, dict[str, str]]

    def draw(self, names: Sequence[str], count: int) -> dict[str, list[float]] | None:
        """Measure the cases in `count` fresh processes or pairs; see rule.Draw."""

    def times_of(self, name: str) -> Sequence[Times]:
        """Return the rounds of a case, one `Times` per process or pair."""


def count_rows(comparison: Comparison, names: Sequence[str]) -> list[Row]:
    """Return a row per exact count of the cases and of the package; any increase is a regression.

    What was not counted before the deadline is UNSTABLE.
    """
    rows = []
    messages = comparison.exact_counts(names)
    for message in messages:
        for signal, sides in message.counts.items():
            base, head = sides[BASE], sides[HEAD]
            verdict = REGRESSED if head > base else IMPROVED if head < base else PASS
            change = None if base == 0 else head / base - 1
            note = f"{base} → {head}" if base == 0 and head else ""
            rows.append(Row(message.case, signal, verdict, base, head, change, note=note))
    return rows + (uncounted_rows(comparison, names, messages) if comparison.out_of_time() else [])


def uncounted_rows(comparison: Comparison, names: Sequence[str], messages: Sequence[Counts]) -> list[Row]:
    """Return a row, UNSTABLE, per case or count of the package that `messages` lacks and that did not fail."""
    cases = {message.case for message in messages}
    left = [(name, "exact counts") for name in comparison.measurable(names) if name not in cases]
    known = {(message.case, signal) for message in messages for signal in message.counts}
    groups = comparison.workload.package_counts
    left += [
        (group, name) for group in comparison.measurable(list(groups)) for name in groups[group] if (group, name) not in known
    ]
    return [Row(case, signal, UNSTABLE, note="the budget left no time for it") for case, signal in left]


def time_rows(comparison: Measurements, names: Sequence[str], threshold: float) -> list[Row]:
    """Return the row of time of each case, judged by rule.py. Cases that failed or are lacking are left to `lack_rows`."""
    rows = []
    for name, decision in (decide(names, comparison.draw, threshold) if names else {}).items():
        if name in comparison.failures or name in comparison.lacking:
            continue
        base, head = (median_seconds(comparison, name, side) for side in (BASE, HEAD))
        if base is not None and decision.estimate:  # else two medians beside a trimmed mean could contradict it
            head = base * (1 + decision.estimate.change)
        note = decision.note
        if decision.confirmed:
            note = f"{note} second batch {decision.confirmed.change:+.1%}".strip()
        rows.append(Row.of(name, "time", decision.verdict, decision.estimate, base=base, head=head, note=note))
    return rows


def median_seconds(comparison: Measurements, name: str, side: str) -> float | None:
    """Return the seconds of a call: the median over processes of the median over rounds; None if nothing was measured."""
    medians = [statistics.median(times.seconds[side]) for times in comparison.times_of(name)]
    return statistics.median(medians) if medians else None


def lack_rows(comparison: Measurements, names: Sequence[str]) -> list[Row]:
    """Return a row per case that could not be measured: FAILED if it failed or head alone lacks it, else INCOMPARABLE."""
    rows = [Row(name, "all", FAILED, note=note) for name, note in comparison.failures.items()]
    for name in names:
        sides = comparison.lacking.get(name, {})
        if sides and name not in comparison.failures:
            verdict = FAILED if set(sides) == {HEAD} else INCOMPARABLE
            rows.append(Row(name, "all", verdict, note=f"not measured in {' and '.join(sides)}: {next(iter(sides.values()))}"))
    return rows
