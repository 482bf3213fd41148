"""One measuring process: load two versions of a package, prepare each case for both, and measure them in turn.

The task comes as JSON on standard input; each message (messages.py) goes to standard output as a line of JSON. The process
imports only the standard library, the workload and its versions. Only processes.py starts `python -m benchmarks.gate.worker`.
"""

import os
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from . import counters
from .messages import (
    BOTH,
    COUNTS,
    INSTRUCTIONS,
    TIME,
    CaseMessage,
    Counts,
    Done,
    Environment,
    Failure,
    Instructions,
    Lacking,
    Message,
    NotImportable,
    Task,
    Times,
    decode_task,
    encode,
)  # fmt: skip
from .workload import Run, Workload

REPEATS, WARM_UP = 7, 30  # instruction counts per side; calls of each side before its first count
# Environment variables that are reported, besides those of the allocator.
REPORTED = ("OMP_NUM_THREADS", "PYTHONHASHSEED", "ATEN_CPU_CAPABILITY", "LD_PRELOAD")

Report = Callable[[Message], None]


class NotIsolated(Exception):
    """A side runs code of another side's version, or none of its own."""


def main() -> int:
    """Read a task from standard input and carry it out; return the exit code, 2 if a version cannot be loaded."""
    task = decode_task(sys.stdin.read())
    findings = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # text that the package prints must not look like a message

    def report(message: Message) -> None:
        findings.write(encode(message) + "\n")

    if task.path not in sys.path:
        sys.path.insert(0, task.path)
    workload: Workload = import_module(task.workload)
    versions = {}
    for side, folder in task.sides:
        try:
            versions[side] = workload.load(Path(folder), f"{workload.package}_{side}")
        except Exception as error:
            report(NotImportable(side, brief(error)))
            return 2
    report(Environment(environment(workload)))
    if task.whole_package:
        count_packages(workload, versions, report)
    for case in task.cases:
        for message in measure(case, workload, versions, task):
            report(message)
    report(Done())
    return 0


def measure(case: str, workload: Workload, versions: Mapping[str, Any], task: Task) -> Iterator[CaseMessage]:
    """Prepare, check and measure one case; yield its result, or a message for each side that lacks the case or fails."""
    runs: dict[str, Run] = {}
    for side, version in versions.items():
        try:
            runs[side] = workload.prepare(case, version)
        except Exception as error:
            yield refusal(case, side, error)
    if len(runs) < len(versions):
        return
    try:
        if workload.cases()[case].profiled:
            require_isolation(workload.package, versions, runs)
        workload.check(case, runs)
        yield MEASURES[task.signal](case, workload, runs, task)
    except Exception as error:
        yield refusal(case, BOTH, error)


def refusal(case: str, side: str, error: Exception) -> CaseMessage:
    """Return the message for a case that raised `error`: Lacking for a NotImplementedError, else Failure."""
    kind = Lacking if isinstance(error, NotImplementedError) else Failure
    return kind(case, side, brief(error))


def brief(error: BaseException) -> str:
    """Return the type and the first line of an error as text."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def environment(workload: Workload) -> dict[str, Any]:
    """Return the settings and versions of libraries that can change the speed of this process."""
    names = [*REPORTED, *(name for name in os.environ if name.startswith("MALLOC_"))]
    values: dict[str, Any] = {name: os.environ.get(name) for name in names}
    return values | {"python": sys.version.split()[0]} | dict(workload.environment())


def require_isolation(package: str, versions: Mapping[str, Any], runs: Mapping[str, Run]) -> None:
    """Call each side once under Python's profiler.

    Raises NotIsolated if a side runs code of another version, or none of its own.
    """
    folders = {side: str(Path(version.__file__ or "").parent) + os.sep for side, version in versions.items()}
    for side, run in runs.items():
        seen: set[str] = set()
        sys.setprofile(lambda frame, event, argument, seen=seen: seen.add(frame.f_code.co_filename))  # type: ignore[misc]
        try:
            run()
        finally:
            sys.setprofile(None)
        used = {other for other, folder in folders.items() if any(name.startswith(folder) for name in seen)}
        if used - {side}:
            raise NotIsolated(f"{side} runs code of {', '.join(sorted(used - {side}))}; let {package} use relative imports")
        if not used:
            raise NotIsolated(f"{side} does not run its own code of {package}")


def times(case: str, workload: Workload, runs: Mapping[str, Run], task: Task) -> Times:
    """Measure the seconds per call of each side and round, to five significant digits."""
    figures = workload.rounds(case, runs, task.seconds, task.seed)
    return Times(case, {side: [float(f"{value:.5g}") for value in values] for side, values in figures.items()})


def instructions(case: str, workload: Workload, runs: Mapping[str, Run], task: Task) -> Instructions:
    """Count the user-mode instructions per call: the median of REPEATS counts per side, with the sides in random order."""
    count = counters.callgrind(task.callgrind) if task.callgrind else counters.hardware
    for _ in range(WARM_UP):
        for run in runs.values():
            run()
    counted: dict[str, list[float]] = {side: [] for side in runs}
    order, shuffle = list(runs), random.Random(task.seed).shuffle
    for _ in range(REPEATS):
        shuffle(order)
        for side in order:
            counted[side].append(count(runs[side]))
    return Instructions(case, {side: statistics.median(values) for side, values in counted.items()})


def counts(case: str, workload: Workload, runs: Mapping[str, Run], task: Task) -> Counts:
    """Take the exact counts of a case."""
    return Counts(case, {name: dict(sides) for name, sides in workload.counts(case, runs).items()})


def count_packages(workload: Workload, versions: Mapping[str, Any], report: Report) -> None:
    """Report the counts that belong to no case, for every version. A count that fails is a Failure; the others go on."""
    for group, functions in workload.package_counts.items():
        for name, count in functions.items():
            side = BOTH
            try:
                counted = {}
                for side, version in versions.items():
                    counted[side] = count(version)
                report(Counts(group, {name: counted}))
            except Exception as error:
                report(Failure(group, side, f"{name}: {brief(error)}"))


MEASURES: dict[str, Callable[[str, Workload, Mapping[str, Run], Task], CaseMessage]] = {
    TIME: times,
    INSTRUCTIONS: instructions,
    COUNTS: counts,
}

if __name__ == "__main__":
    sys.exit(main())
