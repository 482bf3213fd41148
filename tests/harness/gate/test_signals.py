"""Exact counts, instructions and time on real processes: each finds what is injected."""

import time
from pathlib import Path

import pytest
from gate.edits import SMALL, edited, forward_line

from benchmarks import workload
from benchmarks.gate import counters, instructions, signals
from benchmarks.gate.injection import amount_for, inject
from benchmarks.gate.measuring import Comparison
from benchmarks.gate.messages import Counts, Instructions
from benchmarks.gate.rule import IMPROVED, INCOMPARABLE, PASS, REGRESSED, UNSTABLE, decide
from benchmarks.gate.versions import Version

pytestmark = pytest.mark.history


def test_more_bytes_saved_and_more_breaks_are_regressions(tmp_path: Path, base: Version) -> None:
    line = forward_line(base)
    head = edited(base, tmp_path / "breaks", old=line, new=line + "        torch._dynamo.graph_break()\n")
    change = "SAVE_ONLY_K_FROM = 2**14", "SAVE_ONLY_K_FROM = 2**30"
    head = edited(head, tmp_path / "head", "selection/dispatch.py", *change)
    rows = signals.count_rows(Comparison(workload, base, head, tmp_path), ["1024x512-f32-train"])
    found = {(row.case, row.signal): row for row in rows}
    bytes_saved = found["1024x512-f32-train", "bytes saved"]
    assert (bytes_saved.verdict, bytes_saved.base, bytes_saved.head) == (REGRESSED, 4096, 524288)
    assert found["compiler", "breaks"].verdict == REGRESSED
    assert found["compiler", "recompilations for k"].verdict == PASS


@pytest.mark.slow  # valgrind
@pytest.mark.skipif(counters.available() is None, reason="neither a hardware counter nor valgrind counts instructions here")
def test_one_percent_more_instructions_is_found(tmp_path: Path, base: Version) -> None:
    case = "1024x512-f32-fwd"
    head = inject(workload, base, tmp_path / "head", {case: ("python", 1500)})
    row = instructions.instruction_rows(Comparison(workload, base, head, tmp_path), [case])[0]
    assert row.verdict == REGRESSED
    assert row.change is not None
    assert row.change > 0.01


def test_what_the_budget_leaves_no_time_for_is_not_known(
    tmp_path: Path, base: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "available", lambda: counters.CALLGRIND)
    comparison = Comparison(workload, base, base, tmp_path, deadline=time.monotonic() - 1)
    case = "1024x512-f32-train"
    rows = instructions.instruction_rows(comparison, [case]) + signals.time_rows(comparison, [case], 0.025)
    assert [(row.signal, row.verdict) for row in rows] == [("instructions", UNSTABLE), ("time", UNSTABLE)]
    assert comparison.processes == []


def test_the_budget_ends_exact_counts_and_the_first_draw(tmp_path: Path, base: Version) -> None:
    case = "1024x512-f32-train"
    comparison = Comparison(workload, base, base, tmp_path, deadline=time.monotonic() + 0.1)  # importing torch takes longer
    rows = {(row.case, row.signal): row for row in signals.count_rows(comparison, [case])}
    assert set(rows) == {(case, "exact counts"), *(("compiler", name) for name in workload.package_counts["compiler"])}
    assert {row.verdict for row in rows.values()} == {UNSTABLE}
    comparison = Comparison(workload, base, base, tmp_path, deadline=time.monotonic() + 0.1)
    assert comparison.draw([case], 1) is None
    assert comparison.failures == {}


def test_a_count_that_was_taken_before_the_budget_ended_stays(
    tmp_path: Path, base: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = [Counts("compiler", {"graphs": {"base": 1.0, "head": 1.0}}), Counts(SMALL, {})]
    monkeypatch.setattr(Comparison, "exact_counts", lambda self, names: taken)
    comparison = Comparison(
        workload, base, base, tmp_path, deadline=time.monotonic() - 1, failures={"failed": "head: it raised"}
    )
    rows = {(row.case, row.signal): row.verdict for row in signals.count_rows(comparison, [SMALL, "other", "failed"])}
    assert rows.pop(("compiler", "graphs")) == PASS
    assert rows.pop(("other", "exact counts")) == UNSTABLE
    assert set(rows) == {("compiler", name) for name in workload.package_counts["compiler"] if name != "graphs"}
    comparison.deadline = float("inf")
    assert [row.signal for row in signals.count_rows(comparison, [SMALL, "other"])] == ["graphs"]


@pytest.mark.slow
def test_twice_the_time_is_found_at_the_first_look(tmp_path: Path, base: Version) -> None:
    head = inject(workload, base, tmp_path / "head", {SMALL: ("python", 2000)})
    comparison = Comparison(workload, base, head, tmp_path)
    decision = decide([SMALL], comparison.draw)[SMALL]
    assert decision.verdict == REGRESSED
    assert decision.estimate is not None
    assert decision.estimate.change > 0.5
    assert {process.first for process in comparison.processes} == {"base", "head"}
    assert len(comparison.processes) == 12


def test_the_amount_to_inject_is_on_the_line_through_what_was_measured() -> None:
    assert amount_for(0.05, [(100, 0.10)]) == pytest.approx(50)
    assert amount_for(0.05, [(100, 0.05), (100, 0.08), (100, 0.11)]) == pytest.approx(62.5)  # not the first alone
    assert amount_for(0.05, [(100, 0.11), (50, 0.06)]) == pytest.approx(40)
    assert amount_for(0.05, [(100, 0.05), (50, 0.06)]) == 50  # noise alone: it stays where it is


def test_the_margin_is_the_largest_that_noise_explains() -> None:
    assert instructions.margin([0.0]) == instructions.LEAST_MARGIN
    assert instructions.margin([0.001, -0.001, 0.0]) == pytest.approx(0.006)
    assert instructions.margin([0.01]) == pytest.approx(0.03)
    assert instructions.judge(0.02, None, [0.01])[0] == PASS
    assert instructions.judge(0.02, None, [0.04])[0] == UNSTABLE  # within 12 %, nearly anything would pass


def counted(head: float, copy: float = 1000.0) -> Instructions:
    return Instructions("case", {"base": 1000.0, "head": head, "base_copy": copy})


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (1004.0, None, PASS),  # within half a percent
        (1010.0, 1010.0, REGRESSED),
        (990.0, 990.0, IMPROVED),
        (1010.0, 1001.0, UNSTABLE),
        (1010.0, 990.0, UNSTABLE),
        (1010.0, None, UNSTABLE),  # no time for a second count: not a pass
    ],
)
def test_more_instructions_need_a_second_count_that_agrees(first: float, second: float | None, expected: str) -> None:
    change = instructions.change_of(counted(first))
    assert instructions.judge(change, counted(second) if second else None, [0.0])[0] == expected


def test_cases_that_the_time_is_too_short_for_are_left_out_and_do_no_harm(
    tmp_path: Path, base: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "available", lambda: counters.CALLGRIND)
    asked = []
    monkeypatch.setattr(Comparison, "count_instructions", lambda self, names, number, until: asked.append((names, until)) or {})
    names = ["1024x512-f32-train", SMALL, "8192x768-f32-train"]  # the second is too small, the third too large to be counted
    started = time.monotonic()
    rows = instructions.instruction_rows(Comparison(workload, base, base, tmp_path), names, 10.0)
    assert [(row.case, row.verdict) for row in rows] == [("1024x512-f32-train", INCOMPARABLE)]
    ((counted_names, until),) = asked
    assert counted_names == ["1024x512-f32-train"]
    assert until <= time.monotonic() + 10.0
    assert until >= started + 10.0


def test_a_count_that_the_budget_ends_is_unstable(tmp_path: Path, base: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "available", lambda: counters.CALLGRIND)
    comparison = Comparison(workload, base, base, tmp_path)

    def spend(self: Comparison, names: list[str], number: int, until: float) -> dict[str, Instructions]:
        comparison.deadline = 0.0
        return {}

    monkeypatch.setattr(Comparison, "count_instructions", spend)
    (row,) = instructions.instruction_rows(comparison, ["1024x512-f32-train"], 10.0)
    assert (row.verdict, row.note) == (UNSTABLE, "the budget left no time for them")


def test_instructions_take_a_quarter_of_the_time() -> None:
    assert instructions.allowed_seconds(600.0) == pytest.approx(200.0)
    assert instructions.allowed_seconds(10.0) == instructions.LEAST_SECONDS < 60


def test_the_second_count_has_as_much_time_as_the_first(tmp_path: Path, base: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "available", lambda: counters.CALLGRIND)
    monkeypatch.setattr(instructions, "instruction_noise", lambda folder, case: [])
    now = [1000.0]
    monkeypatch.setattr(instructions.time, "monotonic", lambda: now[0])
    asked = []
    case = "1024x512-f32-train"

    def count(self: Comparison, names: list[str], number: int, until: float) -> dict[str, Instructions]:
        asked.append((number, until - now[0]))
        now[0] += 40.0
        return {case: counted(1020.0)}

    monkeypatch.setattr(Comparison, "count_instructions", count)
    (row,) = instructions.instruction_rows(Comparison(workload, base, base, tmp_path), [case], 45.0)
    assert row.verdict == REGRESSED
    assert asked == [(0, 45.0), (1, 45.0)]


def test_a_process_ends_when_its_time_is_up(tmp_path: Path, base: Version) -> None:
    comparison = Comparison(workload, base, base, tmp_path)
    task = comparison.task("time", [SMALL], 0)
    assert comparison.run_process(task, 0, until=time.monotonic()) == []
    assert comparison.failures == {}
