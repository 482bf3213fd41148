"""A workload without torch: a package of one function, timed by the lines of Python that a call runs.

The tests copy this file beside a git repository, so the paths below are relative to it; the name of the package is the only
line in `package_name`. No clock is read: a figure is the number of lines of a call times 1 µs and a little seeded noise.
"""

import importlib.util
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from benchmarks.gate.workload import Amounts, Run, Slowdown, Traits

HERE = Path(__file__).parent
ROUNDS, NOISE = 9, 0.001

repository = HERE / "repository"
package = (HERE / "package_name").read_text().strip()
sources: Sequence[str] = (package,)
records = HERE / "records"
package_counts: Mapping[str, Mapping[str, Callable[[Any], float]]] = {"names": {"public": lambda version: len(version.__all__)}}
first_amounts: Mapping[str, int] = {"loop": 50}
slowdowns: Mapping[str, Slowdown] = {"large": Slowdown("loop", 0.05)}
more_instructions: Mapping[str, Slowdown] = {}
SIZES = {"small": 200, "large": 500, "missing": 0}


def cases() -> Mapping[str, Traits]:
    return {name: Traits() for name in SIZES}


def build(folder: Path) -> str:
    return ""


def load(folder: Path, name: str) -> ModuleType:
    place = folder / package
    spec = importlib.util.spec_from_file_location(name, place / "__init__.py", submodule_search_locations=[str(place)])
    assert spec
    assert spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def environment() -> Mapping[str, Any]:
    return {"rounds": ROUNDS}


def prepare(case: str, version: ModuleType) -> Run:
    if case == "missing":
        raise NotImplementedError("there is no such case on this machine")
    if not hasattr(version, "total"):
        raise NotImplementedError("this version has no total")
    numbers = range(SIZES[case])
    if (total := version.total(numbers)) != sum(numbers):
        raise ValueError(f"the total is {total}, not {sum(numbers)}")
    return lambda: version.total(numbers)


def check(case: str, runs: Mapping[str, Run]) -> None:
    results = {run() for run in runs.values()}
    if len(results) > 1:
        raise AssertionError(f"the totals differ: {sorted(results)}")


def rounds(case: str, runs: Mapping[str, Run], seconds: float, seed: int) -> Mapping[str, Sequence[float]]:
    chance = random.Random(f"{seed} {case}")
    counted = {side: lines(run) for side, run in runs.items()}
    return {side: [1e-6 * count * chance.gauss(1, NOISE) for _ in range(ROUNDS)] for side, count in counted.items()}


def lines(run: Run) -> int:
    """Count the lines of Python that a call runs."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(None)
    return count


def counts(case: str, runs: Mapping[str, Run]) -> Mapping[str, Mapping[str, float]]:
    return {"result": {side: float(run()) for side, run in runs.items()}}


def inject(folder: Path, amounts: Amounts) -> None:
    loops = {SIZES[case]: amount for case, (_, amount) in amounts.items()}
    with open(folder / package / "__init__.py", "a") as file:
        file.write(f"\nfrom . import work\nwork.LOOPS = {loops!r}\n")
