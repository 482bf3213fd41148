"""Measure cases of this working tree in one process, without asv and without a network.

Without git, the variable TAILDROPOUT_COMMIT in the environment names the commit.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from platform import python_version
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..system import machine
from ..system.git import git

if TYPE_CHECKING:
    from ..suite.cases import Case

ACCURACY = 4  # significant digits that are stored
PAST_CACHE = 64 * 2**20  # bytes of a tensor that no cache holds
COMPILED = "TailDropout", "copy"  # the layers whose time to compile is recorded
MEASURED = "taildropout", "benchmarks/suite"  # the folders whose uncommitted changes a record mentions


def with_environment() -> None:
    """Restart this command unless the process has the variables that the C library reads when it starts."""
    if any(os.environ.get(key) != value for key, value in machine.ENVIRONMENT.items()):
        os.execve(sys.executable, [*sys.orig_argv], {**os.environ, **machine.ENVIRONMENT})


def measure(names: Sequence[str], package: ModuleType, seconds: float, console: Console) -> dict[str, Any]:
    """Measure each named case for `seconds` and return its figures; a case that is n/a or fails has a `note` instead."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(names))
        measured = {}
        for name in names:
            progress.update(task, description=name)
            measured[name] = measure_case(name, package, seconds)
            progress.advance(task)
            if not progress.console.is_terminal:
                console.print(f"{name}: {measured[name].get('note', 'measured')}", highlight=False)
    return measured


def measure_case(name: str, package: ModuleType, seconds: float) -> dict[str, Any]:
    """Return a case's median seconds of a call by layer, and its paired ratios with quartiles; on CUDA also `costs`.

    If the case is n/a or fails, return a `note` instead.
    """
    from ..suite import cases
    from ..suite.measure import interleave, ratios, summary

    case = cases.CASES[name]
    stored: dict[str, Any] = {"goal": case.goal}
    try:
        runs = {layer: cases.make(case.of(layer), package) for layer in cases.LAYERS}
        figures = interleave(runs, seconds, case.device)
        isolated: dict[str, list[float]] = {}
        with suppress(cases.NotAvailable):
            # In a loop of its own: in the other loop it would evict the data of the other layers from the caches.
            original = cases.make(case.of(cases.ORIGINAL), package)
            isolated = interleave({"TailDropout": runs["TailDropout"], cases.ORIGINAL: original}, seconds / 4, case.device)
        if case.device == "cuda":
            stored["costs"] = costs(case, runs["TailDropout"], package)
    except cases.NotAvailable as error:
        return stored | {"note": f"n/a: {error}"}
    except Exception as error:  # the other cases are measured; this one makes the command fail
        return stored | {"note": "failed", "error": f"{type(error).__name__}: {error}".splitlines()[0]}
    stored["seconds"] = {layer: rounded(summary(values)[0]) for layer, values in figures.items()}
    stored["ratio"] = {
        layer: [rounded(value) for value in summary(ratios(loop, over=layer))]
        for loop in (figures, isolated)
        for layer in loop
        if layer != "TailDropout"
    }
    if isolated:
        stored["seconds"][cases.ORIGINAL] = rounded(summary(isolated[cases.ORIGINAL])[0])
    if case.device == "cuda":
        stored["costs"] |= bandwidth(case, stored["seconds"])
    return stored | {"rounds": len(figures["copy"])}


def costs(case: "Case", run: Callable[[], Any], package: ModuleType) -> dict[str, float]:
    """Return the costs of a call besides time: saved and peak bytes, launches on CUDA, and seconds to compile if compiled.

    `run` is a call of TailDropout. Return nothing for a case that is neither a layer nor a block.
    """
    from ..suite import compilation, measure

    if case.model not in ("layer", "block"):
        return {}
    extra: dict[str, float] = {"saved bytes": measure.saved_bytes(run), "peak bytes": measure.peak_bytes(run, case.device)}
    if case.device == "cuda":
        extra["launches"] = measure.launches(run)
    if case.mode != "eager":
        extra |= {f"seconds to compile {layer}": rounded(compilation.seconds(case.of(layer), package)) for layer in COMPILED}
    return extra


def bandwidth(case: "Case", seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the bytes a second that a copy moves, and TailDropout's share of them; nothing for tensors that fit a cache.

    TailDropout writes all features and reads the kept ones, and so does its backward; the copy reads and writes all, once.
    """
    from ..suite.cases import DTYPES

    size = case.numel * DTYPES[case.dtype].itemsize
    if case.model != "layer" or case.mode != "eager" or size < PAST_CACHE:
        return {}
    keeps = case.n // 3 / case.n if case.direction == "set_k" else 1 - case.p
    moved = (1 + keeps) * size * (2 if case.direction == "train" else 1)
    copied = 2 * size / seconds["copy"]
    return {"bytes a second of copy": rounded(copied), "share of it": rounded(moved / seconds["TailDropout"] / copied)}


def rounded(value: float) -> float:
    """Return the value rounded to `ACCURACY` significant digits."""
    return float(f"{value:.{ACCURACY}g}")


def record(names: Sequence[str], device: str, seconds: float, console: Console) -> dict[str, Any]:
    """Measure the named cases with the package of this working tree and return the record."""
    import torch

    from ..suite.subject import package

    versions = {"torch": torch.__version__, "python": python_version()}
    if device == "cuda":
        versions["CUDA"] = str(torch.version.cuda)
        try:
            versions["triton"] = version("triton")
        except ImportError:
            versions["triton"] = "none"
    return {
        "version": 1,
        "machine": machine.describe(device),
        "versions": versions,
        "commit": git("rev-parse", "HEAD", otherwise="") or os.environ.get("TAILDROPOUT_COMMIT", "unknown"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no", *MEASURED, otherwise="")),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cases": measure(names, package(), seconds, console),
    }
