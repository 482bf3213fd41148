"""Read asv's result files: asv's exit code does not tell whether anything was measured."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from .. import ROOT
from ..system.errors import CommandError
from .speed_table import COPY, RIVAL, Row

T = TypeVar("T")
ASV_RESULTS = ROOT / ".asv" / "results"
RATIO_BENCHMARKS = {RIVAL: "speed.Ratio.track_over_nn_dropout", COPY: "speed.Ratio.track_over_copy"}


class BrokenResult(CommandError):
    """A stored file that cannot be read."""

    summary = "Could not read the results"


@dataclass(frozen=True)
class Entry:
    """One figure that asv measures in a process of its own: a benchmark with its parameters as asv writes them."""

    benchmark: str
    params: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.benchmark}({', '.join(self.params)})" if self.params else self.benchmark

    @property
    def case(self) -> str | None:
        """The case of an entry of the suite's module `speed`; None for other entries."""
        return self.params[0].strip("'") if self.benchmark.startswith("speed.") else None


@dataclass(frozen=True)
class Figure:
    """A stored figure with its quartiles. `value` is NaN if it is not available, None if measuring failed or never ran."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def measured(self) -> bool:
        """True if `value` is a number and not NaN."""
        return self.value is not None and not math.isnan(self.value)

    def spread(self) -> tuple[float, float, float] | None:
        """Return median and quartiles, or None if the median is not finite. A missing quartile is replaced by the median."""
        if self.value is None or not math.isfinite(self.value):
            return None
        low, high = (edge if edge is not None and math.isfinite(edge) else self.value for edge in (self.low, self.high))
        return self.value, low, high


@dataclass(frozen=True)
class Measured:
    """A figure with its benchmark's version and its start time, which decide whether a later figure replaces it."""

    entry: Entry
    figure: Figure
    version: str
    started: float


@dataclass(frozen=True)
class ResultFile:
    """The content of one of asv's result files; `torch` is its version of torch, or empty."""

    commit: str
    torch: str
    figures: list[Measured]


def parsed(file: Path, read: Callable[[Path], T], command: str) -> T:
    """Return `read(file)`; if that fails, raise BrokenResult with the command that makes the file again."""
    try:
        return read(file)
    except FileNotFoundError:
        problem = "is missing"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    except json.JSONDecodeError as error:
        problem = f"is not JSON ({error})"
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        problem = f"has an unknown content ({type(error).__name__}: {error})"
    raise BrokenResult(f"{file} {problem}; restore a whole copy, or delete the file and make it again: {command}")


def entries(folder: Path = ASV_RESULTS) -> dict[Entry, str]:
    """Return every entry of the suite when asv last discovered it, with the benchmark's version. Raises BrokenResult."""
    return parsed(folder / "benchmarks.json", _entries, "python -m benchmarks run")


def _entries(file: Path) -> dict[Entry, str]:
    versions: dict[Entry, str] = {}
    for name, benchmark in json.loads(file.read_text()).items():
        if isinstance(benchmark, dict):  # the file also holds its own version number
            for params in product(*benchmark["params"]):
                versions[Entry(name, params)] = benchmark["version"]
    return versions


def result_file(file: Path) -> ResultFile:
    """Read one of asv's result files. Raises BrokenResult."""
    return parsed(file, _result_file, f"python -m benchmarks run {file.name[:8]}")


def _result_file(file: Path) -> ResultFile:
    stored = json.loads(file.read_text())
    commit = stored["commit_hash"]
    if not commit.startswith(file.name[:8]):
        raise ValueError(f"it is of commit {commit}")
    measured = []
    for name, values in stored["results"].items():
        columns = dict(zip(stored["result_columns"], values, strict=False))
        for entry, figure in figures(name, columns):
            if not all(value is None or isinstance(value, int | float) for value in (figure.value, figure.low, figure.high)):
                raise TypeError(f"{entry} is {figure}, not a number")
            measured.append(Measured(entry, figure, columns["version"], columns.get("started_at") or 0))
    return ResultFile(commit, stored["params"].get("torch") or "", measured)


def figures(name: str, columns: Mapping[str, Any]) -> Iterable[tuple[Entry, Figure]]:
    """Yield the figures of a benchmark from its columns: asv stores a list over the product of the parameters, or nothing."""
    values = columns.get("result") or []
    low, high = (columns.get(key) or [None] * len(values) for key in ("stats_q_25", "stats_q_75"))
    for params, *figure in zip(product(*columns.get("params") or []), values, low, high, strict=False):
        yield Entry(name, params), Figure(*figure)


def keep_latest(known: dict[Entry, Measured], later: Iterable[Measured], versions: Mapping[Entry, str]) -> None:
    """Add figures of the benchmarks' present versions to `known`; a later measurement replaces an earlier one."""
    for measured in later:
        before = known.get(measured.entry)
        if versions.get(measured.entry) == measured.version and (before is None or before.started <= measured.started):
            known[measured.entry] = measured


def read(commit: str, machine: str, versions: Mapping[Entry, str], folder: Path = ASV_RESULTS) -> dict[Entry, Figure]:
    """Return the figures of a commit on a machine, without those that failed. Raises BrokenResult."""
    known: dict[Entry, Measured] = {}
    for file in sorted((folder / machine).glob(f"{commit[:8]}-*.json")):
        keep_latest(known, result_file(file).figures, versions)
    return {entry: measured.figure for entry, measured in known.items() if measured.figure.value is not None}


def rows(figures: Mapping[Entry, Figure], names: Iterable[str], asked: Iterable[Entry] = ()) -> list[Row]:
    """Return the table's rows for the named cases; `note` is "failed" if an entry of `asked` has no figure, else "n/a"."""
    unmet = {entry.case for entry in asked if entry not in figures}
    table = []
    for name in names:
        seconds: dict[str, float] = {}
        ratio: dict[str, tuple[float, float, float]] = {}
        for entry, figure in figures.items():
            if entry.case == name and (spread := figure.spread()):
                if entry.benchmark.endswith(".time_step"):
                    seconds[entry.params[1].strip("'")] = spread[0]
                ratio |= {other: spread for other, benchmark in RATIO_BENCHMARKS.items() if entry.benchmark == benchmark}
        table.append(Row(name, seconds, ratio, note="failed" if name in unmet else "n/a"))
    return table
