"""One process of the gate: loads two versions of the package, prepares each case for both, and measures them in turn.

It reads its task as JSON from standard input and writes a line of JSON per finding; torch, the suite and the standard
library are all that it imports. `python -m benchmarks.gate.worker` is started by `gate.py` alone.
"""

import itertools
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

Say = Callable[[dict[str, Any]], None]
Run = Callable[[], Any]

CALLS, REPEATS, WARM_UP = 10, 7, 30  # calls per count of instructions, counts per side, calls before


def main() -> int:
    """Do the task that standard input holds."""
    task = json.load(sys.stdin)
    findings = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the package prints is no finding

    def say(finding: dict[str, Any]) -> None:
        findings.write(json.dumps(finding) + "\n")

    from ..suite import cases
    from .revisions import load

    packages = {}
    for side, folder in task["sides"]:  # in the order in which they are to be loaded
        try:
            packages[side] = load(Path(folder), f"taildropout_{side}")
        except Exception as error:
            say({"broken": side, "error": brief(error)})
            return 2
    say({"environment": environment()})
    if task["graphs"]:
        count_graphs(packages, say)
    measure = {"time": time, "instructions": instructions, "counts": counts}[task["what"]]
    for name in task["cases"]:
        case = replace(cases.CASES[name], threads=1)
        runs: dict[str, Run] = {}
        for side, package in packages.items():
            try:
                runs[side] = cases.make(case, package)
            except cases.NotAvailable as error:
                say({"case": name, "lacks": side, "error": brief(error)})
            except Exception as error:  # the other cases are measured all the same
                say({"case": name, "fails": side, "error": brief(error)})
        if len(runs) < len(packages):
            continue
        try:
            apart(case, packages, runs)
            say({"case": name, **measure(case, runs, task)})
        except cases.NotAvailable as error:
            say({"case": name, "lacks": "both", "error": brief(error)})
        except Exception as error:
            say({"case": name, "fails": "both", "error": brief(error)})
    say({"end": True})
    return 0


def brief(error: BaseException) -> str:
    """Kind and first line of an error."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def environment() -> dict[str, Any]:
    """What of this process can change its speed."""
    import torch

    keys = ("OMP_NUM_THREADS", "PYTHONHASHSEED", "ATEN_CPU_CAPABILITY", "LD_PRELOAD")
    found: dict[str, Any] = {key: os.environ.get(key) for key in (*keys, *(k for k in os.environ if k.startswith("MALLOC_")))}
    found |= {"torch": torch.__version__, "python": sys.version.split()[0], "vectors": torch.backends.cpu.get_cpu_capability()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        try:
            found["gpu_clock_mhz"] = torch.cuda.clock_rate()
        except Exception as error:  # needs a library of its own, and is only a note
            found["gpu_clock_mhz"] = brief(error)
    return found


def apart(case: Any, packages: Mapping[str, ModuleType], runs: Mapping[str, Run]) -> None:
    """Raise WrongResult unless each side runs its own code, and both compute the same where they must."""
    import torch

    from ..suite.cases import WrongResult

    results = {}
    folders = {side: str(Path(package.__file__ or "").parent) + os.sep for side, package in packages.items()}
    for side, run in runs.items():
        seen: set[str] = set()
        sys.setprofile(lambda frame, event, argument, seen=seen: seen.add(frame.f_code.co_filename))  # type: ignore[misc]
        try:
            torch.manual_seed(0)
            results[side] = run()
        finally:
            sys.setprofile(None)
        for other, folder in folders.items():
            runs_it = any(name.startswith(folder) for name in seen)
            if other != side and runs_it:
                raise WrongResult(f"{side} runs code of {other}")
            if other == side and not runs_it and case.mode == "eager" and case.model not in ("ddp", "data_parallel"):
                raise WrongResult(f"{side} does not run its own code")
    if case.direction in ("eval", "set_k") and case.model == "layer":
        first, *others = results.values()
        if not all(torch.equal(first, other) for other in others):
            raise WrongResult(f"the outputs of {' and '.join(results)} differ, though nothing is drawn")


def time(case: Any, runs: Mapping[str, Run], task: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds per call, a figure per round and side."""
    from ..suite.measure import interleave

    figures = interleave(runs, task["seconds"], case.device, task["seed"])
    return {side: [float(f"{value:.5g}") for value in values] for side, values in figures.items()}


def instructions(case: Any, runs: Mapping[str, Run], task: Mapping[str, Any]) -> dict[str, Any]:
    """User instructions of one call, the median per side; sides take turns in random order."""
    count = callgrind(task["callgrind"]) if task.get("callgrind") else hardware
    for _ in range(WARM_UP):
        for run in runs.values():
            run()
    found: dict[str, list[float]] = {side: [] for side in runs}
    order, shuffle = list(runs), random.Random(task["seed"]).shuffle
    for _ in range(REPEATS):
        shuffle(order)
        for side in order:
            found[side].append(count(runs[side]) / CALLS)
    return {side: statistics.median(values) for side, values in found.items()}


def hardware(run: Run) -> float:
    """What the processor counts over `CALLS` calls."""
    from ..suite.measure import instructions

    return instructions(lambda: [run() for _ in range(CALLS)], repeats=1)


@cache  # once a process: it goes on numbering its files
def callgrind(output: str) -> Callable[[Run], float]:
    """What valgrind counts: this process runs in it, and writes a file `output`.N after each stretch that is counted.

    Counting begins late, since importing torch under it would take a minute.
    """
    import torch

    switch = ["callgrind_control", f"--vgdb-prefix={Path(output).parent}/vgdb", "--instr=on", str(os.getpid())]
    subprocess.run(switch, check=True, stdout=subprocess.DEVNULL)

    stretches = itertools.count(1)

    def count(run: Run) -> float:
        torch._C._valgrind_toggle()
        for _ in range(CALLS):
            run()
        torch._C._valgrind_toggle_and_dump_stats()
        lines = Path(f"{output}.{next(stretches)}").read_text().splitlines()
        return float(next(line for line in lines if line.startswith("totals:")).split()[1])

    return count


def counts(case: Any, runs: Mapping[str, Run], task: Mapping[str, Any]) -> dict[str, Any]:
    """Exact counts of a case: bytes saved for backward, and on a GPU kernels."""
    from ..suite import measure

    found: dict[str, Any] = {}
    if case.direction == "train" and case.mode == "eager" and case.model == "layer":
        found["bytes saved"] = {side: measure.saved_bytes(run) for side, run in runs.items()}
    if case.device == "cuda":
        found["launches"] = {side: measure.launches(run) for side, run in runs.items()}
    return {"counts": found}


def count_graphs(packages: Mapping[str, ModuleType], say: Say) -> None:
    """Counts that belong to no case: what dynamo makes of the layer."""
    from ..suite import compilation

    for name, count in compilation.COUNTS.items():
        found = {}
        for side, package in packages.items():
            try:
                found[side] = count(package)
            except Exception as error:  # the other counts are taken all the same
                say({"case": "compiler", "fails": side, "error": f"{name}: {brief(error)}"})
        if len(found) == len(packages):
            say({"case": "compiler", "counts": {name.replace("_", " "): found}})


if __name__ == "__main__":
    sys.exit(main())
