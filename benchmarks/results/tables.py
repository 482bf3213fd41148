"""The generated tables of README.md and docs/: speed, the gate's error rates, and the examples' results.

A page shows a table between `<!-- table:NAME -->` and `<!-- /table:NAME -->`.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .. import ROOT
from ..system.errors import CommandError
from . import records, speed_table

FINDINGS = ROOT / "examples" / "results"
MARKER = re.compile(r"<!-- (/?)table:([\w-]+) -->")


class CannotFill(CommandError):
    """A page with broken markers, or a marker that no stored result can fill."""

    summary = "Could not write the tables"


def speed() -> str:
    """Return the tables of speed for the docs, one for each stored record. Raises CannotFill if there is none."""
    return "\n\n".join(map(speed_table.full, _stored()))


def speed_short() -> str:
    """Return the README's table of speed, from the newest record of a CPU. Raises CannotFill if there is none."""
    on_cpu = [record for record in _stored() if "gpu" not in record["machine"]]
    if not on_cpu:
        raise CannotFill(f"no record of a CPU is stored; make one: {records.COMMAND}")
    return speed_table.short(max(on_cpu, key=lambda record: str(record["date"])))


def _stored() -> list[dict[str, Any]]:
    stored = records.read_all(records.FOLDER)
    if not stored:
        raise CannotFill(f"no record is stored; make one: {records.COMMAND}")
    return stored


def gate() -> str:
    """Return the tables of the gate's error rates, one for each machine on which the gate was calibrated.

    Raises CannotFill if there is none.
    """
    from .. import workload
    from ..gate import error_rates
    from ..gate.records import load_record

    files = sorted(workload.records.glob("*.json"))
    if not files:
        raise CannotFill("the gate was never calibrated; calibrate it: python -m benchmarks calibrate")
    return "\n\n".join(f"**{file.stem}**\n\n{error_rates.markdown(load_record(file))}" for file in files)


def finding(file: Path) -> Callable[[], str]:
    """Return a function that returns the text of the Markdown file that an example wrote."""
    return lambda: file.read_text(encoding="utf-8").strip()


def makers() -> dict[str, Callable[[], str]]:
    """Return the function that makes each table, by the NAME in the table's markers."""
    findings = {file.stem: finding(file) for file in sorted(FINDINGS.glob("*.md"))}
    return {"speed": speed, "speed-short": speed_short, "gate": gate, **findings}


def pages(root: Path = ROOT) -> list[Path]:
    """Return README.md and all pages of docs/."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def names(page: Path, text: str) -> list[str]:
    """Return the names of a page's tables. Raises CannotFill unless each has one start and one end marker."""
    markers = MARKER.findall(text)
    starts = [name for _, name in markers[::2]]
    pairs = [marker for name in starts for marker in (("", name), ("/", name))]
    if markers != pairs or len(set(starts)) != len(starts):
        raise CannotFill(f"{page}: each table needs <!-- table:NAME --> and, after it, <!-- /table:NAME -->, once a page")
    return starts


def fill(page: Path, text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Return the text of `page` with its tables made again. Raises CannotFill if a marker is broken or its name unknown."""
    for name in names(page, text):
        if name not in tables:
            raise CannotFill(f"{page}: no result is stored for the table {name}; run the example {name}")
        start, end = f"<!-- table:{name} -->", f"<!-- /table:{name} -->"
        head, rest = text.split(start)
        text = f"{head}{start}\n{tables[name]()}\n{end}{rest.split(end)[1]}"
    return text
