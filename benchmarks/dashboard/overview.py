"""One static page in front of asv's: the newest figures with their history, the gate's verdict and the statistical checks.

It is made from stored files alone, loads nothing, and runs no script.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..results import history, records, speed_table, stored
from ..results.change_points import LEAST
from ..results.series import Series
from ..results.speed_table import COPY, RIVAL, Row
from ..results.stored import RATIO_BENCHMARKS, Entry
from ..system.units import format_seconds
from .sparkline import Sparkline
from .state import read_law, read_verdict

SHOWN = 100  # commits in a sparkline, the newest
WEEK = 7 * 24 * 3600  # seconds


@dataclass(frozen=True)
class Line:
    """A row of a machine's table; `commit` is the commit of its figures, `source` says whether they are asv's or a record's.

    `sparklines` and `links` (to asv's graphs) are by the layer that TailDropout is compared with.
    """

    row: Row
    commit: str
    source: str
    sparklines: Mapping[str, Sparkline] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Slowdown:
    """A case that became slower than the pinned version within the last week, by `size` (0.05: 5 %); `link` is asv's graph."""

    case: str
    commit: str
    size: float
    link: str


@dataclass(frozen=True)
class Section:
    """The newest figures of one machine with one torch; `open` if the page shows them unfolded.

    `commits` is the number of commits measured beside the pinned version.
    """

    title: str
    lines: Sequence[Line]
    open: bool
    commits: int = 0
    slower: Sequence[Slowdown] = ()

    @property
    def compared(self) -> list[Row]:
        """The rows that are compared with nn.Dropout."""
        return [line.row for line in self.lines if RIVAL in line.row.ratio]

    def count(self, standing: str) -> int:
        """Return the number of cases with this standing against nn.Dropout: "wins", "ties" or "loses"."""
        return sum(row.standing() == standing for row in self.compared)

    def typical(self) -> str:
        """Return, as text, how fast TailDropout is compared with nn.Dropout in the median case."""
        ratio = median(row.ratio[RIVAL][0] for row in self.compared)
        return f"{1 / ratio:.3g} times as fast" if ratio <= 1 else f"{ratio:.3g} times as slow"

    @property
    def known(self) -> bool:
        """True if enough commits are measured to find a change."""
        return self.commits >= 2 * LEAST

    def is_slower(self, case: str) -> bool:
        """Return True if a case became slower within the last week."""
        return any(slowdown.case == case for slowdown in self.slower)


@dataclass(frozen=True)
class Record:
    """The parts of a stored record that the overview shows."""

    machine: str
    torch: str
    commit: str
    source: str
    rows: Sequence[Row]


def write(html: Path, root: Path, all_series: Sequence[Series], dates: Mapping[str, int], lost: Iterable[str]) -> list[str]:
    """Write `overview.html` into the folder `html` and return the errors that the page reports: unreadable state files.

    `root` holds the records and the state files. `dates` holds the commits of the history, oldest first, with their times in
    seconds; `lost` are measured commits that the history lacks. Raises BrokenResult for a broken record.
    """
    recorded = [read_record(file) for file in sorted((root / "benchmarks" / "records").glob("*.json"))]
    verdict, law = read_verdict(root / ".asv" / "verdict.json"), read_law(root / ".asv" / "law.json")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("overview.html").render(
        sections=sections(all_series, recorded, dates),
        verdict=verdict,
        law=law,
        columns={RIVAL: "time / nn.Dropout", COPY: "time / copy"},
        layers=speed_table.LAYERS,
        lost=sorted(commit[:8] for commit in lost),
        legend=speed_table.NOTE.replace("`", ""),
        shown=SHOWN,
        needed=2 * LEAST,
        format_seconds=format_seconds,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    (html / "overview.html").write_text(page, encoding="utf-8")
    return [state.error for state in (verdict, law) if state.error]


def sections(all_series: Iterable[Series], recorded: Sequence[Record], dates: Mapping[str, int]) -> list[Section]:
    """Return, per machine and torch, the newest figures of each case: asv's, or a record's if its commit is newer.

    The section with the newest commit comes first and is open; sections with a record are open too.
    """
    from ..suite.cases import CASES

    order = {commit: place for place, commit in enumerate(dates)}
    lines: dict[tuple[str, str], dict[str, Line]] = {}
    pinned: dict[tuple[str, str], tuple[int, list[Slowdown]]] = {}
    for series in all_series:
        tried = {case: commit for case, commit in series.tried().items() if case in CASES}
        lines[series.machine, series.torch] = {case: asv_line(series, case, commit) for case, commit in tried.items()}
        pinned[series.machine, series.torch] = last_week(series, dates)
    for record in recorded:
        known = lines.setdefault((record.machine, record.torch), {})
        for row in record.rows:
            former = known.get(row.case)
            if row.ratio and (former is None or order.get(former.commit, -1) < order.get(record.commit, -1)):
                drawn = (former.sparklines, former.links) if former else ()
                known[row.case] = Line(row, record.commit, record.source, *drawn)

    keep_open = {(record.machine, record.torch) for record in recorded}

    def newest(key: tuple[str, str]) -> int:
        return max((order.get(line.commit, -1) for line in lines[key].values()), default=-1)

    return [
        Section(f"{key[0]}, torch {key[1]}", sort(lines[key], CASES), place == 0 or key in keep_open, *pinned.get(key, ()))
        for place, key in enumerate(sorted(lines, key=newest, reverse=True))
    ]


def sort(lines: Mapping[str, Line], cases: Iterable[str]) -> list[Line]:
    """Return the lines in the order of the suite's cases; lines of cases that the suite no longer has come last."""
    return [lines[case] for case in [*(name for name in cases if name in lines), *sorted(lines.keys() - set(cases))]]


def last_week(series: Series, dates: Mapping[str, int]) -> tuple[int, list[Slowdown]]:
    """Return how many commits were measured beside the pinned version, and the slowdowns in the week up to the newest one."""
    by_case = history.by_case([series])
    commits = {commit for line in by_case.values() for commit, _ in line}
    since = max((dates[commit] for commit in commits), default=0) - WEEK
    slower = []
    for step in history.steps(by_case):
        if step.slower and dates[step.commit] >= since:
            chosen = {"machine": series.machine, "torch": series.torch, "p-case": f"'{step.case}'"}
            slower.append(Slowdown(step.case, step.commit, step.change.size, graph(history.BENCHMARK, chosen)))
    return max((len(line) for line in by_case.values()), default=0), slower


def asv_line(series: Series, case: str, commit: str) -> Line:
    """Return the row of a case at `commit`, with the history of its ratios as sparklines."""
    figures = series.commits[commit]
    present = {entry: figure for entry, figure in figures.items() if figure.value is not None}
    failed = [entry for entry, figure in figures.items() if figure.value is None]
    (row,) = stored.rows(present, [case], failed)
    sparklines, links = {}, {}
    for other, benchmark in RATIO_BENCHMARKS.items():
        entry = Entry(benchmark, (f"'{case}'",))
        recent = [(name, measured[entry]) for name, measured in series.commits.items() if entry in measured][-SHOWN:]
        points = [(name, *spread) for name, figure in recent if (spread := figure.spread())]
        if points:
            sparklines[other] = Sparkline(f"{case} over {other}", points)
            links[other] = graph(benchmark, {"machine": series.machine, "torch": series.torch, "p-case": entry.params[0]})
    return Line(row, commit, "asv", sparklines, links)


def graph(benchmark: str, selected: Mapping[str, str]) -> str:
    """Return the address of asv's graph of a benchmark, relative to the page."""
    return f"index.html#{benchmark}?{urlencode(selected, quote_via=quote, safe='')}"


def read_record(file: Path) -> Record:
    """Return a stored record. Raises BrokenResult."""
    record = records.read(file)
    torch = record["versions"]["torch"].partition("+")[0]  # asv's versions have no suffix
    source = "record, with uncommitted changes" if record["dirty"] else "record"
    return Record(record["machine"]["name"], torch, record["commit"], source, speed_table.record_rows(record))
