"""Plants a slowdown of a known size in a copy of the package, to see whether the gate finds it.

    python    more bytecode before each call
    work      the layer once more, on some of the samples: more of the same kind
    traffic   a copy of some memory: few instructions, many bytes

What is planted depends on the input's number of elements and dtype alone, so that each case can have its own.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from shutil import copytree

from .gate import Gate
from .revisions import PACKAGE, Version, digest

START = {"python": 200, "work": 20, "traffic": 50_000}  # amounts with which tuning begins
TUNING_PROCESSES, TUNING_STEPS = 8, 4

SOURCE = """
import functools

import torch

PLANTED = {planted!r}
MEMORY = torch.zeros(1 << 24, dtype=torch.uint8)


def slow(layer):
    forward = layer.forward

    @functools.wraps(forward)
    def slower(self, input):
        for kind, amount in PLANTED.get((input.numel(), str(input.dtype)), ()):
            if kind == "python":
                for _ in range(amount):
                    pass
            elif kind == "work":
                with torch.no_grad():
                    forward(self, input.detach()[:amount])
            else:
                MEMORY[:amount].clone()
        return forward(self, input)

    layer.forward = slower
"""

Amounts = Mapping[str, tuple[str, int]]  # case → kind and amount: passes of a loop, samples, bytes


def plant(version: Version, folder: Path, amounts: Amounts) -> Version:
    """A copy of `version` in `folder` that is slower in the named cases, by the amounts that `tuned` gives."""
    from .suite.cases import CASES, DTYPES

    copytree(version.folder, folder)
    table: dict[tuple[int, str], list[tuple[str, int]]] = {}
    for name, what in amounts.items():
        table.setdefault((CASES[name].numel, str(DTYPES[CASES[name].dtype])), []).append(what)
    place = folder / PACKAGE
    (place / "planted.py").write_text(SOURCE.format(planted=table))
    with open(place / "__init__.py", "a") as file:
        file.write("\nfrom .planted import slow as _slow\n\n_slow(TailDropout)\n")
    return replace(version, label=f"{version.label} slowed", folder=folder, digest=digest(folder))


def tuned(
    version: Version, folder: Path, effects: Mapping[str, tuple[str, float]], say: Callable[[str], None]
) -> dict[str, tuple[str, int]]:
    """The amounts that make each case slower by its effect (0.05: by 5 %), found by measuring."""
    amounts = {name: (kind, START[kind]) for name, (kind, _) in effects.items()}
    for step in range(TUNING_STEPS):
        slowed = plant(version, folder / f"tuning-{step}", amounts)
        found = Gate(version, slowed, folder).draw(list(effects), TUNING_PROCESSES) or {}
        for name, (kind, effect) in effects.items():
            seen = statistics.median(found[name])
            say(f"{name}: {kind} {amounts[name][1]} is {seen:+.2%}, wanted {effect:+.2%}")
            # A slope through the origin, damped: a step must not be led astray by the noise of a small effect.
            scale = min(4.0, max(0.25, effect / max(seen, effect / 8)))
            amounts[name] = (kind, max(1, round(amounts[name][1] * scale)))
    return amounts
