"""The workload: everything that the gate knows of the project whose versions it compares."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Run = Callable[[], Any]  # a prepared case: a call does the work once
Amounts = Mapping[str, tuple[str, int]]  # case -> kind of slowdown and how much of it


@dataclass(frozen=True)
class Traits:
    """Properties of a case that decide how the gate measures it."""

    exclusive: bool = False  # it uses the whole machine: one process at a time, pinned to no core
    instructions: bool = False  # instructions of a call are worth counting, although valgrind is fifty times as slow
    profiled: bool = True  # Python's profiler sees the package's own functions in a call
    seconds: float = 0.5  # to prepare it for both versions, roughly; used only to estimate the duration


@dataclass(frozen=True)
class Slowdown:
    """A slowdown to inject in a case: `effect` 0.05 makes it 5 % slower; `kind` is one of the workload's own."""

    kind: str
    effect: float


class Workload(Protocol):
    """The functions and values that a project gives to the gate; a module that defines them is a workload.

    A worker process imports the module by its name, `__name__`, so it must import without the gate's own extras (rich, scipy).
    An argument `version` is the package as `load` returned it.
    """

    __name__: str
    repository: Path  # a git repository: versions are taken from its history, or from its working tree
    package: str  # folder in the repository that is measured: versions with equal files in it count as the same
    sources: Sequence[str]  # files and folders: the package, and all that building it needs
    records: Path  # folder for the gate's own records (records.py)
    package_counts: Mapping[str, Mapping[str, Callable[[Any], float]]]  # group -> name -> exact count of a version

    def cases(self) -> Mapping[str, Traits]:
        """Return all cases by name. No version is loaded yet."""

    def build(self, folder: Path) -> str:
        """Build the version whose sources lie in `folder`, in place; return a note for the user, or an empty text."""

    def load(self, folder: Path, name: str) -> Any:
        """Import the version in `folder` under `name`, beside any other version. Any exception makes the comparison fail."""

    def environment(self) -> Mapping[str, Any]:
        """Return settings that can change the speed of this process, such as versions of libraries, for JSON."""

    def prepare(self, case: str, version: Any) -> Run:
        """Prepare a case, check its result and warm it up.

        Raises NotImplementedError where the machine or the version lacks what the case needs.
        """

    def check(self, case: str, runs: Mapping[str, Run]) -> None:
        """Raise if the results of `runs` (side -> prepared case) differ where they must not."""

    def rounds(self, case: str, runs: Mapping[str, Run], seconds: float, seed: int) -> Mapping[str, Sequence[float]]:
        """Return seconds per call of each side, a figure per round; every round calls all sides, in random order."""

    def counts(self, case: str, runs: Mapping[str, Run]) -> Mapping[str, Mapping[str, float]]:
        """Return exact counts of a case: name -> side -> count, of which less is better."""


class Injectable(Workload, Protocol):
    """A workload in which slowdowns of known size can be injected, for calibration and the canary."""

    first_amounts: Mapping[str, int]  # kind -> the amount with which tuning begins
    slowdowns: Mapping[str, Slowdown]  # of time, in calibration
    more_instructions: Mapping[str, Slowdown]  # of instructions, in calibration

    def inject(self, folder: Path, amounts: Amounts) -> None:
        """Make the version in `folder` slower in the named cases, by kinds and amounts of the workload's own."""
