"""Compare two versions by all signals: exact counts, time, then instructions."""

import time
from collections.abc import Sequence

from .instructions import allowed_seconds, instruction_rows
from .measuring import Comparison
from .report import Row
from .signals import count_rows, lack_rows, time_rows


def compare(comparison: Comparison, names: Sequence[str], threshold: float) -> list[Row]:
    """Measure the cases `names` by all signals and return a row for each case and signal.

    `threshold` is the relative change of time that counts, such as 0.025.
    """
    started = time.monotonic()
    rows = count_rows(comparison, names)
    rows += time_rows(comparison, comparison.measurable(names), threshold)
    allowed = allowed_seconds(time.monotonic() - started)
    rows += instruction_rows(comparison, comparison.measurable(names), allowed)
    return rows + lack_rows(comparison, names)
