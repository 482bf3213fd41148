"""The commands: a failed or missing measurement is a failure, and the table says who wins."""

import argparse
import io
import json
import math
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.commands import run
from benchmarks.results import record
from benchmarks.results import stored as results
from benchmarks.results import tables as table
from benchmarks.results.stored import Entry, Figure
from benchmarks.results.tables import Row
from benchmarks.system import machine
from benchmarks.system.units import format_seconds

COLUMNS = [
    "result",
    "params",
    "version",
    "started_at",
    "duration",
    "stats_ci_99_a",
    "stats_ci_99_b",
    "stats_q_25",
    "stats_q_75",
]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CASE = "8x16-f32-fwd"
TIME, RATIO = "speed.Small.time_step", "speed.Ratio.track_over_copy"


@pytest.fixture
def stored(tmp_path):
    """A folder of asv results: a case measured, one that is n/a, one that failed."""
    cases = [f"'{CASE}'", "'cuda-8x16-f32-fwd'", "'8x16-f32-eval'"]
    benchmarks = {
        TIME: {"params": [cases, ["'TailDropout'", "'copy'"]], "version": "1"},
        RATIO: {"params": [cases], "version": "1"},
        "process.Peak.peakmem_step": {"params": [], "version": "1"},
        "version": 2,
    }
    nan = math.nan
    values = {
        TIME: [[2e-6, 1e-6, nan, nan, None, 1e-6], benchmarks[TIME]["params"], "1"],
        RATIO: [[2.0, nan, None], [cases], "1", 0, 0, None, None, [1.9, None, None], [2.1, None, None]],
        "process.Peak.peakmem_step": [[600e6], [], "1"],
    }
    (tmp_path / "benchmarks.json").write_text(json.dumps(benchmarks))
    (tmp_path / "here").mkdir()
    file = tmp_path / "here" / f"{COMMIT[:8]}-env.json"
    file.write_text(json.dumps({"result_columns": COLUMNS, "results": values}))
    return tmp_path


def read(folder: Path) -> dict[Entry, Figure]:
    return results.read(COMMIT, "here", results.entries(folder), folder)


def test_entries_are_the_product_of_the_parameters(stored):
    entries = results.entries(stored)
    assert len(entries) == 3 * 2 + 3 + 1
    assert str(Entry(TIME, (f"'{CASE}'", "'copy'"))) == f"{TIME}('{CASE}', 'copy')"
    assert str(Entry("process.Peak.peakmem_step")) == "process.Peak.peakmem_step"


def test_what_asv_stored_is_read(stored):
    found = read(stored)
    assert found[Entry(RATIO, (f"'{CASE}'",))] == Figure(2.0, 1.9, 2.1)
    assert found[Entry("process.Peak.peakmem_step")].value == 600e6
    assert not found[Entry(RATIO, ("'cuda-8x16-f32-fwd'",))].measured
    assert Entry(RATIO, ("'8x16-f32-eval'",)) not in found


def test_a_figure_of_an_older_version_of_its_benchmark_is_not_read(stored):
    versions = dict.fromkeys(results.entries(stored), "2")
    assert results.read(COMMIT, "here", versions, stored) == {}
    assert results.read("f" * 40, "here", results.entries(stored), stored) == {}


def test_rows_tell_measured_from_failed_from_not_available(stored):
    found = read(stored)
    measured, absent, failed = results.rows(found, [CASE, "cuda-8x16-f32-fwd", "8x16-f32-eval"], results.entries(stored))
    assert measured.seconds == {"TailDropout": 2e-6, "copy": 1e-6}
    assert measured.ratio == {"copy": (2.0, 1.9, 2.1)}
    assert absent.note == "n/a"
    assert set(absent.cells()[1:6]) == {"n/a"}
    assert failed.note == "failed"
    assert failed.cells()[1] == "failed"


def test_a_failed_benchmark_makes_the_run_fail(stored, capsys):
    assert run.judge(COMMIT, results.entries(stored), read(stored)) == 1
    assert f"{RATIO}('8x16-f32-eval')" in capsys.readouterr().err


def test_a_run_that_measured_nothing_fails(capsys):
    entry = Entry(TIME, (f"'{CASE}'", "'copy'"))
    assert run.judge(COMMIT, [entry], {entry: Figure(math.nan)}) == 2
    assert "Nothing was measured" in capsys.readouterr().err
    assert run.judge(COMMIT, [entry], {}) == 1
    assert run.judge(COMMIT, [entry], {entry: Figure(1e-6)}) == 0


def test_many_failures_are_not_all_listed(capsys):
    run.judge(COMMIT, [Entry(TIME, (str(number),)) for number in range(50)], {})
    assert f"and {50 - run.MAX_NAMED} more" in capsys.readouterr().err


def arguments(*words: str) -> argparse.Namespace:
    return command.parser("run").parse_args(["run", *words])


def test_an_unknown_case_names_those_near_it(capsys):
    assert command.main(["run", "--case", "8x16-f32-forward"]) == 2
    message = capsys.readouterr().err
    assert "no case '8x16-f32-forward'" in message
    assert CASE in message


def test_an_unknown_commit_is_refused():
    with pytest.raises(run.CannotMeasure, match="names no commit"):
        run.resolve("no-such-branch")


def test_cases_are_selected_by_profile_device_and_name():
    quick, full = run.select(arguments()), run.select(arguments("--profile", "full"))
    assert set(quick) < set(full)
    assert all(name.startswith("cuda-") for name in run.select(arguments("--device", "cuda")))
    assert run.select(arguments("--case", "8x16-f32-eval")) == ["8x16-f32-eval"]


def test_entries_are_selected_as_the_cases_are(monkeypatch):
    names = [CASE, "cuda-8x16-f32-fwd"]
    time, cuda = Entry(TIME, (f"'{CASE}'", "'copy'")), Entry(TIME, ("'cuda-8x16-f32-fwd'", "'copy'"))
    bytes_of = Entry("counts.Memory.track_saved", ("'8192x768-bf16-train'",))
    memory, quality = Entry("process.Peak.peakmem_step"), Entry("quality.Quality.track_mlp_test_error")
    monkeypatch.setattr(run, "has_cuda", lambda: False)
    chosen = [entry for entry in (time, cuda, bytes_of, memory, quality) if run.wanted(entry, arguments(), names)]
    assert chosen == [time, memory, quality], "learning is looked at for every commit, as speed is"
    assert run.wanted(bytes_of, arguments("--profile", "full"), names)
    assert not run.wanted(memory, arguments("--case", CASE), names)
    monkeypatch.setattr(run, "has_cuda", lambda: True)
    assert run.wanted(cuda, arguments(), names)


def test_measuring_starts_only_what_a_commit_lacks(stored, monkeypatch):
    monkeypatch.setattr(results.read, "__defaults__", (stored,))
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(run, "asv", lambda *words: started.append(words) or 0)
    versions = results.entries(stored)
    console = run.Console(quiet=True)
    run.measure(COMMIT, "here", list(versions), versions, False, console)
    (words,) = started
    assert [word for word in words if word.startswith("--bench")] == [
        r"--bench=^speed\.Small\.time_step\('8x16\-f32\-eval',\ 'TailDropout'\)$",
        r"--bench=^speed\.Ratio\.track_over_copy\('8x16\-f32\-eval'\)$",
    ]
    run.measure(COMMIT, "here", list(versions), versions, True, console)
    assert sum(word.startswith("--bench") for word in started[1]) == len(versions)


def test_the_table_marks_losses_and_what_is_undecided():
    assert table.spread(1.5, 1.4, 1.6).endswith("✗")
    assert table.spread(1.02, 0.98, 1.05).endswith("~")
    assert table.spread(0.5, 0.4, 0.6) == "0.5 [0.4, 0.6]"
    assert Row(CASE, ratio={"copy": (1.5, 1.4, 1.6)}).loses()
    assert not Row(CASE, ratio={"copy": (0.5, 0.4, 0.6)}).loses()


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.0, "2.00 s"), (0.0123, "12.3 ms"), (4e-4, "400 µs"), (1.234e-6, "1.23 µs"), (5e-9, "5 ns")]
)
def test_durations_have_three_digits(seconds, text):
    assert format_seconds(seconds) == text


def test_the_terminal_shows_brackets_and_all_columns():
    row = Row(CASE, {"TailDropout": 1e-6, "nn.Dropout": 2e-6, "copy": 1e-6}, {"copy": (1.0, 0.9, 1.1)}, (0.9, None))
    console = run.Console(width=160, file=io.StringIO())
    console.print(table.render([row], "title"))
    text = console.file.getvalue()
    for expected in (CASE, "1 [0.9, 1.1] ~", "≤ 0.9 nn", "median [quartiles]"):
        assert expected in text


RECORD = {
    "version": 1,
    "machine": {"name": "here", "cpu": "Some CPU", "cores": "2"},
    "versions": {"torch": "2.13.0"},
    "commit": COMMIT,
    "dirty": False,
    "date": "2026-11-21T00:00:00+00:00",
    "cases": {
        CASE: {"goal": [0.9, 1.5], "seconds": {"copy": 1e-6}, "ratio": {"copy": [2.0, 1.9, 2.1]}},
        "gone": {"goal": [None, None], "note": "n/a: no GPU"},
    },
}


def test_the_readme_table_is_written_between_its_markers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(table, "RECORDS", tmp_path)
    monkeypatch.setattr(table, "tables", lambda: {"speed": table.speed()})
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- table:speed -->\nold\n<!-- /table:speed -->\nafter\n")
    words = ["table", "--file", str(readme)]
    assert command.main(words) == 2
    record.store(RECORD, tmp_path)
    assert command.main([*words, "--check"]) == 1
    assert command.main(words) == 0
    assert command.main([*words, "--check"]) == 0
    text = readme.read_text()
    assert text.startswith("before\n<!-- table:speed -->\n**Some CPU, 2 cores; torch 2.13.0; commit 01234567; 2026-11-21**")
    assert text.endswith("<!-- /table:speed -->\nafter\n")
    assert "2 [1.9, 2.1] ✗" in text
    assert "| ≤ 0.9 nn, ≤ 1.5 copy (missed) |" in text
    assert "n/a: no GPU" in text
    assert "old" not in text
    readme.write_text(f"{text}<!-- table:moons -->\n<!-- /table:moons -->")
    assert command.main([*words, "--check"]) == 2
    assert "nothing stored fills the table(s) moons" in capsys.readouterr().err
    readme.write_text("no markers")
    assert command.main(words) == 2
    assert "once each" in capsys.readouterr().err


def test_a_record_measures_in_this_process_and_a_broken_case_is_a_failure(monkeypatch, tmp_path):
    found = record.measure([CASE, "cuda-8x16-f32-fwd"], __import__("taildropout"), 0.02, run.Console(quiet=True))
    assert set(found[CASE]["seconds"]) == {"TailDropout", "nn.Dropout", "copy", "original"}
    median, low, high = found[CASE]["ratio"]["nn.Dropout"]
    assert 0 < low <= median <= high
    from benchmarks.suite import cases

    monkeypatch.setattr(cases, "make", lambda *_: 1 / 0)
    broken = record.measure_case(CASE, __import__("taildropout"), 0.02)
    assert broken["note"] == "failed"
    assert "ZeroDivisionError" in broken["error"]
    monkeypatch.setattr(record, "with_environment", lambda: None)
    monkeypatch.setattr(run, "RECORDS", tmp_path)
    assert command.main(["run", "--record", "--case", CASE]) == 1
    assert not list(tmp_path.iterdir())


def test_a_record_replaces_the_former_one_whole(tmp_path):
    record.store(RECORD, tmp_path)
    file = record.store(RECORD | {"dirty": True}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["here.json"]
    assert json.loads(file.read_text())["dirty"] is True


def test_a_machine_has_a_name_for_files():
    assert machine.name() == machine.describe()["name"]
    assert machine.name().replace("-", "").isalnum()


def test_an_interruption_says_that_it_can_go_on(monkeypatch, capsys):
    def interrupted(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "main", interrupted)
    assert command.main(["run"]) == 130
    assert "What was stored before is kept" in capsys.readouterr().err
