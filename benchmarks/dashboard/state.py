"""The state that the overview shows beside the figures: the gate's verdict and the statistical tests of the law."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ..results.stored import BrokenResult, parsed

VERDICTS = {"PASS": "good", "IMPROVED": "good", "REGRESSED": "bad", "FAILED": "bad", "UNSTABLE": "open", "INCOMPARABLE": "open"}


@dataclass(frozen=True)
class State:
    """The content of a state file, or the reason why it cannot be read; neither if there is no file."""

    command: str  # the command that writes the file
    content: dict[str, Any] | None = None
    error: str = ""


def read_verdict(file: Path) -> State:
    """Return the gate's last verdict from `file`."""
    return _read(file, _verdict, "python -m benchmarks compare BASE")


def read_law(file: Path) -> State:
    """Return the result of the last statistical tests of the law from `file`."""
    return _read(file, _law, "python -m benchmarks nightly")


def _read(file: Path, check: Callable[[Any], dict[str, Any]], command: str) -> State:
    if not file.exists():
        return State(command)
    try:
        return State(command, parsed(file, lambda file: check(json.loads(file.read_text(encoding="utf-8"))), command))
    except BrokenResult as error:
        return State(command, error=str(error))


def _verdict(stored: dict[str, Any]) -> dict[str, Any]:
    if stored["version"] != 1 or stored["verdict"] not in VERDICTS:
        raise ValueError(f"version {stored['version']}, verdict {stored['verdict']!r}")
    rows = [
        {"case": str(row["case"]), "signal": str(row["signal"]), "verdict": str(row["verdict"])}
        | {key: percent(row[key]) for key in ("change", "low", "high")}
        for row in stored["rows"]
    ]
    verdict = {"verdict": stored["verdict"], "line": str(stored["line"]), "date": minute(stored["date"]), "rows": rows}
    return verdict | {"colour": VERDICTS[stored["verdict"]]}


def _law(stored: dict[str, Any]) -> dict[str, Any]:
    if stored["version"] != 1:
        raise ValueError(f"version {stored['version']}")
    numbers = {key: int(stored[key]) for key in ("seed", "draws", "checks")}
    texts = {"date": minute(stored["date"]), "commit": str(stored["commit"])}
    return numbers | texts | {"rejected": [*map(str, stored["rejected"])]}


def minute(text: str) -> str:
    """Return a time in ISO format without its seconds and time zone."""
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M")


def percent(share: float | None) -> str:
    """Return a relative change as text in %; an empty text for None."""
    return "" if share is None else f"{share:+.1%}"
