"""Judge the figures of track_, mem_ and peakmem_ benchmarks: less is better, and comparing base with base gives the margin."""

import statistics
from collections.abc import Mapping, Sequence

from .instructions import MOST_MARGIN, margin
from .messages import BASE, BASE_COPY, HEAD
from .report import Row
from .rule import IMPROVED, PASS, REGRESSED, UNSTABLE

PEAK_MARGIN = 0.02  # of a whole process's memory, which moves by pages and by the order of imports


def figure_rows(figures: Mapping[str, Sequence[Mapping[str, float]]], kinds: Mapping[str, str], wanted: int) -> list[Row]:
    """Return a row per benchmark.

    `figures` maps each benchmark to its pairs, side -> figure; `kinds` maps it to its type in asv. A benchmark with fewer than
    `wanted` pairs of base and head, or with none of base and base, is UNSTABLE.
    """
    return [figure_row(name, pairs, kinds[name], wanted) for name, pairs in figures.items()]


def figure_row(name: str, pairs: Sequence[Mapping[str, float]], kind: str, wanted: int) -> Row:
    """Return the row of one benchmark: a change counts if it exceeds the margin in every pair.

    A figure whose margin exceeds MOST_MARGIN never passes.
    """
    both = [(pair[BASE], pair[HEAD]) for pair in pairs if HEAD in pair]
    noise = [change(pair[BASE], pair[BASE_COPY]) for pair in pairs if BASE_COPY in pair]
    if len(both) < wanted or not noise:
        return Row(name, kind, UNSTABLE, note="the budget left no time for it")
    limit = max(margin(noise), PEAK_MARGIN if kind == "peakmemory" else 0.0)
    base, head = (statistics.median(side) for side in zip(*both, strict=True))
    changes = [change(*figures) for figures in both]
    if all(value > limit for value in changes):
        verdict = REGRESSED
    elif all(value < -limit for value in changes):
        verdict = IMPROVED
    else:
        verdict = PASS if abs(change(base, head)) <= limit <= MOST_MARGIN else UNSTABLE
    note = f"{len(both)} pairs, margin {limit:.2%}"
    if base == 0:
        return Row(name, kind, verdict, base, head, note=f"{note}, from 0")
    return Row(name, kind, verdict, base, head, change(base, head), note=note)


def change(base: float, head: float) -> float:
    """Return (head − base) / |base|: 0 if both are equal, else +inf or −inf if base is 0."""
    if base == head:
        return 0.0
    return (head - base) / abs(base) if base else (float("inf") if head > 0 else float("-inf"))
