"""The gate's three signals, each judged by its own rule: exact counts, instructions, time."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .measuring import Gate, counter
from .report import Row
from .rule import FAILED, IMPROVED, INCOMPARABLE, PASS, REGRESSED, UNSTABLE, decide
from .stored import instruction_noise

LEAST_MARGIN = 0.005  # of instructions
LARGEST_UNDER_VALGRIND = 1 << 20  # elements; it runs code some fifty times as slowly


def count_rows(gate: Gate, names: Sequence[str]) -> list[Row]:
    """Exact counts: any increase is a regression. What did not change is not worth a row, unless nothing did."""
    rows = []
    for finding in gate.counts(names):
        for what, sides in finding.get("counts", {}).items():
            base, head = sides["base"], sides["head"]
            verdict = REGRESSED if head > base else IMPROVED if head < base else PASS
            change = None if base == 0 else head / base - 1
            note = f"{base} → {head}" if base == 0 and head else ""
            rows.append(Row(finding["case"], what, verdict, base, head, change, note=note))
    return rows


def instruction_rows(gate: Gate, names: Sequence[str]) -> list[Row]:
    """User instructions: a change beyond the case's margin that a second process, other side first, shows as well."""
    from ..suite.cases import CASES

    how = counter()
    cases = [CASES[name] for name in names]
    fit = [case.name for case in cases if case.model == "layer" and case.device == "cpu" and case.mode == "eager"]
    if how == "callgrind":
        fit = [name for name in fit if CASES[name].numel <= LARGEST_UNDER_VALGRIND]
    if how is None or not fit:
        return []
    if gate.out_of_time():
        return [Row(name, "instructions", UNSTABLE, note="the budget left no time for them") for name in fit]
    first = counted(gate, fit, 0)
    noise = {name: [*instruction_noise(name), twin(first[name])] for name in first}
    beyond = [name for name in first if abs(change(first[name])) > margin(noise[name])]
    second = counted(gate, beyond, 1) if beyond else {}
    rows = []
    for name, counts in first.items():
        limit, verdict, note = margin(noise[name]), PASS, how
        if name in beyond and name in second:
            limit = margin([*noise[name], twin(second[name])])
            both = change(counts), change(second[name])
            same = both[0] * both[1] > 0 and min(map(abs, both)) > limit
            verdict = (REGRESSED if both[0] > 0 else IMPROVED) if same else UNSTABLE
            note = how if same else f"{how}: {both[0]:+.2%} and {both[1]:+.2%} in two processes"
        elif name in beyond:
            verdict = FAILED
        row = Row(
            name, "instructions", verdict, counts["base"], counts["head"], change(counts), note=f"{note}, margin {limit:.2%}"
        )
        rows.append(row)
    return rows


def counted(gate: Gate, names: Sequence[str], number: int) -> dict[str, Mapping[str, float]]:
    """Instructions per call of base, head and twin, by case."""
    return {finding["case"]: finding for finding in gate.instructions(names, number) if "twin" in finding}


def change(counts: Mapping[str, float]) -> float:
    """Head over base, minus 1."""
    return counts["head"] / counts["base"] - 1


def twin(counts: Mapping[str, float]) -> float:
    """The same of two copies of base: noise."""
    return counts["twin"] / counts["base"] - 1


def margin(noise: Iterable[float]) -> float:
    """The largest change that noise can explain: ½ %, the far fence of its sizes, or three times its range around 0."""
    signed = [0.0, *noise]
    low, _, high = statistics.quantiles([abs(value) for value in signed], n=4, method="inclusive")
    return max(LEAST_MARGIN, high + 3 * (high - low), 3 * (max(signed) - min(signed)))


def time_rows(gate: Gate, names: Sequence[str], threshold: float) -> list[Row]:
    """Time, judged as verdict.py says."""
    rows = []
    for name, decision in (decide(names, gate.draw, threshold) if names else {}).items():
        if name in gate.failures or name in gate.lacking:
            continue  # told by lack_rows
        sides: dict[str, Any] = {side: middle(gate, name, side) for side in ("base", "head")}
        note = decision.note
        if decision.confirmed:
            note = f"{note} second batch {decision.confirmed.change:+.1%}".strip()
        rows.append(Row.of(name, "time", decision.verdict, decision.estimate, note=note, **sides))
    return rows


def middle(gate: Gate, name: str, side: str) -> float | None:
    """Seconds of a call: the median over processes of the median over rounds."""
    processes = [each["found"] for each in gate.raw if each["what"] == "time"]
    found = [statistics.median(f[side]) for p in processes for f in p if f["case"] == name and side in f]
    return statistics.median(found) if found else None


def lack_rows(gate: Gate, names: Sequence[str]) -> list[Row]:
    """What could not be measured, with the reason: a failure, unless base or the machine has nothing to compare with."""
    rows = [Row(name, "all", FAILED, note=note) for name, note in gate.failures.items()]
    for name in names:
        sides = gate.lacking.get(name, {})
        if sides and name not in gate.failures:
            verdict = FAILED if set(sides) == {"head"} else INCOMPARABLE
            side = " and ".join(sides)
            rows.append(Row(name, "all", verdict, note=f"missing in {side}: {next(iter(sides.values()))}"))
    return rows
