"""The record of the gate itself, one file per machine: its trials and the noise of its instruction counts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..system import machine
from ..system.files import write_atomically
from .rule import REVISION

VERSION = 1


def record_path(folder: Path) -> Path:
    """Return the file of this machine's record."""
    return folder / f"{machine.name()}.json"


def load_record(file: Path) -> dict[str, Any]:
    """Return the record in `file`, or an empty record if there is no file.

    Raises ValueError if the file is no JSON or has another version.
    """
    if not file.exists():
        return {"version": VERSION, "trials": [], "instructions": {}}
    try:
        record: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); take it back from git, or delete it") from None
    if record.get("version") != VERSION:
        raise ValueError(f"{file} has version {record.get('version')!r}, but only version {VERSION} can be read")
    return record


def instruction_noise(folder: Path, case: str) -> list[float]:
    """Return the relative differences in instructions of `case` between two copies of one version, recorded on this machine."""
    return [float(value) for value in load_record(record_path(folder))["instructions"].get(case, [])]


def is_current(trial: Mapping[str, Any]) -> bool:
    """Return True if a trial tells of the gate as it is today: `rule` judged it, not a former revision.

    The rule has no part in trials of instructions. Trials of time without a revision are of the first.
    """
    return "instructions" in trial["kind"] or trial.get("rule", 1) == REVISION


def store_record(record: dict[str, Any], file: Path) -> None:
    """Write a record as JSON with one trial per line, so that `git diff` is readable."""
    parts = {key: json.dumps(value) for key, value in record.items() if key != "trials"}
    trials = ",\n".join(json.dumps(trial) for trial in record["trials"])
    text = "{" + "".join(f'"{key}": {value},\n' for key, value in parts.items()) + f'"trials": [\n{trials}\n]}}\n'
    write_atomically(file, text)
