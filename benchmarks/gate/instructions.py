"""Judge instructions: a change counts if it exceeds the case's margin in two processes, the second of which loads head first.

The margin comes from the difference between two copies of base. Counting under valgrind is slow, so only cases with the trait
`instructions` are counted, on all cores at a time, for at most a quarter of the comparison's time, or 45 s. The second count,
which only a suspected change needs, may take as long again.
"""

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence

from . import counters
from .measuring import Comparison
from .messages import BASE, BASE_COPY, HEAD, Instructions
from .records import instruction_noise
from .report import Row
from .rule import IMPROVED, INCOMPARABLE, PASS, REGRESSED, UNSTABLE

LEAST_MARGIN, MOST_MARGIN = 0.005, 0.1  # with a larger one, no change at all is too little to know for a pass
SHARE = 0.25  # of the time of the whole comparison
LEAST_SECONDS = 45.0  # allowed in any case: an idle core needs 26 s for a process that counts one case
START, PER_CASE = 22.0, 5.0  # seconds of one process on an idle core, under valgrind: importing torch, and counting a case


def countable(comparison: Comparison, names: Sequence[str]) -> list[str]:
    """Return the cases whose instructions are worth counting; none if nothing counts instructions on this machine."""
    traits = comparison.workload.cases()
    worth = [name for name in names if traits[name].instructions]
    return worth if worth and counters.available() else []


def allowed_seconds(others: float) -> float:
    """Return the seconds that a count of instructions may take, if everything else took `others` seconds."""
    return max(LEAST_SECONDS, others * SHARE / (1 - SHARE))


def instruction_rows(comparison: Comparison, names: Sequence[str], seconds: float = float("inf")) -> list[Row]:
    """Compare instructions, each of the two counts for at most `seconds`; return a row per case that is worth counting."""
    names = countable(comparison, names)
    if not names:
        return []
    if comparison.out_of_time():
        return [no_time(name) for name in names]
    first = comparison.count_instructions(names, 0, min(time.monotonic() + seconds, comparison.deadline))
    noise = {name: [*instruction_noise(comparison.workload.records, name), noise_of(first[name])] for name in first}
    beyond = [name for name in first if abs(change_of(first[name])) > margin(noise[name])]
    until = min(time.monotonic() + seconds, comparison.deadline)
    second = comparison.count_instructions(beyond, 1, until) if beyond else {}
    counted = [name for name in names if name in first or name in comparison.measurable(names)]
    spent = comparison.out_of_time()
    return [
        no_time(name) if spent and name not in first else row(name, first.get(name), second.get(name), noise.get(name, ()))
        for name in counted
    ]


def no_time(name: str) -> Row:
    """Return the row of a case whose instructions were not counted before the budget was spent."""
    return Row(name, "instructions", UNSTABLE, note="the budget left no time for them")


def row(name: str, first: Instructions | None, second: Instructions | None, noise: Sequence[float]) -> Row:
    """Return the row of one case; `second` is the count that confirms, where the first was beyond the margin."""
    if first is None:
        return Row(
            name,
            "instructions",
            INCOMPARABLE,
            note=f"left out: a count may take {SHARE:.0%} of the time, and would take longer",
        )
    verdict, limit, note = judge(change_of(first), second, noise)
    note = f"{counters.available()}{note}, margin {limit:.2%}"
    base, head = first.counts[BASE], first.counts[HEAD]
    return Row(name, "instructions", verdict, base, head, change_of(first), note=note)


def judge(change: float, second: Instructions | None, noise: Sequence[float]) -> tuple[str, float, str]:
    """Return verdict, margin and a note; a change beyond the margin needs a second count that agrees.

    `change` is that of the first count; `noise` holds differences between base and its copy, as fractions.
    """
    limit = margin(noise)
    if abs(change) <= limit:
        return (PASS if limit <= MOST_MARGIN else UNSTABLE), limit, ""
    if second is None:
        return UNSTABLE, limit, ": no second count"
    limit = margin([*noise, noise_of(second)])
    again = change_of(second)
    if change * again > 0 and min(abs(change), abs(again)) > limit:
        return (REGRESSED if change > 0 else IMPROVED), limit, ""
    return UNSTABLE, limit, f": {change:+.2%} and {again:+.2%} in two processes"


def change_of(message: Instructions) -> float:
    """Return the change of the instructions: head over base, minus 1."""
    return message.counts[HEAD] / message.counts[BASE] - 1


def noise_of(message: Instructions) -> float:
    """Return the difference between base and its copy, relative to base."""
    return message.counts[BASE_COPY] / message.counts[BASE] - 1


def margin(noise: Iterable[float]) -> float:
    """Return the largest change that noise can explain, as a fraction.

    It is the largest of ½ %, Tukey's outer fence of the absolute differences (Q3 + 3 IQR), and three times the range of the
    differences and 0.
    """
    signed = [0.0, *noise]
    low, _, high = statistics.quantiles([abs(value) for value in signed], n=4, method="inclusive")
    return max(LEAST_MARGIN, high + 3 * (high - low), 3 * (max(signed) - min(signed)))


def described(messages: Mapping[str, Instructions]) -> dict[str, dict[str, float]]:
    """Return change and noise of each case, as a trial of calibration records them."""
    return {
        name: {"change": round(change_of(message), 6), "base_copy": round(noise_of(message), 6)}
        for name, message in messages.items()
    }
