"""The canary: does the gate see an injected slowdown here and now?"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .injection import inject, tune
from .measuring import Comparison
from .report import Row
from .rule import REGRESSED, THRESHOLD
from .signals import lack_rows, time_rows
from .versions import extract
from .workload import Injectable, Slowdown

EFFECT = 0.10  # of the injected slowdown
SEEN = 0.05, 0.20  # the changes that count as seen; outside of them the tuning failed, and another size was injected


def judge_canary(
    workload: Injectable, slowdowns: Mapping[str, Slowdown], commit: str, folder: Path, say: Callable[[str], None]
) -> list[Row]:
    """Return the gate's rows of time for a commit (base) against a copy of it with injected slowdowns (head)."""
    version = extract(workload, commit, folder / "base")
    amounts = tune(workload, version, folder, slowdowns, say)
    slowed = inject(workload, version, folder / "slowed", amounts)
    comparison = Comparison(workload, version, slowed, folder, seed=int(time.time()))
    names = list(slowdowns)
    return time_rows(comparison, comparison.measurable(names), THRESHOLD) + lack_rows(comparison, names)


def unseen(rows: Sequence[Row]) -> list[str]:
    """Return the cases for which the gate did not report the injected slowdown, or measured a change outside SEEN."""
    low, high = SEEN
    return [row.case for row in rows if row.verdict != REGRESSED or row.change is None or not low <= row.change <= high]


def canary_line(rows: Sequence[Row], missed: Sequence[str]) -> str:
    """Return a sentence that says whether the slowdown was seen, with the verdict on each case."""
    verdicts = [f"{row.case} {row.verdict}{'' if row.change is None else f' {row.change:+.1%}'}" for row in rows]
    return f"A slowdown of {EFFECT:+.0%} was injected, and {'not seen' if missed else 'seen'}: {', '.join(verdicts)}."
