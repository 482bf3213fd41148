"""What is recorded of the gate itself, per machine: its trials and the noise of its signals (benchmarks/records/gate)."""

import json
from pathlib import Path
from typing import Any

from .. import ROOT
from ..system import machine
from ..system.files import write

FOLDER = ROOT / "benchmarks" / "records" / "gate"


def path() -> Path:
    """This machine's record."""
    return FOLDER / f"{machine.name()}.json"


def load(file: Path) -> dict[str, Any]:
    """The record, an empty one where there is none; ValueError that names a broken file."""
    if not file.exists():
        return {"version": 1, "trials": [], "instructions": {}}
    try:
        record: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); take it back from git, or delete it") from None
    if record.get("version") != 1:
        raise ValueError(f"{file} has version {record.get('version')!r}, and 1 is what can be read")
    return record


def instruction_noise(name: str) -> list[float]:
    """Relative differences of instructions between two copies of one version, as recorded on this machine."""
    return [float(value) for value in load(path())["instructions"].get(name, [])]


def store(record: dict[str, Any], file: Path) -> None:
    """Write the record, a trial a line."""
    parts = {key: json.dumps(value) for key, value in record.items() if key != "trials"}
    trials = ",\n".join(json.dumps(trial) for trial in record["trials"])
    write(file, "{" + "".join(f'"{key}": {value},\n' for key, value in parts.items()) + f'"trials": [\n{trials}\n]}}\n')
