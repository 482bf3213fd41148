"""The overview: headline, newest figures, sparklines, gate and checks, on a page that needs no other file."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import synthetic

from benchmarks.dashboard import overview
from benchmarks.dashboard.overview import Line, Record, Section
from benchmarks.results.series import Series
from benchmarks.results.speed_table import Row
from benchmarks.results.stored import BrokenResult, Entry, Figure

CASE, OTHER = "8x16-f32-fwd", "8x16-f32-train"
NN = "speed.Ratio.track_over_nn_dropout"
VOID = {"meta", "link", "line", "circle", "polygon", "polyline", "br"}


def figures(**ratios: float | None) -> dict[Entry, Figure]:
    """Figures of the ratio to nn.Dropout, by case; the quartiles 10 % to both sides."""
    return {
        Entry(NN, (f"'{case.replace('__', '-')}'",)): Figure(ratio, ratio and 0.9 * ratio, ratio and 1.1 * ratio)
        for case, ratio in ratios.items()
    }


def of(case: str, ratio: float | None) -> dict[Entry, Figure]:
    return figures(**{case.replace("-", "__"): ratio})


DATES = {"old": 0, "middle": 1, "new": 2}


class Page(HTMLParser):
    """All elements of a page, and proof that each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.inside: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.inside == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.inside.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] not in ("style", "title"):
            self.texts += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The folder into which asv publishes."""
    html = tmp_path / "html"
    html.mkdir()
    return html


def written(html: Path, stored: list[Series] | None = None, lost: tuple[str, ...] = ()) -> tuple[Page, list[str]]:
    """The page for some series, and the errors."""
    stored = [Series("here", "2.13.0", {"old": of(CASE, 0.8)})] if stored is None else stored
    errors = overview.write(html, html.parent, stored, DATES, lost)
    return Page((html / "overview.html").read_text(encoding="utf-8")), errors


# The newest figures.


def test_each_case_is_shown_at_the_newest_commit_that_measured_it() -> None:
    stored = Series("here", "2.13.0", {"old": of(CASE, 0.8) | of(OTHER, 0.7), "new": of(CASE, 0.6) | of(OTHER, math.nan)})
    (section,) = overview.sections([stored], [], DATES)
    assert [(line.row.case, line.commit, line.row.ratio["nn.Dropout"][0]) for line in section.lines] == [
        (CASE, "new", 0.6),
        (OTHER, "old", 0.7),
    ]
    assert section.title == "here, torch 2.13.0"
    assert section.open


def test_a_case_that_fails_now_is_failed_however_it_was_before() -> None:
    stored = Series("here", "2.13.0", {"old": of(CASE, 0.8), "new": of(CASE, None)})
    (line,) = overview.sections([stored], [], DATES)[0].lines
    assert (line.commit, line.row.note, line.row.ratio) == ("new", "failed", {})
    assert len(line.sparklines["nn.Dropout"].points) == 1


@pytest.mark.parametrize(("commit", "source"), [("old", "asv"), ("middle", "asv"), ("new", "record"), ("unknown", "asv")])
def test_a_record_is_shown_where_its_commit_is_newer(commit: str, source: str) -> None:
    stored = Series("here", "2.13.0", {"middle": of(CASE, 0.8)})
    rows = [Row(CASE, ratio={"nn.Dropout": (0.5, 0.4, 0.6)}), Row(OTHER, note="n/a: no GPU")]
    (section,) = overview.sections([stored], [Record("here", "2.13.0", commit, "record", rows)], DATES)
    (line,) = section.lines
    assert line.source == source
    assert "nn.Dropout" in line.sparklines
    assert line.links["nn.Dropout"].startswith(f"index.html#{NN}?")


def test_another_torch_or_machine_is_another_section_and_only_the_newest_and_records_are_open() -> None:
    stored = [Series("here", "2.12.0", {"old": of(CASE, 0.8)}), Series("here", "2.13.0", {"new": of(CASE, 0.8)})]
    record = Record("gpu", "2.13.0", "middle", "record", [Row(CASE, ratio={"copy": (0.5, 0.4, 0.6)})])
    sections = overview.sections(stored, [record], DATES)
    assert [(section.title, section.open) for section in sections] == [
        ("here, torch 2.13.0", True),
        ("gpu, torch 2.13.0", True),
        ("here, torch 2.12.0", False),
    ]


def test_the_headline_counts_cases_against_nn_dropout_alone() -> None:
    def line(ratio: float, low: float, high: float) -> Line:
        return Line(Row(CASE, ratio={"nn.Dropout": (ratio, low, high), "copy": (3.0, 2.9, 3.1)}), "new", "asv")

    lines = [line(2.0, 1.9, 2.1), line(1.0, 0.9, 1.1), line(0.5, 0.4, 0.6), line(0.1, 0.09, 0.2), line(0.2, 0.1, 0.3)]
    section = Section("", [*lines, Line(Row(OTHER, note="failed"), "new", "asv")], True)
    assert [section.count(standing) for standing in ("loses", "ties", "wins")] == [1, 1, 3]
    assert len(section.compared) == 5
    assert section.typical() == "2 times as fast"
    assert Section("", lines[:1], True).typical() == "2 times as slow"


def test_only_the_newest_commits_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "SHOWN", 2)
    stored = Series("here", "2.13.0", {commit: of(CASE, 0.8) for commit in DATES})
    (line,) = overview.sections([stored], [], DATES)[0].lines
    assert [point[0] for point in line.sparklines["nn.Dropout"].points] == ["middle", "new"]


# Slower than last week.


def pinned(levels: list[float], seconds_between: int) -> tuple[Series, dict[str, int]]:
    """The ratios of a case to the pinned version, a commit each, with noise of .1 %; and the commits' dates."""
    dates = {f"{number:08x}": number * seconds_between for number in range(len(levels))}
    entry = Entry("history.Pinned.track_over_pinned", (f"'{CASE}'",))
    noisy = [level * (1 + 0.001 * (-1) ** number) for number, level in enumerate(levels)]
    commits = {commit: {entry: Figure(level)} for commit, level in zip(dates, noisy, strict=True)}
    return Series("here", "2.13.0", commits), dates


@pytest.mark.parametrize(("hours", "count"), [(1, 1), (24 * 7, 0)])
def test_a_slowdown_counts_for_a_week(hours: int, count: int) -> None:
    commits, slower = overview.last_week(*pinned([1.0] * 8 + [1.1] * 4, 3600 * hours))
    assert (commits, len(slower)) == (12, count)
    for slowdown in slower:
        assert (slowdown.case, slowdown.commit) == (CASE, "00000008")
        assert slowdown.size == pytest.approx(0.1, abs=0.005)
        assert slowdown.link.startswith("index.html#history.Pinned.track_over_pinned?machine=here&torch=2.13.0&p-case=%27")


def test_what_became_faster_is_not_slower() -> None:
    assert overview.last_week(*pinned([1.0] * 8 + [0.9] * 4, 3600)) == (12, [])


def week(html: Path, series: Series, dates: dict[str, int]) -> str:
    """The text of the page for a series, with a case compared with nn.Dropout at its newest commit."""
    newest = list(dates)[-1]
    commits = {**series.commits, newest: {**series.commits[newest], **of(CASE, 0.8)}}
    assert overview.write(html, html.parent, [Series("here", "2.13.0", commits)], dates, ()) == []
    return Page((html / "overview.html").read_text(encoding="utf-8")).text


def test_the_headline_tells_slower_from_not_slower_from_unknown(published: Path) -> None:
    text = week(published, *pinned([1.0] * 8 + [1.1] * 4, 3600))
    assert "Faster than nn.Dropout in 1 of 1 cases 1.25 times as fast in the median case; slower in 0, undecided in 0" in text
    assert f"Slower than last week: {CASE} +10 % at 00000008" in text
    assert f"{CASE} ▲ slower than last week" in text
    assert "Slower than last week: no case, in 12 measured commits" in week(published, *pinned([1.0] * 12, 3600))
    text = week(published, *pinned([1.0] * 5, 3600))
    assert "unknown, 5 of at least 6 commits are measured. Measure more: python -m benchmarks run BASE..HEAD" in text
    assert "goal" not in text


def test_machines_stand_side_by_side_and_are_not_mixed(published: Path) -> None:
    slow = Series("slow machine", "2.13.0", {"new": of(CASE, 2.0)})
    page, _ = written(published, [Series("here", "2.13.0", {"new": of(CASE, 0.5)}), slow])
    assert "here, torch 2.13.0 Faster than nn.Dropout in 1 of 1 cases 2 times as fast" in page.text
    records = published.parent / "benchmarks" / "records"
    records.mkdir(parents=True)
    for name, ratio in (("here", 0.5), ("slow machine", 2.0), ("gpu", 0.25)):
        stored = {"machine": {"name": name}, "versions": {"torch": "2.13.0+cpu"}, "commit": "new", "dirty": False}
        stored["cases"] = {CASE: {"goal": [0.1, 0.1], "ratio": {"nn.Dropout": [ratio, ratio, ratio]}}}
        (records / f"{name}.json").write_text(json.dumps(stored))
    text = written(published, [slow])[0].text
    for title, count in (("here", 1), ("gpu", 1), ("slow machine", 0)):
        assert f"{title}, torch 2.13.0 Faster than nn.Dropout in {count} of 1 cases" in text


# The state of gate and checks.


def test_what_is_not_stored_is_said_with_the_command_that_makes_it(published: Path) -> None:
    page, errors = written(published)
    assert errors == []
    assert "No verdict is stored yet. Make one: python -m benchmarks compare BASE" in page.text
    assert "No state is stored yet. Make one: python -m benchmarks nightly" in page.text


def state(html: Path, **stored: object) -> None:
    (html.parent / ".asv").mkdir(exist_ok=True)
    for name, value in stored.items():
        (html.parent / ".asv" / f"{name}.json").write_text(value if isinstance(value, str) else json.dumps(value))


def test_verdict_and_checks_are_shown(published: Path) -> None:
    state(published, verdict=synthetic.VERDICT, law=synthetic.LAW | {"rejected": ["mean p=.5"]})
    page, errors = written(published)
    assert errors == []
    for words in ("REGRESSED", synthetic.VERDICT["line"], "working tree", "+30.0%", "+27.0% … +33.0%"):
        assert words in page.text
    assert "1 of 150 rejected mean p=.5 10 000 000 draws, seed 7," in page.text
    state(published, law=synthetic.LAW)
    assert "all 150 hold" in written(published)[0].text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("verdict", '{"version": 1, "verd', "is not JSON"),
        ("verdict", synthetic.VERDICT | {"verdict": "FINE"}, "FINE"),
        ("verdict", synthetic.VERDICT | {"version": 2}, "version 2"),
        ("verdict", synthetic.VERDICT | {"date": "yesterday"}, "yesterday"),
        ("verdict", synthetic.VERDICT | {"rows": [{"case": "x"}]}, "signal"),
        ("verdict", [], "TypeError"),
        ("law", {"version": 1}, "seed"),
        ("law", synthetic.LAW | {"version": 3}, "version 3"),
        ("law", "", "is not JSON"),
    ],
)
def test_a_broken_state_is_reported_on_the_page_and_returned(published: Path, name: str, content: object, words: str) -> None:
    state(published, **{name: content})
    page, (error,) = written(published)
    assert f"{name}.json" in error
    assert words in error
    assert "cannot be read." in page.text
    assert error.split()[0] in page.text


def test_a_broken_record_is_an_error(published: Path) -> None:
    records = published.parent / "benchmarks" / "records"
    records.mkdir(parents=True)
    (records / "here.json").write_text('{"version": 1}')
    with pytest.raises(BrokenResult, match=r"here\.json .*benchmarks record"):
        written(published)
    stored = {"machine": {"name": "here"}, "versions": {"torch": "2.13.0+cpu"}, "commit": "new", "dirty": True}
    stored["cases"] = {OTHER: {"goal": [None, None], "seconds": {"copy": 1e-6}, "ratio": {"copy": [2.0, 1.9, 2.1]}}}
    (records / "here.json").write_text(json.dumps(stored))
    page, _ = written(published)
    assert "new record, with uncommitted changes" in page.text
    assert page.text.count("Newest figures: here, torch 2.13.0") == 1


# The page.


def test_the_page_stands_alone_and_its_links_are_relative(published: Path) -> None:
    page, _ = written(published, lost=("f" * 40,))
    assert not page.all("script")
    assert [each["href"] for each in page.all("link")] == ["data:,"]
    links = [each["href"] for each in page.all("a")]
    assert f"index.html#{NN}?machine=here&torch=2.13.0&p-case=%27{CASE}%27" in links
    assert all(re.match(r"(index\.html)?#", link) for link in links), links
    assert not page.all("img")
    assert "url(" not in (published / "overview.html").read_text()
    assert "no longer in this history, and so not shown: ffffffff" in page.text


def test_tables_and_pictures_can_be_listened_to(published: Path) -> None:
    state(published, verdict=synthetic.VERDICT)
    page, _ = written(published)
    assert len(page.all("table")) == len(page.all("caption")) == 2
    assert all(each["scope"] in ("col", "row") for each in page.all("th"))
    assert all(each["role"] == "img" and each["aria-label"] for each in page.all("svg"))
    assert len(page.all("svg")) == 1
    assert page.all("html")[0]["lang"] == "en"
    assert page.all("meta")[1]["name"] == "viewport"


def test_whatever_is_stored_is_escaped(published: Path) -> None:
    evil = "<script>alert('x')</script>\"&"
    verdict = synthetic.VERDICT | {"line": evil}
    verdict["rows"] = [synthetic.VERDICT["rows"][0] | {"case": evil, "signal": evil, "verdict": evil}]
    state(published, verdict=verdict, law=synthetic.LAW | {"rejected": [evil], "commit": evil})
    page, errors = written(published, [Series(evil, evil, {"old": of(CASE, 0.8)})], lost=(evil,))
    assert errors == []
    assert not page.all("script")
    assert page.text.count("<script>alert('x')</script>\"&") >= 5
    assert all('"' not in each["href"] and "<" not in each["href"] for each in page.all("a"))
