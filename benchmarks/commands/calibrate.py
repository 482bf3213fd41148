"""How often does the gate err? Whole trials of it, accumulated over as many runs as it takes.

    python -m benchmarks calibrate                    begin a record for this machine
    python -m benchmarks calibrate --resume           add to it, until Ctrl-C
    python -m benchmarks calibrate --resume --hours 2
    python -m benchmarks calibrate --resume --hours 0 only evaluate what is recorded

A trial compares this commit with a copy of itself, in which nothing or a slowdown of known size is planted, as `compare`
would. It counts as quiet if other processes used at most a tenth of the cores, else as busy; now and then a competitor on
every core makes it busy on purpose. The record is benchmarks/records/gate/MACHINE.json; `table` puts what it says into the
README.
"""

import argparse
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from ..gate import error_rates
from ..gate import stored as gate_record
from ..gate.injection import plant, solved, tuned
from ..gate.measuring import Gate, counter
from ..gate.other_rules import flags
from ..gate.processes import Broken
from ..gate.revisions import UnknownRevision, Version, extract
from ..gate.rule import decide, log_ratio
from ..gate.signals import change, instruction_rows, twin

# A slowdown of each kind, in a case of its own, where such a slowdown is likely.
TIME = {"8x16-f32-train": ("python", 0.05), "1024x512-f32-train": ("work", 0.05), "1024x512-bf16-train": ("traffic", 0.05)}
INSTRUCTIONS = {"128x256-f32-train": ("python", 0.01), "1024x512-f32-train": ("python", 0.01)}
# How many trials of each kind are wanted for each other; the one that lags most is next.
WANTED = {"same": 300, "slower": 60, "busy same": 30, "busy slower": 15, "instructions same": 8, "instructions slower": 12}
QUIET = 0.1  # of the cores' time, used by others


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--resume", action="store_true", help="add to this machine's record")
    parser.add_argument("--hours", type=float, default=float("inf"), help="default: until Ctrl-C")


def main(arguments: argparse.Namespace) -> int:
    """Run trials until the time is up, storing each, and print the rates of error."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    file = gate_record.path()
    try:
        record = gate_record.load(file)
        if record["trials"] and not arguments.resume:
            raise ValueError(f"{file} holds {len(record['trials'])} trials; add to them with --resume, or move the file away")
        end = time.monotonic() + 3600 * arguments.hours
        if arguments.hours > 0:
            try:
                accumulate(record, file, end, console)
            except KeyboardInterrupt:
                console.print("Interrupted; the trials so far are kept.")
        record["rates"] = error_rates.evaluate(record)
        gate_record.store(record, file)
    except (ValueError, Broken, UnknownRevision, OSError) as error:
        print(f"Could not calibrate: {error}", file=sys.stderr)
        return 2
    console.print(error_rates.markdown(record), highlight=False, soft_wrap=True)
    return 0


def accumulate(record: dict[str, Any], file: Path, end: float, console: Console) -> None:
    """Add trials to the record until the time is up."""
    with tempfile.TemporaryDirectory(prefix="taildropout-gate-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        base = extract("HEAD", folder / "base")
        same = extract("HEAD", folder / "same")
        if "planted" not in record or record["planted"]["digest"] != base.digest:
            record["planted"] = {"digest": base.digest, "time": tuned(base, folder / "tuning", TIME, console.print)}
            record["planted"]["instructions"] = instructions_planted(base, folder, console)
        slower = plant(base, folder / "slower", record["planted"]["time"])
        longer = plant(base, folder / "longer", record["planted"]["instructions"])
        heads = {"same": same, "slower": slower, "instructions same": same, "instructions slower": longer}
        for number in itertools.count(len(record["trials"])):
            if out_of_time(end):
                return
            kind = next_kind(record)
            gate = Gate(base, heads[kind.removeprefix("busy ")], folder, seed=1000 * number)
            with competitors(kind.startswith("busy")), watched() as seen:
                found = instructions_trial(gate) if kind.startswith("instructions") else time_trial(gate)
            noisy = not kind.startswith("instructions") and seen["foreign"] > QUIET
            stored = f"busy {kind.removeprefix('busy ')}" if noisy else kind.removeprefix("busy ")
            when = datetime.now(UTC).isoformat(timespec="seconds")
            record["trials"].append(
                {"kind": stored, "asked": kind, "commit": base.commit, "date": when, **seen, "cases": found}
            )
            for case, figures in found.items():
                if kind.startswith("instructions"):
                    record["instructions"].setdefault(case, []).append(figures["twin"])
            gate_record.store(record, file)
            verdicts = ", ".join(f"{case} {figures['verdict']}" for case, figures in found.items())
            console.print(
                f"trial {number + 1} ({stored}, {seen['seconds']:.0f} s): {verdicts}", highlight=False, soft_wrap=True
            )


def out_of_time(end: float) -> bool:
    """Whether the hours are up; the last trial may last a little longer."""
    return time.monotonic() > end


def next_kind(record: dict[str, Any]) -> str:
    """The kind of trial that lags most behind what is wanted of it."""
    done = [trial["asked"] for trial in record["trials"]]
    kinds = [kind for kind in WANTED if counter() or not kind.startswith("instructions")]
    return min(kinds, key=lambda kind: done.count(kind) / WANTED[kind])


def time_trial(gate: Gate) -> dict[str, Any]:
    """The verdict on each case, what every process saw, and what other rules say of the same rounds."""
    decisions = decide(list(TIME), gate.draw)
    if gate.failures:
        raise Broken(f"a trial failed: {gate.failures}")
    processes = [{f["case"]: f for f in each["found"]} for each in gate.raw]
    found = {}
    for case, decision in decisions.items():
        seen = [process[case] for process in processes if case in process]
        logs = [round(log_ratio(each["base"], each["head"]), 5) for each in seen]
        found[case] = {"verdict": decision.verdict, "logs": logs, "flags": flags(seen)}
    return found


def instructions_trial(gate: Gate) -> dict[str, Any]:
    """The verdict on each case's instructions, with change and noise of the first process."""
    rows = instruction_rows(gate, list(INSTRUCTIONS))
    first = {finding["case"]: finding for finding in gate.raw[0]["found"]}
    return {
        row.case: {
            "verdict": row.verdict,
            "change": round(change(first[row.case]), 6),
            "twin": round(twin(first[row.case]), 6),
        }
        for row in rows
    }


def instructions_planted(base: Version, folder: Path, console: Console) -> dict[str, tuple[str, int]]:
    """The passes of a loop that make 1 % more instructions, on the line through two amounts: they are counted, not timed."""
    points: dict[str, list[tuple[int, float]]] = {case: [] for case in INSTRUCTIONS}
    for passes in (100, 400) if counter() else ():
        planted = {case: (kind, passes) for case, (kind, _) in INSTRUCTIONS.items()}
        gate = Gate(base, plant(base, folder / f"longer-{passes}", planted), folder)
        for finding in gate.instructions(list(INSTRUCTIONS), 0):
            points[finding["case"]].append((passes, change(finding)))
            console.print(f"{finding['case']}: {passes} passes are {change(finding):+.2%} instructions", highlight=False)
    effects = {case: effect for case, (_, effect) in INSTRUCTIONS.items()}
    return {case: ("python", max(1, round(solved(seen, effects[case])))) for case, seen in points.items() if seen}


@contextmanager
def competitors(wanted: bool) -> Iterator[None]:
    """A process on every core that does nothing but keep it busy, as long as this one lives."""
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
    """How long what is done takes, and the share of the cores' time that other processes, or other guests, have of it."""
    seen: dict[str, float] = {}
    start, own, all_busy = time.monotonic(), own_seconds(), busy_seconds()
    yield seen
    seen["seconds"] = round(time.monotonic() - start, 1)
    others = (busy_seconds() - all_busy) - (own_seconds() - own)
    seen["foreign"] = round(max(0.0, others) / (seen["seconds"] * (os.cpu_count() or 1)), 3)


def own_seconds() -> float:
    """Processor time of this process and of those it has waited for."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in usage)


def busy_seconds() -> float:
    """Processor time that anybody has used since the start, stolen time too; 0 where the system does not tell."""
    try:
        user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
