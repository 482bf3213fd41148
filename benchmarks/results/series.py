"""All that asv stored, as series: what one machine measured with one torch, commit by commit."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from . import stored as results
from .stored import BrokenResult, Entry, Figure

T = TypeVar("T")


@dataclass(frozen=True)
class Measured:
    """A figure with what decides whether another one takes its place."""

    entry: Entry
    figure: Figure
    version: str
    started: float


@dataclass(frozen=True)
class Series:
    """Figures by commit, oldest first. Another machine or another torch makes another series."""

    machine: str
    torch: str
    commits: Mapping[str, Mapping[Entry, Figure]]

    def tried(self) -> dict[str, str]:
        """Each case that was measured or has failed, with the newest commit of which that is so."""
        newest = {}
        for commit, figures in self.commits.items():
            for entry, figure in figures.items():
                case = results.case_of(entry)
                if case is not None and (figure.value is None or figure.measured):
                    newest[case] = commit
        return newest


def load(folder: Path, order: Mapping[str, int]) -> tuple[list[Series], set[str]]:
    """The series in a folder of asv's results, and the commits that `order` lacks.

    `order` gives the place of each commit in the history. Only figures of a benchmark's present version are taken; one that
    was measured twice is what it was last. Raises BrokenResult, which names the file, for whatever cannot be read.
    """
    files = [file for file in sorted(folder.glob("*/*.json")) if file.name != "machine.json"]
    if not files:
        return [], set()
    versions = parsed(folder / "benchmarks.json", lambda file: results.entries(file.parent), "python -m benchmarks run")
    found: dict[tuple[str, str], dict[str, dict[Entry, Measured]]] = {}
    for file in files:
        machine = parsed(file.parent / "machine.json", _machine, "python -m benchmarks run, on that machine")
        commit, torch, figures = parsed(file, _result, f"python -m benchmarks run {file.name[:8]}")
        known = found.setdefault((machine, torch), {}).setdefault(commit, {})
        for each in figures:
            before = known.get(each.entry)
            if versions.get(each.entry) == each.version and (before is None or before.started <= each.started):
                known[each.entry] = each
    lost = {commit for commits in found.values() for commit in commits if commit not in order}
    series = []
    for (machine, torch), commits in found.items():
        kept = sorted(commits.keys() - lost, key=order.__getitem__)
        if kept:
            latest = {commit: {entry: each.figure for entry, each in commits[commit].items()} for commit in kept}
            series.append(Series(machine, torch, latest))
    return series, lost


def parsed(file: Path, read: Callable[[Path], T], anew: str) -> T:
    """What `read` makes of a file; BrokenResult with the command that makes it anew where it cannot."""
    try:
        return read(file)
    except FileNotFoundError:
        problem = "is missing"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    except json.JSONDecodeError as error:
        problem = f"is no JSON ({error})"
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        problem = f"is not what was written there ({type(error).__name__}: {error})"
    raise BrokenResult(f"{file} {problem}; put back a whole copy, or delete it and make it anew: {anew}")


def _machine(file: Path) -> str:
    name = json.loads(file.read_text())["machine"]
    if not isinstance(name, str):
        raise TypeError(f"machine is {name!r}, not a name")
    return name


def _result(file: Path) -> tuple[str, str, list[Measured]]:
    """Commit, torch and figures of one of asv's files."""
    stored = json.loads(file.read_text())
    commit = stored["commit_hash"]
    if not commit.startswith(file.name[:8]):
        raise ValueError(f"it is of commit {commit}")
    found = []
    for name, values in stored["results"].items():
        columns = dict(zip(stored["result_columns"], values, strict=False))
        for entry, figure in results.figures(name, columns):
            if not all(value is None or isinstance(value, int | float) for value in (figure.value, figure.low, figure.high)):
                raise TypeError(f"{entry} is {figure}, not a number")
            found.append(Measured(entry, figure, columns["version"], columns.get("started_at") or 0))
    return commit, stored["params"].get("torch") or "", found


def spread(figure: Figure | None) -> tuple[float, float, float] | None:
    """Median and quartiles of a figure; None where there is no finite number."""
    if figure is None or figure.value is None or not math.isfinite(figure.value):
        return None
    low, high = (edge if edge is not None and math.isfinite(edge) else figure.value for edge in (figure.low, figure.high))
    return figure.value, low, high
