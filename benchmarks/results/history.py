"""The commits at which a case became slower or faster, beside a pinned version of the package."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .change_points import Change, changes
from .series import Series

BENCHMARK = "history.Pinned.track_over_pinned"
Line = Sequence[tuple[str, float]]  # commit and ratio, oldest first


@dataclass(frozen=True)
class Step:
    """A change of one case at one commit, on one machine."""

    machine: str
    case: str
    commit: str
    change: Change

    @property
    def slower(self) -> bool:
        """True if the case is slower from this commit on."""
        return self.change.size > 0


def by_case(stored: Sequence[Series]) -> dict[tuple[str, str], Line]:
    """Return the ratios of time to the pinned version, commit by commit, for each (machine and torch, case)."""
    lines: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for series in stored:
        for commit, figures in series.commits.items():
            for entry, figure in figures.items():
                if entry.benchmark == BENCHMARK and figure.measured and figure.value:
                    key = (f"{series.machine}, torch {series.torch}", entry.params[0].strip("'"))
                    lines.setdefault(key, []).append((commit, figure.value))
    return dict(lines)


def steps(lines: Mapping[tuple[str, str], Line]) -> list[Step]:
    """Return the changes of all lines of `by_case`, the largest slowdown first."""
    changed = [
        Step(machine, case, line[change.at][0], change)
        for (machine, case), line in lines.items()
        for change in changes([ratio for _, ratio in line])
    ]
    return sorted(changed, key=lambda step: -step.change.size)
