"""Measure cases of this working tree in one process, with neither asv nor a network, and store what was found.

Where the history is not at hand, TAILDROPOUT_COMMIT in the environment says which commit it is.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .. import ROOT
from ..system import machine
from ..system.files import write_atomically
from ..system.git import git

if TYPE_CHECKING:
    from ..suite.cases import Case

ACCURACY = 4  # significant digits that are stored
PAST_CACHE = 64 * 2**20  # bytes
COMPILED = "TailDropout", "copy"


def with_environment() -> None:
    """Start this command anew if the process lacks the variables that the C library reads when it starts."""
    if any(os.environ.get(key) != value for key, value in machine.ENVIRONMENT.items()):
        os.execve(sys.executable, [*sys.orig_argv], {**os.environ, **machine.ENVIRONMENT})


def measure(names: Sequence[str], package: ModuleType, seconds: float, console: Console) -> dict[str, Any]:
    """The figures of the named cases; a case that is n/a, or fails, has a `note` instead."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(names))
        found = {}
        for name in names:
            progress.update(task, description=name)
            found[name] = measure_case(name, package, seconds)
            progress.advance(task)
            if not progress.console.is_terminal:
                console.print(f"{name}: {found[name].get('note', 'measured')}", highlight=False)
    return found


def measure_case(name: str, package: ModuleType, seconds: float) -> dict[str, Any]:
    """One case: median seconds per layer, and per rival the paired ratio with its quartiles. On CUDA, what else it costs."""
    from ..suite import cases
    from ..suite.measure import interleave, ratios, summary

    case = cases.CASES[name]
    stored: dict[str, Any] = {"goal": case.goal}
    try:
        runs = {layer: cases.make(case.of(layer), package) for layer in cases.LAYERS}
        figures = interleave(runs, seconds, case.device)
        apart: dict[str, list[float]] = {}
        with suppress(cases.NotAvailable):
            # Not in one loop with the rivals, whose data it would push out of the caches.
            original = cases.make(case.of(cases.ORIGINAL), package)
            apart = interleave({"TailDropout": runs["TailDropout"], cases.ORIGINAL: original}, seconds / 4, case.device)
        if case.device == "cuda":
            stored["costs"] = costs(case, runs["TailDropout"], package)
    except cases.NotAvailable as error:
        return stored | {"note": f"n/a: {error}"}
    except Exception as error:  # the other cases are measured all the same, and this one makes the command fail
        return stored | {"note": "failed", "error": f"{type(error).__name__}: {error}".splitlines()[0]}
    stored["seconds"] = {layer: rounded(summary(values)[0]) for layer, values in figures.items()}
    stored["ratio"] = {
        rival: [rounded(value) for value in summary(ratios(together, over=rival))]
        for together in (figures, apart)
        for rival in together
        if rival != "TailDropout"
    }
    if apart:
        stored["seconds"][cases.ORIGINAL] = rounded(summary(apart[cases.ORIGINAL])[0])
    if case.device == "cuda":
        stored["costs"] |= bandwidth(case, stored["seconds"])
    return stored | {"rounds": len(figures["copy"])}


def costs(case: "Case", run: Callable[[], Any], package: ModuleType) -> dict[str, float]:
    """What a call of TailDropout costs beside time: launches and bytes; compiled, the seconds to its first result."""
    from ..suite import compilation, measure

    if case.model not in ("layer", "block"):
        return {}
    found: dict[str, float] = {"saved bytes": measure.saved_bytes(run), "peak bytes": measure.peak_bytes(run, case.device)}
    if case.device == "cuda":
        found["launches"] = measure.launches(run)
    if case.mode != "eager":
        found |= {f"seconds to compile {layer}": rounded(compilation.seconds(case.of(layer), package)) for layer in COMPILED}
    return found


def bandwidth(case: "Case", seconds: Mapping[str, float]) -> dict[str, float]:
    """The bytes a second that a copy moves, and the share of them that TailDropout does: tensors past the cache only.

    It writes all and reads what it keeps, and so does its backward; the copy reads and writes all, once.
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
    """The value with as many digits as mean something."""
    return float(f"{value:.{ACCURACY}g}")


def record(names: Sequence[str], device: str, seconds: float, console: Console) -> dict[str, Any]:
    """Measure the named cases with the package of this working tree and say on what."""
    import torch

    sys.path.insert(0, str(ROOT))
    package = import_module("taildropout")
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
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no", "taildropout", "benchmarks/suite", otherwise="")),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cases": measure(names, package, seconds, console),
    }


def store(found: dict[str, Any], folder: Path) -> Path:
    """Write a record; return its file."""
    return write_atomically(folder / f"{found['machine']['name']}.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
