"""The overview shows the newest figures, their trend, and what gate, checks and step detection say; and it stands alone."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import synthetic

from benchmarks.dashboard import overview
from benchmarks.dashboard.overview import Line, Record
from benchmarks.results.series import Series
from benchmarks.results.stored import BrokenResult, Entry, Figure
from benchmarks.results.tables import Row

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


ORDER = {"old": 0, "middle": 1, "new": 2}


class Page(HTMLParser):
    """All elements of a page, and proof that each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.inside == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.inside.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag

    def handle_data(self, data):
        if self.inside and self.inside[-1] not in ("style", "title"):
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """What asv publishes of a history without a regression, as far as the overview reads it."""
    index = {"revision_to_hash": {"3": "a" * 40, "7": "b" * 40}, "revision_to_date": {"3": 0, "7": 86_400_000}}
    benchmark = {"name": NN, "params": [[f"'{CASE}'", f"'{OTHER}'"]], "param_names": ["case"], "unit": "ratio"}
    time = {"name": "process.Start.timeraw_import", "params": [], "param_names": [], "unit": "seconds"}
    index["benchmarks"] = {NN: benchmark, time["name"]: time}
    html = tmp_path / "html"
    html.mkdir()
    (html / "index.json").write_text(json.dumps(index))
    (html / "regressions.json").write_text('{"regressions": []}')
    return html


def written(html: Path, stored: list[Series] | None = None, lost: tuple[str, ...] = ()) -> tuple[Page, list[str]]:
    """The page for some series, and what was complained about."""
    stored = [Series("here", "2.13.0", {"old": of(CASE, 0.8)})] if stored is None else stored
    complaints = overview.write(html, html.parent, stored, ORDER, lost)
    return Page((html / "overview.html").read_text(encoding="utf-8")), complaints


# The newest figures.


def test_each_case_is_shown_at_the_newest_commit_that_measured_it():
    stored = Series("here", "2.13.0", {"old": of(CASE, 0.8) | of(OTHER, 0.7), "new": of(CASE, 0.6) | of(OTHER, math.nan)})
    (section,) = overview.newest([stored], [], ORDER, [])
    assert [(line.row.case, line.commit, line.row.ratio["nn.Dropout"][0]) for line in section.lines] == [
        (CASE, "new", 0.6),
        (OTHER, "old", 0.7),
    ]
    assert section.title == "here, torch 2.13.0"
    assert section.open


def test_a_case_that_fails_now_is_failed_however_it_was_before():
    stored = Series("here", "2.13.0", {"old": of(CASE, 0.8), "new": of(CASE, None)})
    (line,) = overview.newest([stored], [], ORDER, [])[0].lines
    assert (line.commit, line.row.note, line.row.ratio) == ("new", "failed", {})
    assert len(line.trends["nn.Dropout"].points) == 1


@pytest.mark.parametrize(("commit", "source"), [("old", "asv"), ("middle", "asv"), ("new", "record"), ("unknown", "asv")])
def test_a_record_is_shown_where_its_commit_is_newer(commit, source):
    stored = Series("here", "2.13.0", {"middle": of(CASE, 0.8)})
    rows = [Row(CASE, ratio={"nn.Dropout": (0.5, 0.4, 0.6)}), Row(OTHER, note="n/a: no GPU")]
    (section,) = overview.newest([stored], [Record("here", "2.13.0", commit, "record", rows)], ORDER, [])
    (line,) = section.lines
    assert line.source == source
    assert "nn.Dropout" in line.trends
    assert line.links["nn.Dropout"].startswith(f"index.html#{NN}?")


def test_another_torch_or_machine_is_another_section_and_only_the_newest_and_records_are_open():
    stored = [Series("here", "2.12.0", {"old": of(CASE, 0.8)}), Series("here", "2.13.0", {"new": of(CASE, 0.8)})]
    record = Record("gpu", "2.13.0", "middle", "record", [Row(CASE, ratio={"copy": (0.5, 0.4, 0.6)})])
    sections = overview.newest(stored, [record], ORDER, [])
    assert [(section.title, section.open) for section in sections] == [
        ("here, torch 2.13.0", True),
        ("gpu, torch 2.13.0", True),
        ("here, torch 2.12.0", False),
    ]


def test_losses_ties_wins_and_missed_goals_are_counted():
    def line(ratio, low, high, goal):
        return Line(Row(CASE, ratio={"copy": (ratio, low, high)}, goal=(None, goal)), "new", "asv")

    lines = [line(2.0, 1.9, 2.1, 2.2), line(2.0, 1.9, 2.1, 1.5), line(1.0, 0.9, 1.1, None), line(0.5, 0.4, 0.6, 0.5)]
    section = overview.Section("", lines, True)
    assert [section.count(standing, "copy") for standing in ("loses", "ties", "wins")] == [2, 1, 1]
    assert section.count("wins", "nn.Dropout") == 0
    assert section.missed() == 1
    assert lines[0].goals() == [("≤ 2.2 copy", True)]
    assert lines[1].goals() == [("≤ 1.5 copy", False)]


def test_only_the_newest_commits_are_drawn(monkeypatch):
    monkeypatch.setattr(overview, "SHOWN", 2)
    stored = Series("here", "2.13.0", {commit: of(CASE, 0.8) for commit in ORDER})
    (line,) = overview.newest([stored], [], ORDER, [])[0].lines
    assert [point[0] for point in line.trends["nn.Dropout"].points] == ["middle", "new"]


# Steps.


def test_steps_are_read_from_what_asv_published(published):
    regressions = [
        [f"{NN}('{OTHER}')", "graphs/x.json", {"machine": "a b"}, 1, 0.2, 0.1, [[3, 7, 0.1, 0.2]]],
        ["process.Start.timeraw_import", "graphs/y.json", {}, None, 3e-3, 1e-3, [[None, 7, 1e-3, 3e-3]]],
        [f"{NN}('{CASE}')", "graphs/x.json", {}, 0, None, None, None],
    ]
    (published / "regressions.json").write_text(json.dumps({"regressions": regressions}))
    worst, other = overview.published_steps(published)
    assert (worst.name, worst.before, worst.after, worst.factor) == ("process.Start.timeraw_import", "1.00 ms", "3.00 ms", 3)
    assert worst.link == "index.html#process.Start.timeraw_import?commits=bbbbbbbb"
    assert (worst.commits, worst.date) == ("bbbbbbbb", "1970-01-02")
    assert other.link == f"index.html#{NN}?machine=a%20b&p-case=%27{OTHER}%27&commits=aaaaaaaa-bbbbbbbb"
    assert (other.before, other.after, other.commits) == ("0.1", "0.2", "aaaaaaaa … bbbbbbbb")
    page, _ = written(published, [Series("here", "2.13.0", {"old": of(CASE, 0.8) | of(OTHER, 0.2)})])
    assert "2 slower worst: process.Start.timeraw_import , × 3.00" in page.text.replace("import,", "import ,")
    assert f"{OTHER} ▲ slower" in page.text
    assert f"{CASE} ▲" not in page.text


def test_a_history_too_short_for_steps_is_not_called_good(published):
    assert "No step can be seen in 1 measured commit." in written(published)[0].text
    stored = Series("here", "2.13.0", {commit: of(CASE, 0.8) for commit in ORDER})
    assert "No benchmark has become slower and stayed so." in written(published, [stored])[0].text


# The state of gate and checks.


def test_what_is_not_stored_is_said_with_the_command_that_makes_it(published):
    page, complaints = written(published)
    assert complaints == []
    assert "No verdict is stored yet. Make one: python -m benchmarks compare BASE" in page.text
    assert "No state is stored yet. Make one: python -m benchmarks nightly" in page.text


def state(html: Path, **stored: object) -> None:
    (html.parent / ".asv").mkdir(exist_ok=True)
    for name, value in stored.items():
        (html.parent / ".asv" / f"{name}.json").write_text(value if isinstance(value, str) else json.dumps(value))


def test_verdict_and_checks_are_shown(published):
    state(published, verdict=synthetic.VERDICT, law=synthetic.LAW | {"rejected": ["mean p=.5"]})
    page, complaints = written(published)
    assert complaints == []
    for words in ("REGRESSED", synthetic.VERDICT["line"], "working tree", "+30.0%", "+27.0% … +33.0%"):
        assert words in page.text
    assert "1 of 150 rejected mean p=.5 10 000 000 draws, seed 7," in page.text
    state(published, law=synthetic.LAW)
    assert "all 150 hold" in written(published)[0].text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("verdict", '{"version": 1, "verd', "is no JSON"),
        ("verdict", synthetic.VERDICT | {"verdict": "FINE"}, "FINE"),
        ("verdict", synthetic.VERDICT | {"version": 2}, "version 2"),
        ("verdict", synthetic.VERDICT | {"date": "yesterday"}, "yesterday"),
        ("verdict", synthetic.VERDICT | {"rows": [{"case": "x"}]}, "signal"),
        ("verdict", [], "TypeError"),
        ("law", {"version": 1}, "seed"),
        ("law", synthetic.LAW | {"version": 3}, "version 3"),
        ("law", "", "is no JSON"),
    ],
)
def test_a_broken_state_is_said_on_the_page_and_given_back(published, name, content, words):
    state(published, **{name: content})
    page, (complaint,) = written(published)
    assert f"{name}.json" in complaint
    assert words in complaint
    assert "cannot be read." in page.text
    assert complaint.split()[0] in page.text


def test_a_broken_record_is_an_error(published):
    records = published.parent / "benchmarks" / "records"
    records.mkdir(parents=True)
    (records / "here.json").write_text('{"version": 1}')
    with pytest.raises(BrokenResult, match=r"here\.json .*run --record"):
        written(published)
    stored = {"machine": {"name": "here"}, "versions": {"torch": "2.13.0+cpu"}, "commit": "new", "dirty": True}
    stored["cases"] = {OTHER: {"goal": [None, None], "seconds": {"copy": 1e-6}, "ratio": {"copy": [2.0, 1.9, 2.1]}}}
    (records / "here.json").write_text(json.dumps(stored))
    page, _ = written(published)
    assert "new record, with uncommitted changes" in page.text
    assert page.text.count("Newest figures: here, torch 2.13.0") == 2


# The page.


def test_the_page_stands_alone_and_its_links_are_relative(published):
    page, _ = written(published, lost=("f" * 40,))
    assert not page.all("script")
    assert [each["href"] for each in page.all("link")] == ["data:,"]
    links = [each["href"] for each in page.all("a")]
    assert f"index.html#{NN}?machine=here&torch=2.13.0&p-case=%27{CASE}%27" in links
    assert all(re.match(r"(index\.html)?#", link) for link in links), links
    assert not page.all("img")
    assert "url(" not in (published / "overview.html").read_text()
    assert "no longer in this history, and so not shown: ffffffff" in page.text


def test_tables_and_pictures_can_be_listened_to(published):
    state(published, verdict=synthetic.VERDICT)
    page, _ = written(published)
    assert len(page.all("table")) == len(page.all("caption")) == 2
    assert all(each["scope"] in ("col", "row") for each in page.all("th"))
    assert all(each["role"] == "img" and each["aria-label"] for each in page.all("svg"))
    assert len(page.all("svg")) == 1
    assert page.all("html")[0]["lang"] == "en"
    assert page.all("meta")[1]["name"] == "viewport"


def test_whatever_is_stored_is_escaped(published):
    evil = "<script>alert('x')</script>\"&"
    verdict = synthetic.VERDICT | {"line": evil}
    verdict["rows"] = [synthetic.VERDICT["rows"][0] | {"case": evil, "signal": evil, "verdict": evil}]
    state(published, verdict=verdict, law=synthetic.LAW | {"rejected": [evil], "commit": evil})
    (published / "regressions.json").write_text(
        json.dumps({"regressions": [[f"{NN}('{evil}')", "x", {evil: evil}, 0, 2, 1, [[3, 7, 1, 2]]]]})
    )
    page, complaints = written(published, [Series(evil, evil, {"old": of(CASE, 0.8)})], lost=(evil,))
    assert complaints == []
    assert not page.all("script")
    assert page.text.count("<script>alert('x')</script>\"&") >= 6
    assert all('"' not in each["href"] and "<" not in each["href"] for each in page.all("a"))
