"""Calibrate the gate: compare versions whose difference is known, and record the verdicts.

A trial compares a commit with a copy of itself as `compare` would. The copy is unchanged, or has an injected slowdown of known
size. A trial counts as quiet if other processes used at most a tenth of the cores' time, else as busy. Some trials run beside a
competing process on every core, to be busy on purpose.

`accumulate` runs trials of both versions in one process; lockstep_calibration.py those of pairs of processes in lock step.
"""

import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..system import machine
from . import counters
from .injection import amount_for, inject, tune
from .instructions import change_of, described, instruction_rows
from .measuring import Comparison
from .messages import BASE, HEAD, Instructions, Times
from .other_rules import flags
from .processes import Broken
from .records import is_current, store_record
from .rule import REVISION, decide, log_ratio
from .versions import Version, extract
from .workload import Amounts, Injectable

# Proportions of the kinds of trial; the kind that lags most behind its number is next.
WANTED = {"same": 300, "slower": 60, "busy same": 30, "busy slower": 15, "instructions same": 8, "instructions slower": 12}
QUIET = 0.1  # largest share of the cores' time that other processes use during a quiet trial
LOOP_PASSES = (100, 400)  # amounts at which the instructions of an injected loop are measured

Say = Callable[[str], None]
Cases = dict[str, dict[str, Any]]  # case -> verdict, log-ratios and the like
# measure(kind, number): run the trial of this number and kind, without "busy ". Return its results by case, and the seconds of
# processor time that child processes used but that the system did not add to the account of this process.
Measure = Callable[[str, int], tuple[Cases, float]]


def accumulate(
    workload: Injectable, record: dict[str, Any], file: Path, end: float, say: Say, machine_is: str | None = None
) -> None:
    """Run trials of a workload until `end` on the clock of time.monotonic; add each to `record` and store that in `file`.

    `say` gets a line per trial. For `machine_is` see `kinds_for`.
    """
    with tempfile.TemporaryDirectory(prefix=f"{workload.package}-gate-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        base = extract(workload, "HEAD", folder / "base")
        heads = injected_heads(workload, record, base, folder, say)

        def measure(kind: str, number: int) -> tuple[Cases, float]:
            comparison = Comparison(workload, base, heads[kind], folder, seed=1000 * number)
            if not kind.startswith("instructions"):
                return time_trial(comparison, workload), 0.0
            cases = instruction_trial(comparison, workload)
            for case, figures in cases.items():
                record["instructions"].setdefault(case, []).append(figures["base_copy"])
            return cases, 0.0

        repeat(measure, kinds_for(WANTED, machine_is), base.commit, record, file, end, say)


def repeat(
    measure: Measure, wanted: Mapping[str, int], commit: str, record: dict[str, Any], file: Path, end: float, say: Say
) -> None:
    """Run trials of the kinds in `wanted`, in proportion to their numbers, until `end`; add each to `record` and store that.

    `commit` is that of the version under test.
    """
    say(progress(record, wanted))
    for number in itertools.count(len(record["trials"])):
        if out_of_time(end):
            return
        trial = run_trial(measure, next_kind(record, wanted), number, commit)
        record["trials"].append(trial)
        store_record(record, file)
        verdicts = ", ".join(f"{case} {figures['verdict']}" for case, figures in trial["cases"].items())
        say(f"trial {number + 1} ({trial['kind']}, {trial['seconds']:.0f} s): {verdicts}")


def injected_heads(
    workload: Injectable, record: dict[str, Any], base: Version, folder: Path, say: Say
) -> Mapping[str, Version]:
    """Return the head version for each kind of trial.

    The amounts to inject are tuned and put into `record`, unless it already holds those tuned for the same sources.
    """
    if "planted" not in record or record["planted"]["digest"] != base.digest:  # "planted" is the record's word
        record["planted"] = {  # at once, so that an interruption leaves all of it or none
            "digest": base.digest,
            "time": tune(workload, base, folder / "tuning", workload.slowdowns, say),
            "instructions": tune_instructions(workload, base, folder, say),
        }
    amounts = record["planted"]
    same = extract(workload, base.commit, folder / "same")  # HEAD may have moved since
    return {
        "same": same,
        "slower": inject(workload, base, folder / "slower", amounts["time"]),
        "instructions same": same,
        "instructions slower": inject(workload, base, folder / "longer", amounts["instructions"]),
    }


def run_trial(measure: Measure, kind: str, number: int, commit: str) -> dict[str, Any]:
    """Run one trial and return its entry in the record."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    with competitors(kind.startswith("busy")), watched() as conditions:
        cases, conditions["unaccounted"] = measure(kind.removeprefix("busy "), number)
    return {
        "kind": kind if kind.startswith("instructions") else condition(kind, conditions["foreign"]),
        "asked": kind,
        "commit": commit,
        "rule": REVISION,
        "date": when,
        **conditions,
        "cases": cases,
    }


def condition(kind: str, foreign: float) -> str:
    """Return the kind of a time trial: "busy" if `foreign`, the others' share of the cores' time, is above QUIET.

    The kind that was asked for may differ.
    """
    name = kind.removeprefix("busy ")
    return f"busy {name}" if foreign > QUIET else name


def out_of_time(end: float) -> bool:
    """Return True if time.monotonic() is past `end`."""
    return time.monotonic() > end


def kinds_for(wanted: Mapping[str, int], machine_is: str | None) -> dict[str, int]:
    """Return the kinds of trial that can run, with their numbers; no instructions where nothing counts them.

    `machine_is` "quiet" leaves the trials of time without competing processes, "busy" those with; None leaves both, and those
    of instructions.
    """
    if machine_is:
        busy = machine_is == "busy"
        return {kind: number for kind, number in wanted.items()
                if kind.startswith("busy ") == busy and not kind.startswith("instructions")}  # fmt: skip
    return {kind: number for kind, number in wanted.items() if not kind.startswith("instructions") or counters.available()}


def next_kind(record: Mapping[str, Any], wanted: Mapping[str, int]) -> str:
    """Return the kind of trial that lags most behind its number in `wanted`."""
    done = [trial["asked"] for trial in record["trials"] if is_current(trial)]
    return min(wanted, key=lambda kind: done.count(kind) / wanted[kind])


def progress(record: Mapping[str, Any], wanted: Mapping[str, int]) -> str:
    """Return a sentence on how many trials of each kind are recorded, and how long one of them takes.

    A trial counts by the condition that the machine had, so there may be fewer than were asked for.
    """
    parts = []
    for kind, number in wanted.items():
        seconds = [trial["seconds"] for trial in record["trials"] if trial["kind"] == kind and is_current(trial)]
        each = f", {statistics.fmean(seconds):.0f} s each" if seconds else ""
        parts.append(f"{kind} {len(seconds)} of {number}{each}")
    return f"Recorded so far: {'; '.join(parts)}."


def time_trial(comparison: Comparison, workload: Injectable) -> Cases:
    """Run the gate once and return its results by case; see `case_results`. Raises Broken if a measurement failed."""
    decisions = decide(list(workload.slowdowns), comparison.draw)
    if comparison.failures:
        raise Broken(f"a trial failed: {comparison.failures}")
    return {case: case_results(decision.verdict, comparison.times_of(case)) for case, decision in decisions.items()}


def case_results(verdict: str, times: Sequence[Times]) -> dict[str, Any]:
    """Return what a trial records of a case: verdict, log-ratio of each process or pair, verdicts of other rules.

    The other rules judge the same rounds.
    """
    rounds = [one.seconds for one in times]
    logs = [round(log_ratio(process[BASE], process[HEAD]), 5) for process in rounds]
    return {"verdict": verdict, "logs": logs, "flags": flags(rounds)}


def instruction_trial(comparison: Comparison, workload: Injectable) -> Cases:
    """Compare instructions and return, by case, the verdict with the change and the noise of the first count."""
    rows = instruction_rows(comparison, list(workload.more_instructions))
    counted = [message for process in comparison.processes for message in process.messages]
    first = {message.case: message for message in reversed(counted) if isinstance(message, Instructions)}
    figures = described(first)
    return {row.case: {"verdict": row.verdict, **figures[row.case]} for row in rows if row.case in figures}


def tune_instructions(workload: Injectable, base: Version, folder: Path, say: Say) -> Amounts:
    """Return the amounts that add the wanted instructions; empty if nothing counts instructions here.

    Two amounts are measured, once each because counts hardly vary, and the line through them gives the wanted one.
    """
    wanted = workload.more_instructions
    points: dict[str, list[tuple[int, float]]] = {case: [] for case in wanted}
    for passes in LOOP_PASSES if counters.available() else ():
        amounts = {case: (slowdown.kind, passes) for case, slowdown in wanted.items()}
        longer = inject(workload, base, folder / f"longer-{passes}", amounts)
        for case, message in Comparison(workload, base, longer, folder).count_instructions(list(wanted), 0).items():
            points[case].append((passes, change_of(message)))
            say(f"{case}: {passes} passes are {change_of(message):+.2%} instructions")
    return {
        case: (wanted[case].kind, max(1, round(amount_for(wanted[case].effect, measured))))
        for case, measured in points.items()
        if measured
    }


@contextmanager
def competitors(wanted: bool) -> Iterator[None]:
    """If `wanted`, run a busy process for every core while the context lasts; they also end when this process dies."""
    busy = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: [0] * 100_000"
    running = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(os.cpu_count() or 1) if wanted]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Fill a dictionary when the context ends: its "seconds", and as "foreign" the others' share of the cores' time.

    The others are other processes, and other guests of the host. Seconds that the caller enters as "unaccounted" count as our
    own.
    """
    conditions: dict[str, float] = {}
    start, own, everybody = time.monotonic(), own_seconds(), machine.busy_seconds()
    yield conditions
    seconds = time.monotonic() - start
    conditions["seconds"] = round(seconds, 1)
    own = own_seconds() - own + conditions.pop("unaccounted", 0.0)
    others = machine.busy_seconds() - everybody - own
    conditions["foreign"] = round(max(0.0, others) / (seconds * (os.cpu_count() or 1)), 3)


def own_seconds() -> float:
    """Return the seconds of processor time of this process and of the child processes that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)
