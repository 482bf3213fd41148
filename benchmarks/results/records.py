"""The stored records: one file per processor or GPU, all cases of a profile measured together."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import ROOT
from ..system.files import write_atomically
from .stored import parsed

FOLDER = ROOT / "benchmarks" / "records"
COMMAND = "python -m benchmarks record"
NEEDED = ("machine", "versions", "commit", "dirty", "cases")


def read(file: Path) -> dict[str, Any]:
    """Return a stored record. Raises BrokenResult, which names the file."""
    return parsed(file, _read, COMMAND)


def _read(file: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if missing := [key for key in NEEDED if key not in record]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    return record


def read_all(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Return the records of all machines, in the order of their names."""
    return [read(file) for file in sorted(folder.glob("*.json"))]


def store(record: Mapping[str, Any], folder: Path = FOLDER) -> Path:
    """Write a record in place of this machine's former one and return its file."""
    return write_atomically(
        folder / f"{record['machine']['name']}.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    )
