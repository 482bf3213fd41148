"""The table of a trace: the operators in which either side spends most time, side by side."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ..system.units import format_bytes, format_seconds
from .events import OUTSIDE, Operator, total
from .trace import STEPS

if TYPE_CHECKING:
    from ..suite.cases import Case

ROWS = 12  # operators in the table
NOTE = (
    f"One step, the median of {STEPS}. Self time: time in an operator and its Python code, without the operators it calls. "
    "Bytes: its own allocations. Tracing takes time, most of all in small cases: for speed use `run`."
)


def render(sides: Mapping[str, Mapping[str, Operator]], case: "Case") -> Table:
    """Return the table of both sides' operators by name, the most expensive ones first."""
    gpu = case.device == "cuda"
    table = Table(title=f"{case.name}: where the time goes", caption=Text(NOTE), caption_justify="left")
    table.add_column("operator", overflow="fold")
    for side in sides:
        table.add_column(f"{side}: calls", justify="right")
        for heading in ("self time", *(["on the GPU"] if gpu else []), "bytes"):
            table.add_column(heading, justify="right", no_wrap=True)

    def cost(name: str) -> float:
        times = [operator.device if gpu else operator.host for side in sides.values() if (operator := side.get(name))]
        return max(times)

    def row(heading: str, operators: Iterable[Operator | None]) -> None:
        table.add_row(*map(Text, [heading, *(cell for operator in operators for cell in cells(operator, gpu))]))

    names = {name for side in sides.values() for name in side} - {OUTSIDE}
    ordered = sorted(names, key=lambda name: (-cost(name), name))
    for name in ordered[:ROWS]:
        row(name, [side.get(name) for side in sides.values()])
    if rest := ordered[ROWS:]:
        row(f"{len(rest)} others", [total(side[name] for name in rest if name in side) for side in sides.values()])
    row(OUTSIDE, [side.get(OUTSIDE) for side in sides.values()])
    table.add_section()
    row("all", [total(side.values()) for side in sides.values()])
    return table


def cells(operator: Operator | None, gpu: bool) -> Sequence[str]:
    """Return an operator's calls, times and bytes as text; empty texts for None."""
    if operator is None:
        return ("",) * (4 if gpu else 3)
    device = [format_seconds(operator.device * 1e-6)] if gpu else []
    return str(operator.calls or ""), format_seconds(max(operator.host, 0.0) * 1e-6), *device, format_bytes(operator.allocated)
