"""Find the benchmarks of an asv suite, by asv_runner's own code. asv_worker.py imports this file from beside it."""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import sys
import types
from typing import Any

NOT_AVAILABLE = "not available"


def modules(suite: str, without: list[str]) -> list[str]:
    """Return the names of the suite's modules, parents first; those in `without` are never to be imported."""
    from asv_runner import _aux

    _aux.update_sys_path(suite)
    for name in without:
        replace_module(name)
    parent, names = os.path.dirname(suite), {os.path.basename(suite)}
    for folder, folders, files in os.walk(suite):
        folders[:] = sorted(name for name in folders if os.path.exists(os.path.join(folder, name, "__init__.py")))
        for file in sorted(file for file in files if file.endswith(".py")):
            names.add(os.path.relpath(os.path.join(folder, file), parent)[:-3].replace(os.sep, ".").replace(".__init__", ""))
    return sorted(names - {*without})


def import_module(name: str) -> None:
    """Import a module of the suite, unless the package that holds it could not be imported."""
    package = name.rpartition(".")[0]
    if not package or hasattr(sys.modules.get(package), "__path__"):
        try:
            importlib.import_module(name)
        except BaseException:
            replace_module(name)  # asv_runner would import it once more
            raise


def replace_module(name: str) -> None:
    """Put an empty module, which holds no benchmarks, in the place of one that cannot be imported."""
    sys.modules[name] = types.ModuleType(name)


def discover(suite: str) -> dict[str, Any]:
    """Find the benchmarks of the suite, whose modules have been imported.

    Return `cases`, a dictionary for each benchmark and combination of parameters, and two dictionaries from names to the
    reason why they cannot be run: `lacking` (skipped by the suite) and `failed`.
    """
    from asv_runner import discovery

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
            benchmark = find(name, module, owner, function)
            if benchmark is not None:
                benchmark.module = module.__name__
            return benchmark
        except Exception as error:
            failed[place] = f"it cannot be made: {brief(error)}"
            return None

    discovery._get_benchmark = noting
    try:
        found = list(discovery.disc_benchmarks(suite, ignore_import_errors=True))
    finally:
        discovery._get_benchmark = find
    cases = [case for benchmark in unique(found) for case in combinations(benchmark)]
    return {"cases": cases, "lacking": lacking, "failed": failed}


def load(suite: str, name: str) -> Any:
    """Return the benchmark of this name; "-" and a number behind it pick a combination of parameters."""
    from asv_runner import discovery

    find = discovery.disc_benchmarks  # which asv_runner calls if the name does not tell the file
    discovery.disc_benchmarks = functools.partial(find, ignore_import_errors=True)
    try:
        return discovery.get_benchmark_from_name(suite, name)
    finally:
        discovery.disc_benchmarks = find


def combinations(benchmark: Any) -> list[dict[str, Any]]:
    """Return a case per combination of parameters: its name as asv writes it, and the properties that the gate uses."""
    known = {
        "benchmark": benchmark.name,
        "module": benchmark.module,
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
    """Return the type of an error and the first line of its text; the last of a traceback, which timeraw_ benchmarks give."""
    lines = str(error).strip().splitlines() or [""]
    text = lines[-1 if "Traceback" in lines[0] else 0].strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
