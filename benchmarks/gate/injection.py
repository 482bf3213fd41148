"""Inject a slowdown of a known size into a copy of a version, to see whether the gate finds it."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import copytree

from .measuring import Comparison
from .processes import Broken
from .versions import Version, digest
from .workload import Amounts, Injectable, Slowdown

TUNING_PROCESSES, TUNING_STEPS = 8, 12  # processes of a step, and most steps
OFF = 0.25  # largest error of the effect of an amount, relative to the wanted effect; half as much in tuning


def inject(workload: Injectable, version: Version, folder: Path, amounts: Amounts) -> Version:
    """Copy `version` to `folder`, make the copy slower in the named cases by `amounts`, and return it as a version."""
    copytree(version.folder, folder)
    workload.inject(folder, amounts)
    return replace(version, label=f"{version.label} slowed", folder=folder, digest=digest(folder, workload.package))


def tune(
    workload: Injectable, version: Version, folder: Path, slowdowns: Mapping[str, Slowdown], say: Callable[[str], None]
) -> dict[str, tuple[str, int]]:
    """Return, by case, the kind of slowdown and an amount of which two measurements in a row have the wanted effect on average.

    The tuning versions go to `folder`; `say` gets a line per measurement. Raises Broken if no such amount is found, as on a
    machine on which the measurements scatter too much.
    """
    amounts = {name: (wanted.kind, workload.first_amounts[wanted.kind]) for name, wanted in slowdowns.items()}
    points: dict[str, list[tuple[int, float]]] = {name: [] for name in slowdowns}
    found: dict[str, list[float]] = {name: [] for name in slowdowns}  # effects of the present amount, each within OFF
    for step in range(TUNING_STEPS):
        slowed = inject(workload, version, folder / f"tuning-{step}", amounts)
        comparison = Comparison(workload, version, slowed, folder)
        drawn = comparison.draw(list(slowdowns), TUNING_PROCESSES) or {}
        for name, wanted in slowdowns.items():
            if not drawn.get(name):
                raise Broken(f"{name} cannot be measured: {comparison.failures.get(name) or comparison.lacking.get(name)}")
            amount, measured = amounts[name][1], statistics.median(drawn[name])
            say(f"{name}: {wanted.kind} {amount} is {measured:+.2%}, wanted {wanted.effect:+.2%}")
            points[name].append((amount, measured))
            found[name].append(measured)
            error = abs(statistics.fmean(found[name][-2:]) - wanted.effect) / wanted.effect
            if abs(measured - wanted.effect) > OFF * wanted.effect or (len(found[name]) > 1 and error > OFF / 2):
                found[name].clear()
                amounts[name] = (wanted.kind, max(1, round(amount_for(wanted.effect, points[name]))))
        if all(len(effects) > 1 for effects in found.values()):
            return amounts
    never = ", ".join(name for name, effects in found.items() if len(effects) < 2)
    raise Broken(f"no amount slows {never} by the wanted effect twice in a row; is the machine too busy to measure it?")


def amount_for(effect: float, points: Sequence[tuple[int, float]]) -> float:
    """Return the amount that has `effect`, from the line fitted to all points (amount, measured effect).

    The line need not go through 0: an injected call costs something even if it does nothing. If all points have the same
    amount, the mean effect is taken to be proportional.
    """
    amounts, measured = zip(*points, strict=True)
    if len(set(amounts)) == 1:
        return float(amounts[0] * effect / max(statistics.fmean(measured), effect / 4))
    slope, intercept = statistics.linear_regression(amounts, measured)
    return float((effect - intercept) / slope) if slope > 0 else float(amounts[-1])
