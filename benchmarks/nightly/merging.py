"""Merge two folders of asv's results so that every file and every figure of either folder is kept."""

import hashlib
import json
import math
import re
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ..system.files import write_atomically

RESULT = re.compile(r"[0-9a-f]{8}-.+\.json")  # the figures of a commit; other files describe machines and benchmarks
PARAMETERS, VERSION = 1, 2  # the columns of a result of asv that hold no figures


def merge(source: Path, target: Path, aside: Path, prefer_source: bool) -> list[str]:
    """Copy the files of `source` into `target`, each atomically; return a sentence for each broken file.

    Where both folders have a figure, keep that of `source` if `prefer_source`, else that of `target`. A file that is not JSON
    is moved to the folder `aside`.
    """
    notes = []
    for file in sorted([*source.rglob("*.json"), *target.rglob("*.json")]):
        if not is_json(file.read_text(errors="replace")):
            notes.append(f"{file} is not JSON: it was moved to {move_aside(file, aside)}")
    for file in sorted(source.rglob("*.json")):
        other = target / file.relative_to(source)
        if not other.exists():
            write_atomically(other, file.read_text())
        elif file.read_bytes() != other.read_bytes():
            texts = (file.read_text(), other.read_text())
            combined = combine(file.name, *(texts if prefer_source else reversed(texts)))
            if combined != texts[1]:
                write_atomically(other, combined)
    return notes


def is_json(text: str) -> bool:
    """Return True if `text` is JSON."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def move_aside(file: Path, folder: Path) -> Path:
    """Move a file into `folder`, under a name that depends on its content; return its new path."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    path = folder / file.parent.name / f"{file.name}.{digest}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return file.replace(path)


def combine(name: str, first: str, second: str) -> str:
    """Combine two texts of the file `name`: keep every figure of either text, that of `first` where both have it.

    If the file holds no figures, or the texts are of different columns or parameters, return `first` if it is JSON, else
    `second`.
    """
    if not RESULT.fullmatch(name) or not (is_json(first) and is_json(second)):
        return first if is_json(first) or not is_json(second) else second
    ours, theirs = json.loads(first), json.loads(second)
    if ours.get("result_columns") != theirs.get("result_columns") or ours.get("params") != theirs.get("params"):
        return first
    results = dict(ours["results"])
    for benchmark, columns in theirs["results"].items():
        results[benchmark] = fill(results[benchmark], columns) if benchmark in results else columns
    return first if results == ours["results"] else json.dumps(ours | {"results": results}) + "\n"


def fill(first: list[Any], second: list[Any]) -> list[Any]:
    """Return the columns `first` of a benchmark in asv's file, with missing figures taken from the columns `second`."""
    if first[PARAMETERS : VERSION + 1] != second[PARAMETERS : VERSION + 1] or not second[0]:
        return first
    if not first[0]:
        return second
    missing = [row for row, value in enumerate(first[0]) if value is None]
    columns = []
    for number, (ours, theirs) in enumerate(zip_longest(first, second)):
        if number in (PARAMETERS, VERSION) or not isinstance(ours or theirs, list):
            columns.append(ours)
            continue
        column = list(ours or [None] * len(first[0]))
        for row in missing:
            column[row] = theirs[row] if theirs else None
        columns.append(column)
    return columns


def has_figure(file: Path) -> bool:
    """Return True if a result file of asv's contains a finite number."""
    values = [value for columns in json.loads(file.read_text())["results"].values() for value in columns[0] or ()]
    return any(isinstance(value, int | float) and math.isfinite(value) for value in values)
