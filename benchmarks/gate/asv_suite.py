"""Find the benchmarks of an asv suite, by asv_runner's own code. asv_worker.py imports this file from beside it."""

from __future__ import annotations

import itertools
import os
import sys
from typing import Any

NOT_AVAILABLE = "not available"


def discover(suite: str) -> dict[str, Any]:
    """Find the benchmarks of the suite.

    Return `cases`, a dictionary for each benchmark and combination of parameters, and two dictionaries from names to the
    reason why they cannot be run: `lacking` (skipped by the suite) and `failed`.
    """
    from asv_runner import _aux, discovery

    _aux.update_sys_path(suite)
    lacking, failed = {}, {}
    if not any(kind.__name__ == "MemBenchmark" for kind in discovery.benchmark_types):
        discovery.benchmark_types.append(memory_without_pympler())
    find = discovery._get_benchmark

    def noting(name: str, module: Any, owner: Any, function: Any) -> Any:
        place = ".".join(filter(None, [*module.__name__.split(".")[1:], owner and owner.__name__, name]))
        if getattr(function, "skip_benchmark", False):
            if any(kind.name_regex.match(name) for kind in discovery.benchmark_types):
                lacking[place] = "the suite skips it (skip_benchmark)"
            return None
        try:
            return find(name, module, owner, function)
        except Exception as error:
            failed[place] = f"it cannot be made: {brief(error)}"
            return None

    discovery._get_benchmark = noting
    try:
        found = list(discovery.disc_benchmarks(suite, ignore_import_errors=True))
    finally:
        discovery._get_benchmark = find
    failed.update(broken_modules(suite))
    cases = [case for benchmark in unique(found) for case in combinations(benchmark)]
    return {"cases": cases, "lacking": lacking, "failed": failed}


def combinations(benchmark: Any) -> list[dict[str, Any]]:
    """Return a case per combination of parameters: its name as asv writes it, and the properties that the gate uses."""
    known = {
        "benchmark": benchmark.name,
        "type": benchmark.type,
        "unit": str(benchmark.unit),
        "timeout": benchmark.timeout,
        "cache": benchmark.setup_cache_key,
        "cache_timeout": benchmark.setup_cache_timeout,
    }
    if not benchmark.params:
        return [dict(known, name=benchmark.name, index=None)]
    products = enumerate(itertools.product(*benchmark.params))
    return [dict(known, name=f"{benchmark.name}({', '.join(values)})", index=index) for index, values in products]


def unique(benchmarks: list[Any]) -> list[Any]:
    """Return one benchmark for each name: a class that one module imports from another is found in both."""
    return list({benchmark.name: benchmark for benchmark in reversed(benchmarks)}.values())[::-1]


def broken_modules(suite: str) -> dict[str, str]:
    """Import the modules of the suite that are not imported yet; return, by module, the error of each that cannot be."""
    import importlib

    parent, broken = os.path.dirname(suite), {}
    for folder, folders, files in os.walk(suite):
        folders[:] = sorted(name for name in folders if os.path.exists(os.path.join(folder, name, "__init__.py")))
        for file in sorted(files):
            dotted = os.path.relpath(os.path.join(folder, file), parent)[:-3].replace(os.sep, ".").replace(".__init__", "")
            if file.endswith(".py") and dotted not in sys.modules and ".".join(dotted.split(".")[:-1]) in ["", *sys.modules]:
                try:
                    importlib.import_module(dotted)
                except BaseException as error:
                    broken[dotted.split(".", 1)[-1]] = f"it cannot be imported: {brief(error)}"
    return broken


def memory_without_pympler() -> Any:
    """Return a benchmark type for mem_ benchmarks that cannot run, because pympler, which measures them, is not installed."""
    import re

    from asv_runner.benchmarks._base import Benchmark

    class MemoryWithoutPympler(Benchmark):  # type: ignore[misc]
        name_regex = re.compile("^(Mem[A-Z_].+)|(mem_.+)$")

        def __init__(self, name: str, func: Any, sources: list[Any]) -> None:
            super().__init__(name, func, sources)
            self.type = NOT_AVAILABLE
            self.unit = "it needs pympler: install it beside the gate"

    return MemoryWithoutPympler


def brief(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
