"""Calibration in lock step: the project's versions differ by a known amount of work, and trials are whole comparisons."""

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from benchmarks import workload
from benchmarks.__main__ import main
from benchmarks.gate import calibration, error_rates, known_project, lockstep_calibration
from benchmarks.gate.asv_process import Context, Worker, copy_runner
from benchmarks.gate.asv_project import read_project
from benchmarks.gate.environments import Environment
from benchmarks.gate.known_project import NAMES, VERSIONS, count_work, make_project
from benchmarks.gate.messages import Times
from benchmarks.gate.processes import Broken
from benchmarks.gate.records import load_record, record_path
from benchmarks.gate.report import Row
from benchmarks.gate.rule import IMPROVED, PASS, REGRESSED, UNSTABLE
from benchmarks.gate.versions import Version
from benchmarks.system.git import git


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the project."""
    return make_project(tmp_path_factory.mktemp("known") / "project")


def environment(project: Path, tag: str, folder: Path) -> Environment:
    """Return an environment that imports the package from `folder`, where a tag's source is written."""
    folder.mkdir()
    (folder / "known.py").write_text(git("show", f"{tag}:known.py", folder=project))
    version = Version(tag, tag, False, folder, tag)
    return Environment(version, Path(sys.executable), {"PYTHONPATH": str(folder)}, folder)


def test_the_slower_version_does_five_percent_more_work_and_the_same_one_as_much(project: Path, tmp_path: Path) -> None:
    work = {tag: count_work(environment(project, tag, tmp_path / tag), tmp_path) for tag in VERSIONS}
    assert work["same"] == work["base"]
    assert set(work["base"]) == set(NAMES)
    for case, count in work["base"].items():
        assert count > 2000
        assert work["slower"][case] / count == pytest.approx(1.05, abs=0.001)


def test_another_amount_of_work_ends_the_calibration(project: Path, tmp_path: Path) -> None:
    base, slower = (environment(project, tag, tmp_path / tag) for tag in ("base", "slower"))
    comparison: Any = SimpleNamespace(base=base, head=slower)
    more = lockstep_calibration.more_work(comparison, tmp_path, 0.05)
    assert list(more) == list(NAMES)
    with pytest.raises(Broken, match=r"should differ from base's by \+0\.0%, but does so by .*time_memory"):
        lockstep_calibration.more_work(comparison, tmp_path, 0.0)


def test_versions_differ_in_one_number_and_are_the_same_everywhere(project: Path, tmp_path: Path) -> None:
    changed = git("diff", "--unified=0", "base", "slower", folder=project).splitlines()
    assert [line for line in changed if line[:1] in "+-" and line[:3] not in ("+++", "---")] == [
        "-PASSES = 200",
        "+PASSES = 210",
    ]
    assert git("diff", "base", "same", folder=project) == ""
    again = make_project(tmp_path / "again")
    assert git("rev-parse", "slower", folder=again) == git("rev-parse", "slower", folder=project)


def test_asv_reads_the_project(project: Path) -> None:
    known = read_project(project, {})
    assert known.suite == "suite"
    assert known.build == []


@dataclass
class Measured:
    """What a trial reads of a comparison."""

    base: str
    head: str
    failures: dict[str, str] = field(default_factory=dict)
    lacking: dict[str, dict[str, str]] = field(default_factory=dict)
    shared: Any = field(default_factory=lambda: SimpleNamespace(processor={"base-1": 3.0, "head-1": 4.5}))

    def times_of(self, name: str) -> Sequence[Times]:
        change = 1.05 if self.head == "slower" else 1.0
        base = [1.0, 1.01, 0.99]
        return [Times(name, {"base": base, "head": [change * seconds for seconds in base]})] * 6

    def against_itself(self) -> dict[str, list[float]]:
        return {name: [0.001, -0.002, 0.0] for name in NAMES}


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Namespace]:
    """Replace measuring by canned figures; return the arguments of each comparison."""
    asked: list[Namespace] = []

    def judge(arguments: Namespace, folder: Path, console: Console) -> tuple[Measured, list[Row]]:
        asked.append(arguments)
        verdict = REGRESSED if arguments.head == "slower" else PASS
        return Measured(arguments.base, arguments.head), [Row(name, "time", verdict) for name in NAMES]

    passes = dict(VERSIONS)
    monkeypatch.setattr(lockstep_calibration, "judge", judge)
    monkeypatch.setattr(lockstep_calibration, "count_work", lambda tag, folder: dict.fromkeys(NAMES, 100 * passes[tag]))
    return asked


def test_a_trial_is_what_the_command_does_without_options(project: Path, judged: list[Namespace]) -> None:
    cases, unaccounted = lockstep_calibration.pair_trial(project, "lockstep slower", 0)
    (asked,) = judged
    assert (asked.base, asked.head, asked.project) == ("base", "slower", str(project))
    assert (asked.budget, asked.threshold, asked.cores, asked.bench) == (float("inf"), 0.025, None, None)
    assert unaccounted == 7.5
    assert list(cases) == list(NAMES)
    for case in cases.values():
        assert case == {
            "verdict": REGRESSED,
            "logs": [0.04879] * 6,
            "flags": {"asv": False, "t-test": True},  # three rounds are too few for asv's rule
            "itself": [0.001, -0.002, 0.0],
            "work": 0.05,
        }


def test_a_benchmark_that_fails_ends_the_calibration(project: Path, monkeypatch: pytest.MonkeyPatch, judged: object) -> None:
    failed = Measured("base", "same", failures={"work.time_memory": "head: MemoryError"})
    monkeypatch.setattr(lockstep_calibration, "judge", lambda *arguments: (failed, []))
    with pytest.raises(Broken, match="head: MemoryError"):
        lockstep_calibration.pair_trial(project, "lockstep same", 0)


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[bool]:
    """Use a record in `tmp_path`; a calibration ends when an item of this list is True."""
    left: list[bool] = []
    monkeypatch.setattr(workload, "records", tmp_path)
    monkeypatch.setattr(calibration, "out_of_time", lambda end: left.pop(0))
    return left


@pytest.mark.history
def test_the_command_adds_trials_in_lock_step_to_the_record(
    tmp_path: Path,
    judged: list[Namespace],
    ticks: list[bool],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(calibration, "QUIET", 99.0)  # so that the trials count as quiet whatever runs beside the tests
    ticks += [False, False, True, False, True]
    assert main(["calibrate", "--lockstep", "--machine", "quiet"]) == 0
    assert main(["calibrate", "--lockstep", "--machine", "quiet"]) == 2
    assert main(["calibrate", "--lockstep", "--machine", "quiet", "--resume"]) == 0
    record = load_record(record_path(tmp_path))
    assert [trial["kind"] for trial in record["trials"]] == ["lockstep same", "lockstep slower", "lockstep same"]
    assert [arguments.head for arguments in judged] == ["same", "slower", "same"]
    assert {row["way"] for row in record["rates"]} == {error_rates.LOCKSTEP}
    output = capsys.readouterr().out
    assert "Recorded so far: lockstep same 1 of 300" in output
    assert "| gate | time | +5% (seen +5.0%) | work.time_memory | quiet, live | 1 | 100.0%" in output


@pytest.mark.history
def test_busy_trials_run_beside_a_competing_process_on_each_core(
    tmp_path: Path, judged: list[Namespace], ticks: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    beside: list[bool] = []
    former = calibration.competitors
    monkeypatch.setattr(calibration, "competitors", lambda wanted: beside.append(wanted) or former(False))
    monkeypatch.setattr(calibration, "QUIET", -1.0)
    ticks += [False, False, True]
    assert main(["calibrate", "--lockstep", "--machine", "busy"]) == 0
    record = load_record(record_path(tmp_path))
    assert [trial["kind"] for trial in record["trials"]] == ["busy lockstep same", "busy lockstep slower"]
    assert beside == [True, True]


@pytest.fixture
def worker(project: Path, tmp_path: Path) -> Iterator[tuple[Worker, Context]]:
    """A measuring process of the base version, in the environment of the tests."""
    env = environment(project, "base", tmp_path / "base")
    shared = Context(tmp_path, copy_runner(tmp_path / "runner"), project / "suite", 60.0, float("inf"))
    with ExitStack() as stack:
        yield Worker(stack, shared, "base", env, None), shared


def test_a_measuring_process_tells_its_processor_time(worker: tuple[Worker, Context]) -> None:
    process, shared = worker
    assert "processor" not in process.ask(60, "hello")
    (first,) = shared.processor.values()
    for name in process.ask(60, "modules", without=[])["modules"]:
        process.ask(60, "import_module", name=name)
    found = process.ask(60, "discover")
    assert {case["name"] for case in found["cases"]} == set(NAMES)
    (second,) = shared.processor.values()
    assert second > first > 0


@pytest.mark.slow
@pytest.mark.history
@pytest.mark.timeout(600)
def test_real_trials_find_a_large_slowdown_and_leave_no_process(
    tmp_path: Path, ticks: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_project, "VERSIONS", {"base": 400, "same": 400, "slower": 1200})
    monkeypatch.setattr(lockstep_calibration, "EFFECT", 2.0)
    ticks += [False, False, True]
    assert main(["calibrate", "--lockstep"]) == 0
    same, slower = load_record(record_path(tmp_path))["trials"]
    for case in NAMES:
        assert same["cases"][case]["verdict"] in (PASS, UNSTABLE)
        assert slower["cases"][case]["verdict"] in (REGRESSED, UNSTABLE)
        assert slower["cases"][case]["work"] == pytest.approx(2.0, abs=0.01)
    assert IMPROVED not in json.dumps([same, slower])
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "gate-lockstep-" not in listed
