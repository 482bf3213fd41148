"""All results of asv as series: the figures of one machine with one torch, commit by commit."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .stored import Entry, Figure, Measured, entries, keep_latest, parsed, result_file


@dataclass(frozen=True)
class Series:
    """Figures by commit, oldest first. Another machine or another torch makes another series."""

    machine: str
    torch: str
    commits: Mapping[str, Mapping[Entry, Figure]]

    def tried(self) -> dict[str, str]:
        """Return, by case, the newest commit at which the case was measured or failed."""
        newest = {}
        for commit, figures in self.commits.items():
            for entry, figure in figures.items():
                if entry.case is not None and (figure.value is None or figure.measured):
                    newest[entry.case] = commit
        return newest


def read_all(folder: Path, order: Mapping[str, int]) -> tuple[list[Series], set[str]]:
    """Return the series in a folder of asv's results, and the measured commits that `order` lacks.

    `order` gives the place of each commit in the history. Figures of a benchmark's former versions are left out; of two
    measurements of one figure the later one counts. Raises BrokenResult, which names the file, if a file cannot be read.
    """
    files = [file for file in sorted(folder.glob("*/*.json")) if file.name != "machine.json"]
    if not files:
        return [], set()
    versions = entries(folder)
    commits_of: dict[tuple[str, str], dict[str, dict[Entry, Measured]]] = {}
    for file in files:
        machine = parsed(file.parent / "machine.json", _machine, "python -m benchmarks run, on that machine")
        result = result_file(file)
        known = commits_of.setdefault((machine, result.torch), {}).setdefault(result.commit, {})
        keep_latest(known, result.figures, versions)
    lost = {commit for commits in commits_of.values() for commit in commits if commit not in order}
    series = []
    for (machine, torch), commits in commits_of.items():
        kept = sorted(commits.keys() - lost, key=order.__getitem__)
        if kept:
            latest = {commit: {entry: measured.figure for entry, measured in commits[commit].items()} for commit in kept}
            series.append(Series(machine, torch, latest))
    return series, lost


def _machine(file: Path) -> str:
    name = json.loads(file.read_text())["machine"]
    if not isinstance(name, str):
        raise TypeError(f"machine is {name!r}, not a name")
    return name
