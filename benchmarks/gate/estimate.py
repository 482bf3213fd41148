"""Estimate how long a comparison takes, before it starts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..system.units import format_minutes
from .instructions import PER_CASE, countable
from .instructions import START as INSTRUCTION_START
from .measuring import SECONDS, Comparison
from .processes import cores_for
from .rule import LOOKS

START = 4.0  # seconds until a process has imported torch and both versions


@dataclass(frozen=True)
class Duration:
    """The seconds that a comparison takes."""

    usual: float  # if the first look decides every case
    most: float  # if every case needs all looks and a second batch
    instructions: float = 0.0  # part of `usual`

    def sentence(self, budget: float = float("inf")) -> str:
        """Return a sentence on the duration; `budget` is what is left of the seconds that the user allows."""
        if budget < self.usual:
            return f"It would take about {format_minutes(self.usual)}, of which the budget leaves {format_minutes(budget)}."
        usual, most = min(self.usual, budget), min(self.most, budget)
        longest = f", {format_minutes(most)} at most where versions differ or the machine is noisy" if most > usual else ""
        counting = (
            f" ({format_minutes(self.instructions)} of it to count instructions)" if 0 < self.instructions < usual else ""
        )
        return f"It takes about {format_minutes(usual)}{counting}{longest}."


def estimate_duration(comparison: Comparison, names: Sequence[str]) -> Duration:
    """Return the estimated duration of a comparison of the cases `names`, instructions included."""
    traits = comparison.workload.cases()
    parallel = len(cores_for(comparison.workload, names))
    prepare = START + sum(traits[name].seconds for name in names)
    process = prepare + SECONDS * len(names)
    usual = prepare + math.ceil(LOOKS[0] / parallel) * process
    most = prepare + math.ceil(2 * LOOKS[-1] / parallel) * process
    counted = math.ceil(len(countable(comparison, names)) / parallel)
    instructions = INSTRUCTION_START + PER_CASE * counted if counted else 0.0
    return Duration(usual + instructions, most + 2 * instructions, instructions)
