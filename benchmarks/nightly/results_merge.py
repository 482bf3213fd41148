"""Brings two folders of asv's results together: whatever file or figure either of them has is kept."""

import hashlib
import json
import math
import re
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ..system.files import write

RESULT = re.compile(r"[0-9a-f]{8}-.+\.json")  # a commit's figures; what else there is describes machines and benchmarks


def merge(source: Path, target: Path, aside: Path, prefer_source: bool) -> list[str]:
    """Put what `source` has into `target`, each file in one step. Where both have a figure, `prefer_source` says whose stays.

    A file that is no JSON is moved to the folder `aside`; what is given back says so.
    """
    notes = []
    for file in sorted([*source.rglob("*.json"), *target.rglob("*.json")]):
        if not whole(file.read_text(errors="replace")):
            notes.append(f"{file} is no JSON: it was moved to {put_aside(file, aside)}")
    for file in sorted(source.rglob("*.json")):
        other = target / file.relative_to(source)
        if not other.exists():
            write(other, file.read_text())
        elif file.read_bytes() != other.read_bytes():
            texts = (file.read_text(), other.read_text())
            united = combined(file.name, *(texts if prefer_source else reversed(texts)))
            if united != texts[1]:
                write(other, united)
    return notes


def whole(text: str) -> bool:
    """Whether it is JSON."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def put_aside(file: Path, folder: Path) -> Path:
    """Move a file there, under a name that no other content has."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    place = folder / file.parent.name / f"{file.name}.{digest}"
    place.parent.mkdir(parents=True, exist_ok=True)
    return file.replace(place)


def combined(name: str, first: str, second: str) -> str:
    """Both texts of a file in one: every figure that either has, the first one's where both have it."""
    if not RESULT.fullmatch(name) or not (whole(first) and whole(second)):
        return first if whole(first) or not whole(second) else second
    ours, theirs = json.loads(first), json.loads(second)
    if ours.get("result_columns") != theirs.get("result_columns") or ours.get("params") != theirs.get("params"):
        return first
    results = dict(ours["results"])
    for benchmark, values in theirs["results"].items():
        results[benchmark] = filled(results[benchmark], values) if benchmark in results else values
    return first if results == ours["results"] else json.dumps(ours | {"results": results}) + "\n"


def filled(first: list[Any], second: list[Any]) -> list[Any]:
    """A benchmark's columns, with the second one's figures where the first has none; columns 1 and 2: parameters, version."""
    if first[1:3] != second[1:3] or not second[0]:
        return first
    if not first[0]:
        return second
    lacks = [place for place, value in enumerate(first[0]) if value is None]
    columns = []
    for number, (mine, other) in enumerate(zip_longest(first, second)):
        if number in (1, 2) or not isinstance(mine or other, list):
            columns.append(mine)
            continue
        column = list(mine or [None] * len(first[0]))
        for place in lacks:
            column[place] = other[place] if other else None
        columns.append(column)
    return columns


def has_number(file: Path) -> bool:
    """Whether one of asv's files holds any figure."""
    values = [value for columns in json.loads(file.read_text())["results"].values() for value in columns[0] or ()]
    return any(isinstance(value, int | float) and math.isfinite(value) for value in values)
