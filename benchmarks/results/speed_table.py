"""The tables of speed: for a terminal, for the docs and, with six rows, for the README.

A time above a copy's is not marked as a loss: a copy is the unit, and no dropout writes less than it does.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from ..system.units import format_seconds

RIVAL, COPY, ORIGINAL = "nn.Dropout", "copy", "original"
LAYERS = ("TailDropout", RIVAL, COPY)
HEADINGS = ("case", *LAYERS, "/ nn.Dropout", "/ copy")
SYMBOLS = {"loses": "✗", "ties": "~", "wins": ""}
NOTE = (
    "TailDropout, nn.Dropout, copy: median time of a call. / nn.Dropout: ratio to the time of nn.Dropout, both called in turn "
    "in one process, as median [quartiles]; below 1 TailDropout is faster, ✗ it is slower, ~ the quartiles lie on both sides "
    "of 1. / copy: ratio to a copy, `x.clone()`, which writes as much and reads all; in a model, to the model without dropout."
)
FULL_HEADINGS = (*HEADINGS[:5], "/ original", HEADINGS[5], "goal")
FULL_NOTE = f"{NOTE} / original: ratio to the formulation of the original package (thresholds, a uniform, a multiplication)."
COSTS_NOTE = (
    "Bandwidth: bytes that must be moved (all are written, the kept ones are read) per second, as a share of what the copy "
    "moves. Bytes are those of one call."
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
# The README's six rows.
SHORT = {
    "8x16-f32-train": "forward and backward, (8, 16), float32",
    "1024x512-f32-train": "forward and backward, (1024, 512), float32",
    "8192x768-f32-train": "forward and backward, (8192, 768), float32",
    "8192x768-bf16-train": "forward and backward, (8192, 768), bfloat16",
    "8192x768-f32-fwd-compiled": "forward in `torch.compile`, (8192, 768), float32",
    "feedforward-4096x1024-f32-train": "`TailMLP`, forward and backward, (4096, 1024), float32",
}


@dataclass(frozen=True)
class Row:
    """The figures of one case; `note` explains missing ones.

    `seconds` are median times of a call by layer, `ratio` holds TailDropout's time over that of another layer, as median and
    quartiles. `goal` is the largest ratio that we accept to nn.Dropout and to a copy.
    """

    case: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    ratio: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    goal: tuple[float | None, float | None] = (None, None)
    note: str = ""

    def standing(self, rival: str = RIVAL) -> str:
        """Return `wins`, `ties` or `loses`: TailDropout against a rival; empty if the ratio is missing."""
        if rival not in self.ratio:
            return ""
        median, low, high = self.ratio[rival]
        return "ties" if low <= 1 <= high else "loses" if median > 1 else "wins"

    def compared(self, other: str) -> str:
        """Return the ratio to another layer as text, with a mark for a loss or tie unless that layer is the copy."""
        if other not in self.ratio:
            return ""
        mark = "" if other == COPY else SYMBOLS[self.standing(other)]
        return f"{spread(*self.ratio[other])} {mark}".strip()

    def cells(self) -> tuple[str, ...]:
        """Return the row's cells for the columns `HEADINGS`."""
        times = [format_seconds(self.seconds[layer]) if layer in self.seconds else "" for layer in LAYERS]
        missing = self.note or "not measured"
        return (self.case, *(cell or missing for cell in (*times, self.compared(RIVAL), self.compared(COPY))))

    def full_cells(self) -> tuple[str, ...]:
        """Return the row's cells for the columns `FULL_HEADINGS`."""
        return (*self.cells()[:5], self.compared(ORIGINAL), self.cells()[5], self.goals())

    def goals(self) -> str:
        """Return our goals for the ratios to nn.Dropout and to a copy, each with `(missed)` if it is not reached."""
        goals = zip(self.goal, (RIVAL, COPY), (" of nn.Dropout", " of a copy"), strict=True)
        return ", ".join(f"≤ {goal:g}{unit}{self._missed(other, goal)}" for goal, other, unit in goals if goal is not None)

    def _missed(self, other: str, goal: float) -> str:
        return " (missed)" if other in self.ratio and self.ratio[other][0] > goal else ""


def spread(median: float, low: float, high: float) -> str:
    """Return a ratio and its quartiles as text."""
    return f"{median:.3g} [{low:.3g}, {high:.3g}]"


def render(rows: Iterable[Row], title: str) -> Table:
    """Return the table for a terminal; rows slower than nn.Dropout are red, rows with a note are dim."""
    table = Table(title=title, caption=Text(NOTE), caption_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "case" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row.cells()), style="red" if row.standing() == "loses" else "dim" if row.note else None)
    return table


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; all columns but the first are aligned to the right."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def record_rows(record: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a stored record."""
    rows = []
    for case, stored in record["cases"].items():
        ratio = {other: tuple(figures) for other, figures in stored.get("ratio", {}).items()}
        rows.append(Row(case, stored.get("seconds", {}), ratio, tuple(stored["goal"]), stored.get("note", "")))
    return rows


def record_title(record: Mapping[str, Any]) -> str:
    """Return the machine, versions, commit and date of a record."""
    machine = record["machine"]
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['cores']} cores"
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    state = " with uncommitted changes" if record["dirty"] else ""
    return f"{where}; {versions}; commit {record['commit'][:8]}{state}; {record['date'][:10]}"


def full(record: Mapping[str, Any]) -> str:
    """Return a record as Markdown for the docs: title, table with the original package and our goals, costs on a GPU."""
    table = markdown_table(FULL_HEADINGS, (row.full_cells() for row in record_rows(record)))
    return "\n\n".join(filter(None, (f"**{record_title(record)}**", table, FULL_NOTE, costs(record))))


def costs(record: Mapping[str, Any]) -> str:
    """Return a Markdown table of the costs other than time; an empty text if the record has none (no case on a GPU)."""
    rows = [
        [case, *(show(stored["costs"][cost]) if cost in stored["costs"] else "" for cost, show in COSTS.values())]
        for case, stored in record["cases"].items()
        if "costs" in stored
    ]
    return f"{markdown_table(('case', *COSTS), rows)}\n\n{COSTS_NOTE}" if rows else ""


def short(record: Mapping[str, Any]) -> str:
    """Return the README's table: the rows of `SHORT`, with median ratios and without quartiles."""
    rows = {row.case: row for row in record_rows(record)}
    lines = []
    for case, description in SHORT.items():
        row = rows.get(case, Row(case))
        times = [format_seconds(row.seconds[layer]) if layer in row.seconds else "n/a" for layer in LAYERS[:2]]
        ratios = [f"{row.ratio[other][0]:.2g}" if other in row.ratio else "n/a" for other in (RIVAL, COPY)]
        mark = SYMBOLS.get(row.standing(), "")
        lines.append([description, *times, f"{ratios[0]} {mark}".strip(), ratios[1]])
    headings = ("what is timed", *LAYERS[:2], "/ nn.Dropout", "/ copy")
    return f"**{record_title(record)}**\n\n{markdown_table(headings, lines)}"
