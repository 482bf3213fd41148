"""Show the rows of a comparison as a table, a line, Markdown and JUnit, and return the exit code."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from xml.etree import ElementTree

from rich.table import Table
from rich.text import Text

from ..system.units import format_seconds
from .rule import FAILED, IMPROVED, INCOMPARABLE, PASS, REGRESSED, UNSTABLE, Estimate

HEADINGS = ("case", "signal", "base", "head", "change", "interval", "verdict", "note")
WORST_FIRST = (REGRESSED, FAILED, UNSTABLE, INCOMPARABLE, IMPROVED, PASS)
COLOURS = {REGRESSED: "red", FAILED: "red", UNSTABLE: "yellow", INCOMPARABLE: "yellow", IMPROVED: "green", PASS: ""}
EXIT = {PASS: 0, IMPROVED: 0, REGRESSED: 1, FAILED: 2, UNSTABLE: 3}
MEANING = {
    PASS: "no slowdown beyond the threshold",
    IMPROVED: "nothing is slower, something is faster",
    REGRESSED: "head is slower",
    FAILED: "not everything could be measured",
    UNSTABLE: "too much noise, or too little time, for a verdict: not a pass",
    INCOMPARABLE: "nothing could be compared",
}
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # such as the colours of an error
MARKDOWN = re.compile(r"[\\`*|\[]|(?<![^\W_])_|_(?![^\W_])")  # an underscore within a word stands for itself
NAMED = 3  # cases of a verdict in the line
NOTE = (
    "change: head over base, minus 1: the trimmed mean over processes or pairs, with its interval of 95 %; worst first. "
    "~: no difference is shown. base: the median of the processes' medians; head: base and the change."
)


@dataclass(frozen=True)
class Row:
    """The verdict on one signal of one case, with its figures.

    `base` and `head` are seconds per call for the signal "time", else counts or a benchmark's own figures; `change`, `low` and
    `high` are fractions of base.
    """

    case: str
    signal: str
    verdict: str
    base: float | None = None
    head: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    processes: int | None = None
    note: str = ""

    @classmethod
    def of(cls, case: str, signal: str, verdict: str, estimate: Estimate | None, **more: Any) -> "Row":
        """Return a row with the figures of `estimate`, if there is one; `more` gives other fields."""
        figures = {} if estimate is None else asdict(estimate)
        return cls(case, signal, verdict, **figures, **more)

    def cells(self) -> tuple[str, ...]:
        """Return the text under each of `HEADINGS`."""
        written = format_seconds if self.signal == "time" else format_figure
        sides = ["" if value is None else written(value) for value in (self.base, self.head)]
        shown = self.low is None or self.high is None or not self.low <= 0 <= self.high
        change = "" if self.change is None else f"{self.change:+.2%}{'' if shown else ' ~'}"
        interval = "" if self.low is None or self.high is None else f"{self.low:+.2%} … {self.high:+.2%}"
        return (self.case, self.signal, *sides, change, interval, self.verdict, self.note)


def format_figure(value: float) -> str:
    """Return a figure as text: without decimals if whole or 1000 and more, else with four significant digits."""
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.4g}"


def ordered(rows: Iterable[Row]) -> list[Row]:
    """Return the rows sorted by verdict, then by change, the worst first."""
    return sorted(rows, key=lambda row: (WORST_FIRST.index(row.verdict), -(row.change or 0.0), row.case))


def overall(rows: Sequence[Row]) -> str:
    """Return the worst verdict; INCOMPARABLE only if no row has another."""
    verdicts = {row.verdict for row in rows}
    for verdict in (REGRESSED, FAILED, UNSTABLE, IMPROVED, PASS):
        if verdict in verdicts:
            return verdict
    return INCOMPARABLE


def exit_code(rows: Sequence[Row]) -> int:
    """Return the exit code: 0 pass or improved, 1 regressed, 2 could not measure or compare, 3 unstable."""
    return EXIT.get(overall(rows), 2)


def geometric_mean(rows: Iterable[Row], signal: str) -> float | None:
    """Return the geometric mean of a signal's head / base over all cases, minus 1; None if no case has a change."""
    logs = [math.log1p(row.change) for row in rows if row.signal == signal and row.change is not None and row.change > -1]
    return math.expm1(sum(logs) / len(logs)) if logs else None


def line(rows: Sequence[Row], base: str, head: str) -> str:
    """Return the overall verdict, the worst cases, and what else is no pass, in one line.

    `base` and `head` describe the versions.
    """
    verdict = overall(rows)
    named = f": {worst_of(rows, verdict)}" if verdict in (REGRESSED, FAILED, UNSTABLE, IMPROVED) else ""
    also = [other for other in (FAILED, UNSTABLE) if other != verdict and any(row.verdict == other for row in rows)]
    others = "".join(f" Also {other}: {worst_of(rows, other)}." for other in also)
    compared = sum(row.change is not None for row in rows)
    figures = f"{compared} figure{'' if compared == 1 else 's'} compared"
    return f"{verdict}: {MEANING[verdict]}{named}.{others} {head} against {base}, {figures}."


def worst_of(rows: Sequence[Row], verdict: str) -> str:
    """Return the names of the rows with a verdict, the worst first, with their changes; more than three are counted."""
    names = [
        row.case if row.change is None else f"{row.case} {row.signal} {row.change:+.1%}"
        for row in ordered(rows)
        if row.verdict == verdict
    ]
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def lines_of(rows: Sequence[Row]) -> list[tuple[Row | None, tuple[str, ...]]]:
    """Return the lines of the table as (row, cells), then those of the geometric means, whose row is None."""
    lines: list[tuple[Row | None, tuple[str, ...]]] = [(row, row.cells()) for row in ordered(rows)]
    for signal in ("time", "instructions"):
        mean = geometric_mean(rows, signal)
        if mean is not None:
            lines.append((None, ("geometric mean", signal, "", "", f"{mean:+.2%}", "", "", "")))
    return lines


def render(rows: Sequence[Row], title: str) -> Table:
    """Return the table for a terminal."""
    table = Table(title=title, caption=Text(NOTE), caption_justify="left")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if 2 <= number <= 5 else "left", no_wrap=0 < number < 7, overflow="fold")
    for row, cells in lines_of(rows):
        table.add_row(*map(Text, cells), style=COLOURS[row.verdict] if row else "bold")
    return table


def markdown(rows: Sequence[Row], title: str, verdict: str) -> str:
    """Return the table in Markdown."""
    lines = [f"### {escaped(title)}", "", f"**{escaped(verdict)}**", "", "| " + " | ".join(HEADINGS) + " |"]
    lines.append("| --- | --- |" + " ---: |" * 4 + " --- | --- |")
    lines += ["| " + " | ".join(map(escaped, cells)) + " |" for _, cells in lines_of(rows)]
    return "\n".join([*lines, "", NOTE, ""])


def escaped(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    text = NOT_XML.sub("", " ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKDOWN.sub(r"\\\g<0>", text)


def junit(rows: Sequence[Row], title: str) -> str:
    """Return JUnit XML, a test per row: REGRESSED is a failure, FAILED and UNSTABLE are errors, INCOMPARABLE is skipped."""
    failures = sum(row.verdict == REGRESSED for row in rows)
    errors = sum(row.verdict in (FAILED, UNSTABLE) for row in rows)
    attributes = {"name": title, "tests": str(len(rows)), "failures": str(failures), "errors": str(errors)}
    suite = ElementTree.Element("testsuite", attributes)
    for row in ordered(rows):
        case = ElementTree.SubElement(suite, "testcase", {"classname": f"gate.{row.signal}", "name": row.case})
        kind = {REGRESSED: "failure", FAILED: "error", UNSTABLE: "error", INCOMPARABLE: "skipped"}.get(row.verdict)
        if kind:
            ElementTree.SubElement(case, kind, {"message": " ".join((row.verdict, *row.cells()[4:6], row.note)).strip()})
    return NOT_XML.sub("", ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)) + "\n"
