"""The gate's record: trials add up, rates carry intervals, replays show what was planted, a broken record is kept."""

import json
import math
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import workload
from benchmarks.__main__ import main
from benchmarks.gate import calibration, counters, error_rates, lockstep_calibration, other_rules
from benchmarks.gate.records import instruction_noise, load_record, record_path, store_record
from benchmarks.gate.rule import IMPROVED, LOOKS, PASS, REGRESSED, REVISION, UNSTABLE
from benchmarks.gate.workload import Slowdown
from benchmarks.results import tables as table

CASES = list(workload.slowdowns)


def trial(kind: str, chance: random.Random, change: float = 0.0, verdict: str = PASS) -> dict[str, Any]:
    """Return a recorded trial whose processes are normal around a change."""
    logs = [[round(math.log1p(change) + chance.gauss(0, 0.006), 5) for _ in range(LOOKS[0])] for _ in CASES]
    cases = {
        case: {"verdict": verdict, "logs": each, "flags": {"asv": verdict == REGRESSED, "t-test": True}}
        for case, each in zip(CASES, logs, strict=True)
    }
    return {
        "kind": kind,
        "asked": kind,
        "commit": "0" * 40,
        "rule": REVISION,
        "date": "2026-01-01",
        "seconds": 8.0,
        "foreign": 0.01,
        "cases": cases,
    }


@pytest.fixture
def record() -> dict[str, Any]:
    chance = random.Random(1)
    trials = [trial("same", chance) for _ in range(18)] + [trial("same", chance, verdict=UNSTABLE)]
    trials += [trial("slower", chance, 0.05, REGRESSED) for _ in range(5)] + [trial("busy same", chance)]
    instructions = {case: {"verdict": REGRESSED, "change": 0.01, "base_copy": 0.0002} for case in workload.more_instructions}
    trials.append({**trial("instructions slower", chance), "cases": instructions})
    kinds = {"time": workload.slowdowns, "instructions": workload.more_instructions}
    amounts = {signal: {case: (each.kind, 40) for case, each in slowed.items()} for signal, slowed in kinds.items()}
    return {
        "version": 1,
        "trials": trials,
        "instructions": {"128x256-f32-train": [0.0002]},
        "planted": {"digest": "0", **amounts},
    }


def found(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """Return the only row with all the wanted values."""
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def test_rates_count_trials_and_replay_their_processes(record: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_rates, "EFFECTS", (0.0, 0.01, 0.05, -0.05))
    rows = [row for row in error_rates.evaluate(record | {"trials": record["trials"]}) if row["source"] == "live"]
    same = found(rows, rule="gate", signal="time", machine="quiet", effect=0.0)
    assert (same["trials"], same["regressed"], same["unstable"]) == (19, 0, 1)
    slower = found(rows, rule="gate", machine="quiet", effect=0.05, case=f"{CASES[0]} (python)")
    assert (slower["trials"], slower["regressed"]) == (5, 5)
    assert slower["seen"] == pytest.approx(0.05, abs=0.01)
    assert found(rows, rule="t-test", machine="quiet", effect=0.0)["regressed"] == 19 * len(CASES)
    assert found(rows, rule="asv", machine="quiet", effect=0.0)["regressed"] == 0
    assert found(rows, machine="busy", rule="gate")["trials"] == 1
    assert found(rows, signal="instructions", case="1024x512-f32-train (python)")["seen"] == 0.01
    processes = error_rates.pool(record)
    assert len(processes) == 19 * LOOKS[0]
    replayed = [error_rates.replayed(processes, effect, times=40) for effect in (0.0, 0.05, -0.05)]
    assert [(row["regressed"], row["improved"]) for row in replayed] == [(0, 0), (40, 0), (0, 40)]


def test_trials_whose_slowdown_missed_its_size_do_not_count(record: dict[str, Any]) -> None:
    def ours() -> list[dict[str, Any]]:
        return [row for row in error_rates.live(record, "slower", "time", 0.05, "quiet") if row["rule"] == "gate"]

    before, chance = ours(), random.Random(7)
    small = [trial("slower", chance, 0.02) | {"commit": "1" * 40} for _ in range(4)]
    record["trials"] += small  # four may be off by chance
    assert [row["trials"] for row in ours()] == [9] * len(CASES)
    record["trials"].append(trial("busy slower", chance, 0.02, REGRESSED) | {"commit": "1" * 40})  # whatever the verdict
    assert ours() == before
    assert {row["rule"] for row in error_rates.live(record, "busy slower", "time", 0.05, "busy")} == {"asv", "t-test"}


def test_trials_that_a_former_rule_judged_are_replayed_but_not_counted(record: dict[str, Any]) -> None:
    former = trial("same", random.Random(5), verdict=REGRESSED)
    del former["rule"]  # as the first revision wrote it
    before, done = error_rates.live(record, "same", "time", 0.0, "quiet"), calibration.progress(record, calibration.WANTED)
    record["trials"] += [former, former | {"rule": REVISION - 1}]
    gate, *others = error_rates.live(record, "same", "time", 0.0, "quiet")
    assert gate == before[0]
    assert [row["trials"] for row in others] == [21 * len(CASES)] * 2  # other rules judged all the same
    assert calibration.progress(record, calibration.WANTED) == done
    assert len(error_rates.pool(record)) == 21 * LOOKS[0]
    record["trials"].append(former | {"kind": "instructions same"})  # the rule of time had no part in it
    assert error_rates.live(record, "instructions same", "instructions", 0.0, "any")[0]["trials"] == 1


def test_trials_in_lock_step_have_rates_of_their_own(record: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_rates, "EFFECTS", (0.0, 0.05))
    monkeypatch.setattr(error_rates, "REPLAYS", 20)
    before = error_rates.evaluate(record)
    chance = random.Random(3)
    record["trials"] += [trial("lockstep same", chance, verdict=UNSTABLE), *(trial("lockstep same", chance) for _ in range(4))]
    record["trials"] += [trial("lockstep slower", chance, 0.05, REGRESSED), trial("busy lockstep slower", chance, 0.05)]
    rows = error_rates.evaluate(record)
    assert [row for row in rows if row["way"] == error_rates.ONE_PROCESS] == before
    ours = [row for row in rows if row["way"] == error_rates.LOCKSTEP]
    same = found(ours, rule="gate", effect=0.0, source="live")
    assert (same["machine"], same["trials"], same["regressed"], same["unstable"]) == ("quiet", 5, 0, 1)
    assert found(ours, rule="asv", machine="quiet", effect=0.05)["regressed"] == len(CASES)
    assert found(ours, rule="gate", machine="quiet", effect=0.05, source="live", case=f"{CASES[0]} (python)")["regressed"] == 1
    assert found(ours, rule="gate", machine="busy", case=f"{CASES[0]} (python)")["regressed"] == 0
    assert found(ours, source="replayed", effect=0.05)["regressed"] == 20
    titles = [line for line in error_rates.markdown({"rates": rows}).splitlines() if re.match(r"\*\w", line)]
    assert [title.split("*")[1] for title in titles] == ["Both versions in one process.", "Pairs of processes in lock step."]


def test_the_first_number_is_the_smallest_slowdown_that_is_surely_caught() -> None:
    def row(effect: float, regressed: int) -> dict[str, Any]:
        return {"source": "replayed", "effect": effect, "regressed": regressed, "trials": 1000}

    rows = [row(0.0, 1000), row(-0.05, 1000), row(0.03, 955), row(0.04, 985), row(0.05, 1000)]
    assert error_rates.smallest_caught(rows) == 0.04  # 955 of 1000 may be less than 95 %
    assert error_rates.smallest_caught([]) is None
    assert error_rates.rate(0, 299) == "0.0% [0.0%, 1.0%]"


def test_the_errors_in_short_are_those_of_the_worst_case() -> None:
    def row(effect: float, trials: int, regressed: int, unstable: int, **more: str) -> dict[str, Any]:
        kind = {"rule": "gate", "signal": "time", "source": "live", "machine": "busy"} | more
        return kind | {"effect": effect, "trials": trials, "regressed": regressed, "unstable": unstable}

    rows = [
        row(0.0, 299, 0, 9),
        row(0.05, 100, 99, 0),
        row(0.05, 100, 96, 2),
        row(0.05, 60, 60, 0),
        row(0.05, 60, 0, 0, rule="asv"),
    ]
    line = "* Busy: equal versions called slower, 0 of 299 (below 1.00%); +5% passed, 2 of 100 (below 6.17%)"
    assert error_rates.in_short(rows) == [line]
    assert error_rates.in_short(rows[:1]) == []


def test_the_table_of_rates_leads_with_that_number(
    record: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(workload, "records", tmp_path)
    with pytest.raises(table.CannotFill, match="never calibrated"):
        table.gate()
    monkeypatch.setattr(error_rates, "REPLAYS", 300)
    monkeypatch.setattr(error_rates, "EFFECTS", (0.0, 0.05))
    record["rates"] = error_rates.evaluate(record)
    store_record(record, tmp_path / "some-cpu.json")
    text = table.gate()
    smallest = "The smallest slowdown caught at least 95 % of the time: **5%** (replayed)."
    assert text.startswith(f"**some-cpu**\n\n*Both versions in one process.* {smallest}")
    assert text.endswith("*Pairs of processes in lock step.* Not calibrated yet.")
    assert re.search(r"\| t-test \| time \| none \|.*\| – \| – \|$", text, re.MULTILINE)  # it gives no such verdicts
    assert "| gate | time | +5% | one of them | quiet, replayed | 300 | 100.0% [99.0%, 100.0%] |" in text


def test_a_record_is_read_back_as_it_was_stored(record: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "gate" / "some-cpu.json"
    assert load_record(file) == {"version": 1, "trials": [], "instructions": {}}
    store_record(record, file)
    assert load_record(file) == json.loads(json.dumps(record))
    assert len(file.read_text().splitlines()) > len(record["trials"])  # a trial a line: readable differences
    file.write_text("{")
    with pytest.raises(ValueError, match=r"some-cpu\.json is no JSON .*take it back from git"):
        load_record(file)
    file.write_text('{"version": 9}')
    with pytest.raises(ValueError, match="version 9"):
        load_record(file)


def test_a_record_of_an_earlier_version_of_the_gate_still_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = load_record(Path(__file__).parent / "old_record.json")
    monkeypatch.setattr(error_rates, "EFFECTS", (0.05,))
    monkeypatch.setattr(error_rates, "REPLAYS", 20)
    rows = error_rates.evaluate(old)
    case = "1024x512-f32-train (python)"
    assert found(rows, signal="instructions", case=case)["regressed"] == 2
    live = [row for row in rows if row["signal"] == "time" and row["source"] == "live"]
    assert {row["rule"] for row in live} == {"asv", "t-test"}  # the gate's verdicts are of a former rule
    assert found(rows, source="replayed")["regressed"] == 20
    store_record(old, record_path(tmp_path))
    assert len(instruction_noise(tmp_path, "1024x512-f32-train")) == 15
    assert calibration.next_kind(old, calibration.WANTED) in calibration.WANTED


def test_trials_are_neither_replaced_nor_lost(
    record: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workload, "records", tmp_path)
    file = record_path(tmp_path)
    store_record(record, file)
    assert main(["calibrate"]) == 2
    assert "add to them with --resume" in capsys.readouterr().err
    monkeypatch.setattr(error_rates, "EFFECTS", ())
    assert main(["calibrate", "--resume", "--hours", "0"]) == 0
    assert "is not known yet" in capsys.readouterr().out
    assert load_record(file)["trials"] == json.loads(json.dumps(record["trials"]))
    file.write_text("{")
    assert main(["calibrate", "--resume"]) == 2
    assert file.read_text() == "{"


def test_the_kind_that_lags_most_is_next(record: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "available", lambda: None)
    wanted = calibration.kinds_for(calibration.WANTED, None)
    assert calibration.next_kind({"trials": []}, wanted) == "same"
    assert calibration.next_kind(record, wanted) == "busy slower"
    record["trials"] += [trial("busy slower", random.Random(2))] * 15
    assert calibration.next_kind(record, wanted) == "busy same"
    monkeypatch.setattr(counters, "available", lambda: counters.CALLGRIND)
    assert calibration.next_kind(record, calibration.kinds_for(calibration.WANTED, None)) == "instructions same"


@pytest.mark.parametrize(("machine_is", "kinds"), [("quiet", ["same", "slower"]), ("busy", ["busy same", "busy slower"])])
def test_the_trials_can_be_those_of_a_quiet_or_a_busy_machine_alone(machine_is: str, kinds: list[str]) -> None:
    assert list(calibration.kinds_for(calibration.WANTED, machine_is)) == kinds
    assert list(calibration.kinds_for(lockstep_calibration.WANTED, machine_is)) == [
        kind.replace("s", "lockstep s", 1) if machine_is == "quiet" else kind.replace(" ", " lockstep ") for kind in kinds
    ]


def test_it_says_how_many_trials_there_are_and_how_long_one_takes(record: dict[str, Any]) -> None:
    said = calibration.progress(record, {"same": 300, "slower": 60, "lockstep same": 300})
    assert said == "Recorded so far: same 19 of 300, 8 s each; slower 5 of 60, 8 s each; lockstep same 0 of 300."


def test_other_processes_are_seen() -> None:
    with calibration.competitors(True), calibration.watched() as seen:
        sum(range(20_000_000))
    assert seen["foreign"] > 0.2


def test_our_own_processes_are_not_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, own, everybody = iter([0.0, 100.0]), iter([10.0, 12.0]), iter([500.0, 542.0])
    monkeypatch.setattr(calibration.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(calibration, "own_seconds", lambda: next(own))
    monkeypatch.setattr(calibration.machine, "busy_seconds", lambda: next(everybody))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with calibration.watched() as seen:
        seen["unaccounted"] = 30.0  # of processes that were killed together with their parents
    assert seen == {"seconds": 100.0, "foreign": 0.05}


@pytest.mark.parametrize(("slower", "expected"), [(1.0, (False, False)), (1.1, (True, True)), (1.01, (False, False))])
def test_other_rules_judge_the_same_rounds(slower: float, expected: tuple[bool, bool]) -> None:
    chance = random.Random(2)

    def process(drift: float) -> dict[str, list[float]]:
        base = [drift * chance.gauss(1, 0.02) for _ in range(100)]
        return {"base": base, "head": [slower * drift * chance.gauss(1, 0.02) for _ in range(100)]}

    flags = other_rules.flags([process(1.0), process(1.0)])
    assert (flags["asv"], flags["t-test"]) == expected
    assert other_rules.flags([process(1.0), process(1.2)])["asv"]  # a process that is slower as a whole: a false alarm


@pytest.mark.slow
@pytest.mark.history
def test_real_trials_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "slowdowns", {"8x16-f32-fwd": Slowdown("python", 0.5)})
    monkeypatch.setattr(calibration, "WANTED", {"same": 1, "slower": 1})
    monkeypatch.setattr(counters, "available", lambda: None)
    monkeypatch.setattr(workload, "records", tmp_path)
    ticks = iter([0.0] * 3 + [1e9] * 9)
    monkeypatch.setattr(calibration, "QUIET", 9.0)
    monkeypatch.setattr(calibration, "out_of_time", lambda end: next(ticks) > 0)
    assert main(["calibrate", "--hours", "1"]) == 0
    trials = load_record(record_path(tmp_path))["trials"]
    assert [each["kind"] for each in trials] == ["same", "slower", "same"]
    assert trials[1]["cases"]["8x16-f32-fwd"]["verdict"] == REGRESSED
    assert trials[0]["cases"]["8x16-f32-fwd"]["verdict"] not in (REGRESSED, IMPROVED)
