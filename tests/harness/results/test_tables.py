"""The tables: marks for rivals alone, a copy as the limit, and pages filled between their markers."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import __main__ as command
from benchmarks.results import records, speed_table, tables
from benchmarks.results.speed_table import Row
from benchmarks.results.stored import BrokenResult
from benchmarks.system.units import format_bytes, format_minutes, format_seconds

TODAY = Path(__file__).parent / "today" / "record.json"
CASE = "8x16-f32-fwd"
RECORD: dict[str, Any] = {
    "version": 1,
    "machine": {"name": "here", "cpu": "Some CPU", "cores": "2"},
    "versions": {"torch": "2.13.0"},
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
    "date": "2026-11-21T00:00:00+00:00",
    "cases": {
        "8x16-f32-train": {
            "goal": [0.9, 1.5],
            "seconds": {"TailDropout": 2e-6, "copy": 1e-6},
            "ratio": {"nn.Dropout": [1.2, 1.1, 1.3], "copy": [2.0, 1.9, 2.1], "original": [1.5, 1.4, 1.6]},
        },
        "gone": {"goal": [None, None], "note": "n/a: no GPU"},
    },
}


@pytest.mark.parametrize(
    ("quartiles", "standing", "text"),
    [
        ((1.5, 1.4, 1.6), "loses", "1.5 [1.4, 1.6] ✗"),
        ((1.02, 0.98, 1.05), "ties", "1.02 [0.98, 1.05] ~"),
        ((0.5, 0.4, 0.6), "wins", "0.5 [0.4, 0.6]"),
    ],
)
def test_only_a_rival_is_lost_to(quartiles: tuple[float, float, float], standing: str, text: str) -> None:
    row = Row(CASE, ratio={"nn.Dropout": quartiles, "copy": quartiles, "original": quartiles})
    assert row.standing() == standing
    assert row.compared("nn.Dropout") == row.compared("original") == text
    assert row.compared("copy") == text.removesuffix("✗").removesuffix("~").strip()
    assert Row(CASE).standing() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2.0, "2.00 s"),
        (0.0123, "12.3 ms"),
        (4e-4, "400 µs"),
        (1.234e-6, "1.23 µs"),
        (5e-9, "5 ns"),
        (0.9996, "1.00 s"),
        (999.9e-6, "1.00 ms"),
        (1200.4, "1200 s"),
    ],
)
def test_times_have_three_digits(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1023 << 10, "1023 KiB"), (3 << 19, "1.5 MiB")]
)
def test_bytes_have_three_digits_and_a_unit(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "10 s"), (41, "50 s"), (51, "1 min"), (61, "2 min"), (3600, "60 min")])
def test_an_estimate_is_rounded_up(seconds: float, text: str) -> None:
    assert format_minutes(seconds) == text


def test_the_terminal_shows_brackets_and_no_goal() -> None:
    row = Row(CASE, {"TailDropout": 1e-6, "nn.Dropout": 2e-6}, {"nn.Dropout": (1.0, 0.9, 1.1)}, (0.9, None))
    console = Console(width=160, file=io.StringIO())
    console.print(speed_table.render([row], "title"))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in (CASE, "1 [0.9, 1.1] ~", "/ copy", "median [quartiles]", "not measured"):
        assert expected in text
    assert "≤" not in text


def test_a_record_of_november_2026_still_loads() -> None:
    record = records.read(TODAY)
    rows = speed_table.record_rows(record)
    assert [row.standing() for row in rows] == ["ties", "wins", "wins", "wins", ""]
    assert "| 8x16-f32-eval | 1.98 µs | 3.12 µs | 2.43 µs | 0.633 [0.627, 0.64] | 2.21 [2.19, 2.23] ✗ | 0.813" in (
        speed_table.full(record)
    )
    assert "AMD EPYC, 2 cores" in speed_table.short(record)


def test_the_table_for_the_docs_shows_the_original_and_the_goals() -> None:
    text = speed_table.full(RECORD)
    assert text.startswith("**Some CPU, 2 cores; torch 2.13.0; commit 01234567; 2026-11-21**\n\n| case |")
    assert (
        "| 1.2 [1.1, 1.3] ✗ | 1.5 [1.4, 1.6] ✗ | 2 [1.9, 2.1] | ≤ 0.9 of nn.Dropout (missed), ≤ 1.5 of a copy (missed) |"
        in text
    )
    assert "n/a: no GPU" in text


def test_costs_on_a_gpu_have_a_table_of_their_own() -> None:
    costs = {"launches": 2, "share of it": 0.934, "bytes a second of copy": 4.3e12, "saved bytes": 65536}
    stored = {"goal": [None, 0.8], "costs": costs}
    text = speed_table.costs({"cases": {"cuda-16384x4096-f32-fwd": stored, CASE: {"goal": [None, None]}}})
    row = next(line for line in text.splitlines() if line.startswith("| cuda"))
    assert row == "| cuda-16384x4096-f32-fwd | 4300 GB/s | 93% | 2 | 65,536 B |  |  |  |"
    assert speed_table.costs({"cases": {CASE: {"goal": [None, None]}}}) == ""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of records."""
    monkeypatch.setattr(records, "FOLDER", tmp_path / "records")
    return tmp_path / "records"


def test_the_readme_has_six_rows_of_the_newest_processor_and_no_goal(folder: Path) -> None:
    records.store(RECORD, folder)
    records.store(RECORD | {"machine": {"name": "older", "cpu": "Old CPU", "cores": "1"}, "date": "2026-10-01"}, folder)
    gpu = {"name": "gpu", "cpu": "CPU", "cores": "1", "gpu": "A GPU"}
    records.store(RECORD | {"machine": gpu, "date": "2026-12-01"}, folder)
    text = tables.speed_short()
    assert text.startswith("**Some CPU, 2 cores; ")
    assert len([line for line in text.splitlines() if line.startswith("|")]) == 2 + 6
    assert "| forward and backward, (8, 16), float32 | 2.00 µs | n/a | 1.2 ✗ | 2 |" in text
    assert "≤" not in text


def test_machines_are_tables_of_their_own(folder: Path) -> None:
    records.store(RECORD, folder)
    records.store(RECORD | {"machine": {"name": "other", "cpu": "Other CPU", "cores": "4"}}, folder)
    text = tables.speed()
    assert text.index("**Some CPU, 2 cores") < text.index("**Other CPU, 4 cores")
    assert text.count("| 8x16-f32-train |") == 2


def test_every_short_row_is_a_case_of_the_suite() -> None:
    from benchmarks.suite.cases import CASES

    assert set(speed_table.SHORT) <= set(CASES)
    assert len(speed_table.SHORT) == 6


def test_pages_are_filled_between_their_markers(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme, page = tmp_path / "README.md", tmp_path / "page.md"
    readme.write_text("before\n<!-- table:speed-short -->\nold\n<!-- /table:speed-short -->\nafter\n")
    page.write_text("<!-- table:speed -->\n<!-- /table:speed -->\n\n<!-- table:moons -->\n<!-- /table:moons -->")
    args = ["table", "--file", str(readme), "--file", str(page)]
    assert command.main(args) == 2
    assert "Could not write the tables: no record is stored; make one: python -m benchmarks record" in capsys.readouterr().err
    records.store(RECORD, folder)
    assert command.main([*args, "--check"]) == 1
    assert "README.md differs from the stored records" in capsys.readouterr().err
    assert command.main(args) == 0
    assert "3 tables on 2 pages, 2 of the pages changed" in capsys.readouterr().out
    assert command.main([*args, "--check"]) == 0
    text = readme.read_text()
    assert text.startswith("before\n<!-- table:speed-short -->\n**Some CPU, 2 cores;")
    assert text.endswith("<!-- /table:speed-short -->\nafter\n")
    assert "old" not in text
    assert (tables.FINDINGS / "moons.md").read_text().strip() in page.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "<!-- table:no-such -->\n<!-- /table:no-such -->",
            "no result is stored for the table no-such; run the example no-such",
        ),
        ("<!-- table:gate -->\n", "each table needs"),
        ("<!-- /table:gate -->\n<!-- table:gate -->\n", "each table needs"),
        ("<!-- table:gate -->\n<!-- /table:gate -->\n" * 2, "once a page"),
        ("no marker", "no page has a marker"),
    ],
)
def test_a_page_that_cannot_be_filled_is_named(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert command.main(["table", "--file", str(page)]) == 2
    assert message in capsys.readouterr().err
    assert page.read_text() == text


def test_readme_and_all_pages_of_the_docs_are_filled(tmp_path: Path) -> None:
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    files = [tmp_path / name for name in ("README.md", "docs/b.md", "docs/deep/a.md")]
    for file in files:
        file.touch()
    assert tables.pages(tmp_path) == files


def test_a_record_replaces_the_former_one_of_its_machine_whole(tmp_path: Path) -> None:
    records.store(RECORD, tmp_path)
    file = records.store(RECORD | {"dirty": True}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["here.json"]
    assert json.loads(file.read_text())["dirty"] is True


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 1}'])
def test_a_broken_record_is_named_with_the_command_that_makes_it_again(tmp_path: Path, content: str) -> None:
    (tmp_path / "here.json").write_text(content)
    with pytest.raises(BrokenResult, match=r"here\.json .*python -m benchmarks record"):
        records.read_all(tmp_path)
