"""What asv stored: read from its files, since its exit code does not tell that nothing was measured."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from .. import ROOT
from .tables import RIVALS, Row

ASV_RESULTS = ROOT / ".asv" / "results"


class BrokenResult(Exception):
    """A stored file that cannot be read."""


@dataclass(frozen=True)
class Entry:
    """One figure that asv measures in a process of its own: a benchmark with its parameters as asv writes them."""

    benchmark: str
    params: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.benchmark}({', '.join(self.params)})" if self.params else self.benchmark


@dataclass(frozen=True)
class Figure:
    """A stored figure with its quartiles. `value` is NaN for n/a and None for a failure or what was not measured."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def measured(self) -> bool:
        """Whether there is a number."""
        return self.value is not None and not math.isnan(self.value)


def entries(folder: Path = ASV_RESULTS) -> dict[Entry, str]:
    """All that asv found in the suite when it last looked, with the benchmark's version."""
    found: dict[Entry, str] = {}
    for name, benchmark in json.loads((folder / "benchmarks.json").read_text()).items():
        if isinstance(benchmark, dict):  # the file also holds its own version number
            for params in product(*benchmark["params"]):
                found[Entry(name, params)] = benchmark["version"]
    return found


def read(commit: str, machine: str, versions: Mapping[Entry, str], folder: Path = ASV_RESULTS) -> dict[Entry, Figure]:
    """The figures that a commit has on a machine, of benchmarks whose version is still the same; newest file last."""
    found: dict[Entry, Figure] = {}
    files = (folder / machine).glob(f"{commit[:8]}-*.json")
    for file in sorted(files, key=lambda file: file.stat().st_mtime):
        try:
            stored = json.loads(file.read_text())
        except ValueError as error:
            raise BrokenResult(
                f"{file.relative_to(ROOT)} is no JSON ({error}); delete it and measure that commit anew"
            ) from None
        for name, values in stored["results"].items():
            columns = dict(zip(stored["result_columns"], values, strict=False))
            for entry, figure in figures(name, columns):
                if versions.get(entry) == columns.get("version") and figure.value is not None:
                    found[entry] = figure
    return found


def figures(name: str, columns: Mapping[str, Any]) -> Iterable[tuple[Entry, Figure]]:
    """The figures of one benchmark: asv stores a list over the product of the parameters, or nothing."""
    values = columns.get("result") or []
    low, high = (columns.get(key) or [None] * len(values) for key in ("stats_q_25", "stats_q_75"))
    for params, *figure in zip(product(*columns.get("params") or []), values, low, high, strict=False):
        yield Entry(name, params), Figure(*figure)


def rows(found: Mapping[Entry, Figure], names: Iterable[str], asked: Iterable[Entry] = ()) -> list[Row]:
    """The table's rows for the named cases; `asked` are the entries of which a lack is a failure, not n/a."""
    from ..suite.cases import CASES

    unmet = {case_of(entry) for entry in asked if entry not in found}
    table = []
    for name in names:
        seconds, ratio = {}, {}
        for entry, figure in found.items():
            if case_of(entry) != name or not figure.measured or figure.value is None:
                continue
            if entry.benchmark.endswith(".time_step"):
                seconds[entry.params[1].strip("'")] = figure.value
            for rival, benchmark in zip(RIVALS, ("track_over_nn_dropout", "track_over_copy"), strict=True):
                if entry.benchmark.endswith(benchmark):
                    ratio[rival] = (figure.value, figure.low or figure.value, figure.high or figure.value)
        table.append(Row(name, seconds, ratio, CASES[name].goal, "failed" if name in unmet else "n/a"))
    return table


def case_of(entry: Entry) -> str | None:
    """The case that an entry of the module `speed` measures."""
    return entry.params[0].strip("'") if entry.benchmark.startswith("speed.") else None
