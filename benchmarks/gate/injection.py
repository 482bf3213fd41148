"""Plants a slowdown of a known size in a copy of the package, to see whether the gate finds it.

    python    more bytecode before each call
    work      selecting some more elements, as the layer does
    traffic   a copy of some memory: few instructions, many bytes

What is planted depends on the input's number of elements and dtype alone, so that each case can have its own. It allocates
nothing: a small block of memory more makes large tensors lie elsewhere, which alone costs a call some ten percent.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

from .measuring import Gate
from .revisions import PACKAGE, Version, digest

START = {"python": 200, "work": 20_000, "traffic": 200_000}  # amounts with which tuning begins
TUNING_PROCESSES, TUNING_STEPS = 8, 4

SOURCE = """
import functools

import torch

PLANTED = {planted!r}


def planted(kind, amount):
    if kind == "python":
        def run():
            for _ in range(amount):
                pass
    elif kind == "work":
        keep, zero = torch.arange(amount) % 2 == 0, torch.zeros(())
        source, target = torch.ones(amount), torch.ones(amount)
        run = functools.partial(torch.where, keep, source, zero, out=target)
    else:
        run = functools.partial(torch.ones(amount, dtype=torch.uint8).copy_, torch.ones(amount, dtype=torch.uint8))
    return run


RUNS = {{key: [planted(*each) for each in plan] for key, plan in PLANTED.items()}}


def slow(layer):
    forward = layer.forward

    @functools.wraps(forward)
    def slower(self, input):
        for run in RUNS.get((input.numel(), input.dtype), ()):
            run()
        return forward(self, input)

    layer.forward = slower
"""

Plan = Mapping[str, tuple[str, int]]  # case → kind and amount: passes of a loop, elements, bytes


def plant(version: Version, folder: Path, amounts: Plan) -> Version:
    """A copy of `version` in `folder` that is slower in the named cases, by the amounts that `tuned` gives."""
    from ..suite.cases import CASES, DTYPES

    copytree(version.folder, folder)
    table: dict[tuple[int, Any], list[tuple[str, int]]] = {}
    for name, what in amounts.items():
        table.setdefault((CASES[name].numel, DTYPES[CASES[name].dtype]), []).append(what)
    place = folder / PACKAGE
    (place / "planted.py").write_text(SOURCE.format(planted=table))
    with open(place / "__init__.py", "a") as file:
        file.write("\nfrom .planted import slow as _slow\n\n_slow(TailDropout)\n")
    return replace(version, label=f"{version.label} slowed", folder=folder, digest=digest(folder))


def tuned(version: Version, folder: Path, effects: Mapping[str, tuple[str, float]], say: Callable[[str], None]) -> Plan:
    """The amounts that make each case slower by its effect (0.05: by 5 %), found by measuring a few amounts."""
    amounts = {name: (kind, START[kind]) for name, (kind, _) in effects.items()}
    points: dict[str, list[tuple[int, float]]] = {name: [] for name in effects}
    for step in range(TUNING_STEPS):
        slowed = plant(version, folder / f"tuning-{step}", amounts)
        found = Gate(version, slowed, folder).draw(list(effects), TUNING_PROCESSES) or {}
        for name, (kind, effect) in effects.items():
            amount, seen = amounts[name][1], statistics.median(found[name])
            say(f"{name}: {kind} {amount} is {seen:+.2%}, wanted {effect:+.2%}")
            points[name].append((amount, seen))
            amounts[name] = (kind, max(1, round(solved(points[name], effect))))
    return amounts


def solved(points: list[tuple[int, float]], effect: float) -> float:
    """The amount for an effect, on the line through all points; what is planted costs something by being there at all."""
    amounts, seen = zip(*points, strict=True)
    if len(set(amounts)) == 1:
        return float(amounts[0] * effect / max(seen[0], effect / 4))
    slope, intercept = statistics.linear_regression(amounts, seen)
    return float((effect - intercept) / slope) if slope > 0 else float(amounts[-1])
