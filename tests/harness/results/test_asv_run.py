"""The command `run`: a failed or missing measurement is a failure, only what is missing is measured, and output is short."""

import io
import json
import math
from pathlib import Path
from typing import TypeAlias

import pytest
from rich.console import Console

from benchmarks import __main__ as command
from benchmarks.commands import run
from benchmarks.results import asv_run, choice, pinned, stored
from benchmarks.results.asv_run import Choice, SuiteRun
from benchmarks.results.progress import ProgressLine
from benchmarks.results.stored import Entry, Figure
from benchmarks.system import machine
from benchmarks.system.errors import CannotMeasure

COMMIT = "714501d2a203547112bb501dc75c137b230bfb05"
CASE = "8x16-f32-train"
TIME, RATIO = "speed.Small.time_step", "speed.Ratio.track_over_copy"
Capture: TypeAlias = pytest.CaptureFixture[str]
Patch: TypeAlias = pytest.MonkeyPatch


def read(folder: Path) -> dict[Entry, Figure]:
    return stored.read(COMMIT, "here", stored.entries(folder), folder)


def test_a_failed_benchmark_makes_the_run_fail(results: Path) -> None:
    code, message = asv_run.judge(COMMIT, stored.entries(results), read(results))
    assert code == 1
    assert f"{RATIO}('8x16-f32-eval')" in message


def test_a_run_without_any_measurement_fails() -> None:
    entry = Entry(TIME, (f"'{CASE}'", "'copy'"))
    assert asv_run.judge(COMMIT, [entry], {entry: Figure(math.nan)}) == (
        2,
        f"Nothing was measured on {COMMIT[:8]}: every figure is n/a.",
    )
    assert asv_run.judge(COMMIT, [entry], {})[0] == 1
    assert asv_run.judge(COMMIT, [entry], {entry: Figure(1e-6)}) == (0, "")


def test_of_many_failures_only_the_first_are_listed() -> None:
    _, message = asv_run.judge(COMMIT, [Entry(TIME, (str(number),)) for number in range(50)], {})
    assert f"and {50 - asv_run.MAX_NAMED} more" in message
    assert len(message.splitlines()) == asv_run.MAX_NAMED + 2


def test_an_unknown_case_is_refused_with_similar_names(capsys: Capture) -> None:
    assert command.main(["run", "--case", "8x16-f32-training"]) == 2
    message = capsys.readouterr().err
    assert "Could not measure: there is no case '8x16-f32-training'" in message
    assert CASE in message
    assert len(message.splitlines()) == 1


def test_an_unknown_commit_is_refused() -> None:
    with pytest.raises(CannotMeasure, match="names no commit"):
        asv_run.resolve("no-such-branch")


def test_cases_are_selected_by_profile_device_and_name() -> None:
    quick, full = choice.select(None, "quick", None), choice.select(None, "full", None)
    assert set(quick) < set(full)
    assert all(name.startswith("cuda-") for name in choice.select(None, "quick", "cuda"))
    assert choice.select(["8x16-f32-eval"], "quick", None) == ["8x16-f32-eval"]
    assert choice.select(["8x16-f32-eval"], "quick", "cuda") == []


def test_entries_are_selected_as_the_cases_are(monkeypatch: Patch) -> None:
    names = [CASE, "cuda-8x16-f32-fwd"]
    time, cuda = Entry(TIME, (f"'{CASE}'", "'copy'")), Entry(TIME, ("'cuda-8x16-f32-fwd'", "'copy'"))
    saved = Entry("counts.Memory.track_saved", ("'8192x768-bf16-train'",))
    memory, quality = Entry("process.Peak.peakmem_step"), Entry("quality.Quality.track_mlp_test_error")
    monkeypatch.setattr(asv_run, "has_cuda", lambda: False)
    chosen = [entry for entry in (time, cuda, saved, memory, quality) if Choice(names).wants(entry)]
    assert chosen == [time, memory, quality], "learning is measured for every commit, as speed is"
    assert Choice(names, "full").wants(saved)
    assert not Choice(names, only_cases=True).wants(memory)
    monkeypatch.setattr(asv_run, "has_cuda", lambda: True)
    assert Choice(names).wants(cuda)


def quiet() -> ProgressLine:
    return ProgressLine(Console(quiet=True))


def test_measuring_starts_only_what_a_commit_lacks(results: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(stored.read, "__defaults__", (results,))
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(SuiteRun, "asv", lambda self, *args, **chunk: started.append(args) or (0, ""))  # type: ignore[func-returns-value]
    versions = stored.entries(results)
    suite = SuiteRun(Choice([CASE]), quiet(), machine="here", asked=list(versions), versions=versions)
    suite.measure(COMMIT, "title")
    (args,) = started
    assert [arg for arg in args if arg.startswith("--bench")] == [
        r"--bench=^speed\.Small\.time_step\('8x16\-f32\-eval',\ 'TailDropout'\)$",
        r"--bench=^speed\.Ratio\.track_over_copy\('8x16\-f32\-eval'\)$",
    ]
    suite.again = True
    suite.measure(COMMIT, "title")
    assert sum(arg.startswith("--bench") for arg in started[1]) == len(versions)


# How it prints: `make bench` on a commit, with an asv that prints what the real one does and stores figures.


FAKE_ASV = """
import json, os, re, sys
from pathlib import Path
results, broken = Path(os.environ["FAKE_RESULTS"]), os.environ.get("FAKE_BROKEN", "")
patterns = [arg.removeprefix("--bench=") for arg in sys.argv if arg.startswith("--bench=")]
if "machine" in sys.argv:
    print("· No information stored about machine 'vm'. I know about nothing.")
elif not patterns:
    print("· Creating environments\\n· Discovering benchmarks\\n·· Building for virtualenv-py3.11")
else:
    described = json.loads((results / "benchmarks.json").read_text())
    names = [name for name in described if any(re.escape(name) in pattern for pattern in patterns)]
    file = next((results / "machine").glob("*-env.json"), None)
    stored = json.loads(file.read_text()) if file else {"results": {}}
    print(f"· Running {len(names)} total benchmarks")
    for number, name in enumerate(names, 1):
        share = f"[{100 * number / len(names):.2f}%]"
        failed = name == broken
        print(f"{share} ··· {name}      {'failed' if failed else 'ok'}")
        for _ in range(12):
            print(f"{share} ··· a line of a table, or a message" + (" of a failure" if failed else ""))
        params = described[name]["params"]
        count = 1
        for values in params:
            count *= len(values)
        number_of = None if failed else 0.5
        stored["results"][name] = [[number_of] * count, params, described[name]["version"]]
    stored |= {"commit_hash": os.environ["FAKE_COMMIT"], "params": {"torch": "2.13.0"}}
    stored["result_columns"] = ["result", "params", "version"]
    (results / "machine").mkdir(exist_ok=True)
    (results / "machine" / f"{os.environ['FAKE_COMMIT'][:8]}-env.json").write_text(json.dumps(stored))
"""


@pytest.fixture
def faked(tmp_path: Path, monkeypatch: Patch) -> Path:
    """`run` with a faked asv, which measures the quick cases of the real suite, and without an environment."""
    from benchmarks.suite import cases, speed

    folder = tmp_path / "results"
    folder.mkdir()
    names = [f"'{name}'" for name in cases.names(quick=True, device="cpu")]
    layers = [f"'{layer}'" for layer in cases.LAYERS]
    suite: dict[str, list[list[str]]] = {
        "speed.Ratio.track_over_copy": [names],
        "speed.Ratio.track_over_nn_dropout": [names],
        "history.Pinned.track_over_pinned": [names],
        "process.Peak.peakmem_step": [],
    }
    for kind in (speed.Small, speed.Large, speed.Models):
        params = [[name for name in names if name.strip("'") in kind.params[0]], layers]
        suite[f"speed.{kind.__name__}.time_step"] = params
    described = {name: {"name": name, "params": params, "version": "1"} for name, params in suite.items()}
    (folder / "benchmarks.json").write_text(json.dumps(described | {"version": 2}))
    (tmp_path / "asv.py").write_text(FAKE_ASV)
    monkeypatch.setenv("FAKE_RESULTS", str(folder))
    monkeypatch.setenv("FAKE_COMMIT", COMMIT)
    monkeypatch.setattr(asv_run, "ROOT", tmp_path)  # `python -m asv` there is the faked one
    monkeypatch.setattr(asv_run, "git", lambda *args, otherwise: "" if args[0] == "status" else COMMIT)
    monkeypatch.setattr(asv_run, "lock_suite", lambda: None)
    monkeypatch.setattr(pinned, "lay_out", lambda: None)
    monkeypatch.setattr(machine, "name", lambda: "machine")
    monkeypatch.setattr(machine, "describe", lambda: dict.fromkeys(("name", "os", "cpu", "cores", "memory"), "machine"))
    monkeypatch.setattr(stored.read, "__defaults__", (folder,))
    monkeypatch.setattr(stored.entries, "__defaults__", (folder,))
    return folder


def lines_of_make_bench() -> int:
    """Return the number of lines that make and the dashboard add: place of the pages, how to view them, missing npm."""
    return 3


@pytest.mark.usefixtures("faked")
def test_a_run_prints_at_most_sixty_lines_and_ends_with_what_to_do_next(capsys: Capture) -> None:
    assert command.main(["run"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines() + captured.err.splitlines()
    assert len(lines) + lines_of_make_bench() <= 60, "\n".join(lines)
    assert not any("···" in line for line in lines)
    assert any("figures to measure, 0 measured before" in line for line in lines)
    assert any("left" in line for line in lines)
    assert lines[-3].startswith("Each time was measured in a process of its own")
    assert lines[-2].startswith("Next: python -m benchmarks dashboard --serve")
    assert CASE in captured.out
    assert command.main(["run"]) == 0
    assert "0 figures to measure" in capsys.readouterr().out


@pytest.mark.usefixtures("faked")
def test_the_output_of_a_benchmark_that_failed_is_shown_and_no_other(monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setenv("FAKE_BROKEN", "process.Peak.peakmem_step")
    assert command.main(["run"]) == 1
    shown = capsys.readouterr().err
    assert "process.Peak.peakmem_step      failed" in shown
    assert shown.count("a message of a failure") == 12
    assert "speed.Ratio.track_over_copy      ok" not in shown
    assert "1 of " in shown
    assert f"benchmarks failed on {COMMIT[:8]}" in shown


@pytest.mark.usefixtures("faked")
def test_verbose_shows_the_output_of_asv_as_it_comes(capsys: Capture) -> None:
    assert command.main(["run", "-v"]) == 0
    shown = capsys.readouterr().err
    assert "speed.Ratio.track_over_copy      ok" in shown
    assert len(shown.splitlines()) > 60


def test_all_of_the_output_is_shown_where_no_benchmark_is_reported() -> None:
    assert asv_run.failed_output("Traceback\nno space left\n") == "Traceback\nno space left\n"


def test_the_time_left_is_estimated_from_this_run_once_it_has_a_speed() -> None:
    now = 0.0
    text = io.StringIO()
    line = ProgressLine(Console(file=text, width=100), clock=lambda: now)
    line.begin("Commit", 60, 2)
    assert line.left(0) == 60 * 6
    now = 30.0
    assert line.left(2) == 58 * 6  # too few to tell
    assert line.left(10) == 50 * 3
    line.show(10)
    line.show(60)
    assert text.getvalue().splitlines() == [
        "Commit: 60 figures to measure, 2 measured before",
        "10 of 60 figures, about 3 min left",
    ]


def test_a_terminal_shows_one_line_of_progress() -> None:
    text = io.StringIO()
    with ProgressLine(Console(file=text, width=100, force_terminal=True)) as line:
        line.stage("Preparing")
        line.begin("Commit", 60, 0)
        line.show(12, "speed.Small.time_step")
    assert "speed.Small.time_step" in text.getvalue()
    assert "12/60, about" in text.getvalue()
    assert text.getvalue().count("\n") == 1


def test_a_machine_has_a_name_for_files() -> None:
    assert machine.name() == machine.describe()["name"]
    assert machine.name().replace("-", "").isalnum()


def test_an_interruption_says_that_results_are_kept(monkeypatch: Patch, capsys: Capture) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "main", interrupted)
    assert command.main(["run"]) == 130
    assert "What was stored before is kept" in capsys.readouterr().err


def test_a_full_disk_is_one_line(monkeypatch: Patch, capsys: Capture) -> None:
    def full(_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run, "main", full)
    assert command.main(["run"]) == 2
    assert capsys.readouterr().err == "Could not continue: [Errno 28] No space left on device\n"
