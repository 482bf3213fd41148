"""One static page in front of asv's: the newest figures, their trend, the gate's verdict and the statistical checks.

It is made from what is stored alone, loads nothing, and runs no script.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..results import series
from ..results import stored as results
from ..results import tables as table
from ..results.series import Series
from ..results.stored import BrokenResult, Entry
from ..results.tables import RIVALS, Row
from ..system.units import format_seconds
from .sparkline import Trend

BENCHMARKS = ("speed.Ratio.track_over_nn_dropout", "speed.Ratio.track_over_copy")  # of each of RIVALS
SHOWN = 100  # commits in a trend, the newest
VERDICTS = {"PASS": "good", "IMPROVED": "good", "REGRESSED": "bad", "FAILED": "bad", "UNSTABLE": "open", "INCOMPARABLE": "open"}
VERDICT_COMMAND, LAW_COMMAND = "python -m benchmarks compare BASE", "python -m benchmarks nightly"


@dataclass(frozen=True)
class Line:
    """A row of the newest table; `commit` is what its figures are of, `source` who measured them."""

    row: Row
    commit: str
    source: str
    trends: Mapping[str, Trend] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    stepped: bool = False

    def standing(self, rival: str) -> str:
        """`loses`, `ties` or `wins`, as the table's marks have it."""
        mark = table.spread(*self.row.ratio[rival])[-1]
        return {"✗": "loses", "~": "ties"}.get(mark, "wins")

    def goals(self) -> list[tuple[str, bool]]:
        """The goals in words, and whether the median meets each."""
        wanted = zip(RIVALS, self.row.goal, strict=True)
        return [
            (f"≤ {goal:g} {rival.removesuffix('.Dropout')}", self.row.ratio[rival][0] <= goal)
            for rival, goal in wanted
            if goal is not None and rival in self.row.ratio
        ]


@dataclass(frozen=True)
class Section:
    """The newest figures of one machine with one torch; `open` if they are shown at once."""

    title: str
    lines: Sequence[Line]
    open: bool

    def count(self, standing: str, rival: str) -> int:
        """How many cases win, tie or lose against a rival."""
        return sum(rival in line.row.ratio and line.standing(rival) == standing for line in self.lines)

    def missed(self) -> int:
        """How many goals are not met."""
        return sum(not met for line in self.lines for _, met in line.goals())


@dataclass(frozen=True)
class Record:
    """What `run --record` stored."""

    machine: str
    torch: str
    commit: str
    source: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Step:
    """A benchmark of which asv's step detection says that it has become slower and stayed so."""

    name: str
    link: str
    before: str
    after: str
    factor: float
    commits: str
    date: str


def write(html: Path, root: Path, stored: Sequence[Series], order: Mapping[str, int], lost: Iterable[str]) -> list[str]:
    """Write `overview.html` into a published folder, from the series, records and state that `root` has stored.

    `order` gives the place of each commit in the history, which lacks the commits `lost`. The gate's verdict or the checks'
    state may be broken: the page says so, and so does what is given back. Raises BrokenResult for a record that is.
    """
    records = [read_record(file) for file in sorted((root / "benchmarks" / "records").glob("*.json"))]
    verdict, complaint = read_state(root / ".asv" / "verdict.json", check_verdict, VERDICT_COMMAND)
    law, other = read_state(root / ".asv" / "law.json", check_law, LAW_COMMAND)
    steps = published_steps(html)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("overview.html").render(
        sections=newest(stored, records, order, steps),
        steps=steps,
        history=max((len(each.commits) for each in stored), default=0),
        verdict=verdict,
        verdict_complaint=complaint,
        verdict_command=VERDICT_COMMAND,
        verdict_class=VERDICTS,
        law=law,
        law_complaint=other,
        law_command=LAW_COMMAND,
        rivals=RIVALS,
        lost=sorted(commit[:8] for commit in lost),
        legend=table.NOTE.replace("`", ""),
        shown=SHOWN,
        duration=format_seconds,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    (html / "overview.html").write_text(page, encoding="utf-8")
    return [each for each in (complaint, other) if each]


def newest(
    stored: Iterable[Series], records: Iterable[Record], order: Mapping[str, int], steps: Iterable[Step]
) -> list[Section]:
    """Per machine and torch the newest figures of each case: asv's, or a record's if its commit is newer.

    The newest section is open, and so are those that hold a record, which somebody chose to keep.
    """
    from ..suite.cases import CASES

    stepped = {step.name for step in steps}
    lines: dict[tuple[str, str], dict[str, Line]] = {}
    for each in stored:
        tried = {case: commit for case, commit in each.tried().items() if case in CASES}
        lines[each.machine, each.torch] = {case: asv_line(each, case, commit, stepped) for case, commit in tried.items()}
    for record in records:
        known = lines.setdefault((record.machine, record.torch), {})
        for row in record.rows:
            before = known.get(row.case)
            if row.ratio and (before is None or order.get(before.commit, -1) < order.get(record.commit, -1)):
                drawn = (before.trends, before.links, before.stepped) if before else ()
                known[row.case] = Line(row, record.commit, record.source, *drawn)

    def age(key: tuple[str, str]) -> int:
        return max((order.get(line.commit, -1) for line in lines[key].values()), default=-1)

    recorded = {(record.machine, record.torch) for record in records}
    return [
        Section(f"{key[0]}, torch {key[1]}", in_order(lines[key], CASES), number == 0 or key in recorded)
        for number, key in enumerate(sorted(lines, key=age, reverse=True))
    ]


def in_order(lines: Mapping[str, Line], cases: Iterable[str]) -> list[Line]:
    """The lines as the suite has its cases; those that it has no longer come last."""
    return [lines[case] for case in [*(name for name in cases if name in lines), *sorted(lines.keys() - set(cases))]]


def asv_line(stored: Series, case: str, commit: str, stepped: set[str]) -> Line:
    """A case as asv measured it last, with its trends."""
    figures = stored.commits[commit]
    failed = [entry for entry, figure in figures.items() if figure.value is None]
    present = {entry: figure for entry, figure in figures.items() if figure.value is not None}
    (row,) = results.rows(present, [case], failed)
    trends, links = {}, {}
    for rival, benchmark, goal in zip(RIVALS, BENCHMARKS, row.goal, strict=True):
        entry = Entry(benchmark, (f"'{case}'",))
        recent = list(stored.commits.items())[-SHOWN:]
        points = [(name, *point) for name, measured in recent if (point := series.spread(measured.get(entry)))]
        if points:
            trends[rival] = Trend(f"{case} over {rival}", points, goal)
            links[rival] = graph(benchmark, {"machine": stored.machine, "torch": stored.torch, "p-case": entry.params[0]})
    names = {str(entry) for entry in figures if results.case_of(entry) == case}
    return Line(row, commit, "asv", trends, links, bool(stepped & names))


def graph(benchmark: str, selected: Mapping[str, str]) -> str:
    """The address of asv's graph of a benchmark, relative to the page."""
    return f"index.html#{benchmark}?{urlencode(selected, quote_via=quote, safe='')}"


def published_steps(html: Path) -> list[Step]:
    """What asv found and published as regressions, the worst first."""
    index = json.loads((html / "index.json").read_text(encoding="utf-8"))
    hashes, dates = index["revision_to_hash"], index["revision_to_date"]
    found = []
    regressions = json.loads((html / "regressions.json").read_text(encoding="utf-8"))["regressions"]
    for name, _, selected, number, _, _, jumps in regressions:
        benchmark = index["benchmarks"][name.partition("(")[0]]
        chosen = dict(selected)
        if number is not None:
            values = list(product(*benchmark["params"]))[number]
            chosen |= {f"p-{key}": value for key, value in zip(benchmark["param_names"], values, strict=True)}
        for first, last, before, after in jumps or ():
            span = [hashes[str(place)][:8] for place in (first, last) if place is not None]
            link = graph(benchmark["name"], chosen | {"commits": "-".join(span)})
            then, now = (amount(value, benchmark.get("unit", "")) for value in (before, after))
            date = datetime.fromtimestamp(dates[str(last)] / 1000, UTC).strftime("%Y-%m-%d")
            found.append(Step(name, link, then, now, after / before if before else float("inf"), " … ".join(span), date))
    return sorted(found, key=lambda step: -step.factor)


def amount(value: float, unit: str) -> str:
    """A figure with its unit."""
    return format_seconds(value) if unit == "seconds" else f"{value:.3g} {'' if unit == 'ratio' else unit}".strip()


def read_record(file: Path) -> Record:
    """A stored record; BrokenResult if it lacks anything."""

    def read(file: Path) -> Record:
        stored = json.loads(file.read_text(encoding="utf-8"))
        torch = stored["versions"]["torch"].partition("+")[0]  # asv's versions are bare
        source = "record, with uncommitted changes" if stored["dirty"] else "record"
        return Record(stored["machine"]["name"], torch, stored["commit"], source, table.record_rows(stored))

    return series.parsed(file, read, "python -m benchmarks run --record")


def read_state(file: Path, check: Callable[[Any], dict[str, Any]], command: str) -> tuple[dict[str, Any] | None, str]:
    """What a command stored, None where it stored nothing; and what is wrong with it, in which case it is None too."""
    if not file.exists():
        return None, ""
    try:
        return series.parsed(file, lambda file: check(json.loads(file.read_text(encoding="utf-8"))), command), ""
    except BrokenResult as error:
        return None, str(error)


def check_verdict(stored: dict[str, Any]) -> dict[str, Any]:
    """The gate's verdict if it has all that the page shows; ValueError, KeyError or TypeError if not."""
    if stored["version"] != 1 or stored["verdict"] not in VERDICTS:
        raise ValueError(f"version {stored['version']}, verdict {stored['verdict']!r}")
    rows = [
        {"case": str(row["case"]), "signal": str(row["signal"]), "verdict": str(row["verdict"])}
        | {key: percent(row[key]) for key in ("change", "low", "high")}
        for row in stored["rows"]
    ]
    return {"verdict": stored["verdict"], "line": str(stored["line"]), "date": moment(stored["date"]), "rows": rows}


def check_law(stored: dict[str, Any]) -> dict[str, Any]:
    """The state of the statistical checks, likewise."""
    if stored["version"] != 1:
        raise ValueError(f"version {stored['version']}")
    numbers = {key: int(stored[key]) for key in ("seed", "draws", "checks")}
    return numbers | {
        "date": moment(stored["date"]),
        "rejected": [*map(str, stored["rejected"])],
        "commit": str(stored["commit"]),
    }


def moment(text: str) -> str:
    """A stored time, to the minute."""
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M")


def percent(share: float | None) -> str:
    """A relative change."""
    return "" if share is None else f"{share:+.1%}"
