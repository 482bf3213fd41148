"""Write the README's tables between their markers: speed, how often the gate errs, and what the examples found.

The rows of the table of speeds are made and rendered here too, wherever the figures come from.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from .. import ROOT
from ..system.files import write

RECORDS = ROOT / "benchmarks" / "records"
FINDINGS = ROOT / "examples" / "results"
RIVALS = ("nn.Dropout", "copy")
HEADINGS = ("case", "TailDropout", "nn.Dropout", "copy", "/ nn.Dropout", "/ copy", "goal")
NOTE = (
    "Time of a call, median; ratios are of calls taken in turn in one process: median [quartiles], below 1 TailDropout is "
    "faster. ✗: it loses; ~: the quartiles lie on both sides of 1. copy is `x.clone()`, in a model the model without dropout."
)

DETAILS = (
    "/ original: time over that of the original formulation (thresholds, a uniform, a multiplication). Bandwidth: bytes that "
    "must be moved (all written, what stays read) per second, as a share of what the copy moves. Bytes are those of one call."
)
COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "copy": ("bytes a second of copy", lambda value: f"{value / 1e9:.0f} GB/s"),
    "bandwidth": ("share of it", lambda value: f"{value:.0%}"),
    "launches": ("launches", lambda value: f"{value:.0f}"),
    "saved": ("saved bytes", lambda value: f"{value:,.0f} B"),
    "peak": ("peak bytes", lambda value: f"{value:,.0f} B"),
    "compiled in": ("seconds to compile TailDropout", lambda value: f"{value:.1f} s"),
    "copy in": ("seconds to compile copy", lambda value: f"{value:.1f} s"),
}


@dataclass(frozen=True)
class Row:
    """One case: seconds per layer, and per rival the ratio's median and quartiles. `note` says why figures lack."""

    case: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    ratio: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    goal: tuple[float | None, float | None] = (None, None)
    note: str = ""

    def loses(self) -> bool:
        """Whether it takes longer than one of its rivals."""
        return any(median > 1 for median, _, _ in self.ratio.values())

    def cells(self) -> tuple[str, ...]:
        """What stands under `HEADINGS`."""
        times = [duration(self.seconds[layer]) if layer in self.seconds else "" for layer in ("TailDropout", *RIVALS)]
        compared = [spread(*self.ratio[rival]) if rival in self.ratio else "" for rival in RIVALS]
        lack = self.note or "not measured"
        return (self.case, *(cell or lack for cell in (*times, *compared)), self.wanted())

    def wanted(self) -> str:
        """The goals, each with the rival that it is about, and whether it is met."""
        wanted = [(goal, rival) for goal, rival in zip(self.goal, RIVALS, strict=True) if goal is not None]
        return ", ".join(f"≤ {goal:g} {rival.removesuffix('.Dropout')}{self.met(rival, goal)}" for goal, rival in wanted)

    def met(self, rival: str, goal: float) -> str:
        """What stands behind a goal: nothing where it is met or not measured."""
        return " (missed)" if rival in self.ratio and self.ratio[rival][0] > goal else ""


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:#.3g} {unit}".replace(". ", " ")
    return f"{seconds / 1e-9:.0f} ns"


def spread(median: float, low: float, high: float) -> str:
    """A ratio with its quartiles and a mark."""
    mark = "~" if low <= 1 <= high else "✗" if median > 1 else ""
    return f"{median:.3g} [{low:.3g}, {high:.3g}] {mark}".strip()


def render(rows: Iterable[Row], title: str) -> Table:
    """The table for a terminal; what loses is red."""
    table = Table(title=title, caption=Text(NOTE), caption_justify="left")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if number in (0, len(HEADINGS) - 1) else "right", no_wrap=number < 6)
    for row in rows:
        table.add_row(*map(Text, row.cells()), style="red" if row.loses() else "dim" if row.note else None)
    return table


def markdown(rows: Iterable[Row], title: str) -> str:
    """The same table in Markdown."""
    lines = [f"**{title}**", "", "| " + " | ".join(HEADINGS) + " |", "| --- |" + " ---: |" * 5 + " --- |"]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    return "\n".join([*lines, "", NOTE])


def record_rows(record: Mapping[str, Any]) -> list[Row]:
    """The rows of a stored record."""
    rows = []
    for case, stored in record["cases"].items():
        ratio = {rival: tuple(figures) for rival, figures in stored.get("ratio", {}).items()}
        rows.append(Row(case, stored.get("seconds", {}), ratio, tuple(stored["goal"]), stored.get("note", "")))
    return rows


def details(record: Mapping[str, Any]) -> str:
    """What a record holds beside times, in Markdown: of each case of a GPU; empty where there is none."""
    lines = []
    for case, stored in record["cases"].items():
        if "costs" in stored:
            original = tuple(stored["ratio"].get("original", ()))
            cells = [spread(*original) if original else ""]
            cells += [show(stored["costs"][cost]) if cost in stored["costs"] else "" for cost, show in COSTS.values()]
            lines.append("| " + " | ".join([case, *cells]) + " |")
    if not lines:
        return ""
    heading = ["| case | / original | " + " | ".join(COSTS) + " |", "| --- |" + " ---: |" * (len(COSTS) + 1)]
    return "\n".join([*heading, *lines, "", DETAILS])


def record_title(record: Mapping[str, Any]) -> str:
    """Where and with what a record was measured."""
    machine = record["machine"]
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['cores']} cores"
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    state = " with uncommitted changes" if record["dirty"] else ""
    return f"{where}; {versions}; commit {record['commit'][:8]}{state}; {record['date'][:10]}"


def load(file: Path) -> dict[str, Any]:
    """A stored record; ValueError that names the file if it is broken."""
    try:
        record: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file.name} is no JSON ({error}); measure it anew: python -m benchmarks run --record") from None
    return record


def between(text: str, name: str, table: str) -> str:
    """`text` with what stands between the markers of the named table replaced by `table`."""
    start, end = f"<!-- table:{name} -->", f"<!-- /table:{name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"the file must hold {start} and {end} once each")
    head, rest = text.split(start)
    return f"{head}{start}\n{table}\n{end}{rest.split(end)[1]}"


def speed() -> str:
    """The tables of speed, one for each stored record."""
    records = [load(file) for file in sorted(RECORDS.glob("*.json"))]
    if not records:
        raise ValueError("no record is stored; make one: python -m benchmarks run --record")
    parts = [part for record in records for part in (markdown(record_rows(record), record_title(record)), details(record))]
    return "\n\n".join(filter(None, parts))


def gate() -> str:
    """The tables of the gate's own errors, one for each machine on which it was calibrated."""
    from ..gate import error_rates
    from ..gate import stored as gate_record

    files = sorted(gate_record.FOLDER.glob("*.json"))
    if not files:
        raise ValueError("the gate was never calibrated; do it: python -m benchmarks calibrate")
    return "\n\n".join(f"**{file.stem}**\n\n{error_rates.markdown(gate_record.load(file))}" for file in files)


def tables() -> dict[str, str]:
    """Every table by the name in its markers: speed, gate, and what the examples found."""
    found = {file.stem: file.read_text().strip() for file in sorted(FINDINGS.glob("*.md"))}
    return {"speed": speed(), "gate": gate(), **found}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--file", type=Path, default=ROOT / "README.md", help="the file that holds the markers")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file is not up to date")


def main(arguments: argparse.Namespace) -> int:
    """Write the tables, or check that they are up to date."""
    before = after = arguments.file.read_text()
    try:
        written = tables()
        for name, table in written.items():
            after = between(after, name, table)
        if empty := set(re.findall(r"<!-- table:(\w+) -->", before)) - set(written):
            raise ValueError(f"nothing stored fills the table(s) {', '.join(sorted(empty))}; run examples/NAME.py of each")
    except ValueError as error:
        print(f"{arguments.file.name}: {error}", file=sys.stderr)
        return 2
    if arguments.check:
        if after != before:
            print(f"{arguments.file.name} is not what the records say; run: python -m benchmarks table", file=sys.stderr)
        return int(after != before)
    write(arguments.file, after)
    print(f"{arguments.file.name}: wrote {len(written)} tables")
    return 0
