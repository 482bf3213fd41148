"""Trace a case with torch.profiler: each side is a run of TensorBoard's profiler plugin, a folder with one Chrome trace."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from .. import workload
from ..gate.versions import extract
from ..system.errors import CommandError
from ..system.git import UnknownRevision, resolve
from . import events
from .events import OUTSIDE, Operator

if TYPE_CHECKING:
    from ..suite.cases import Case

WAIT, WARMUP, STEPS = 1, 4, 9  # of the profiler's schedule, in calls of the case
TOUCHED = 256  # bytes per element of the case: enough for all steps if none reuses the memory of the one before
BLOCK = 2**26  # bytes that are allocated at once


class CannotTrace(CommandError):
    """A reason why the case cannot be traced."""

    summary = "Could not trace"


@dataclass(frozen=True)
class Side:
    """One side of the comparison: the case with one layer. `name` is the name of the run and of TensorBoard's worker."""

    name: str
    layer: str
    package: ModuleType
    description: str = ""


@contextmanager
def staging(out: Path, replace: bool) -> Iterator[Path]:
    """Yield a folder whose content moves to `out` at the end; after an error it is removed and `out` is unchanged.

    `out` must be new or empty, unless `replace`: then its former runs are removed. Raises CannotTrace.
    """
    try:
        if not replace and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise CannotTrace(f"--out={out} is not empty; give a new or an empty folder")
        parent = next(place for place in (out, *out.absolute().parents) if place.exists())
        folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=parent))
    except OSError as error:
        raise CannotTrace(f"--out={out} cannot be written: {error.strerror}; give a folder that can") from error
    try:
        yield folder
        out.mkdir(parents=True, exist_ok=True)
        for former in out.iterdir() if replace else ():
            if former.is_dir() and not former.samefile(folder):
                shutil.rmtree(former)
        for run in folder.iterdir():
            run.rename(out / run.name)
    finally:
        shutil.rmtree(folder)


@contextmanager
def sides(against: str) -> Iterator[list[Side]]:
    """Yield the working tree's TailDropout and the side `against`: nn.Dropout, copy, or TailDropout at another revision.

    Raises CannotTrace.
    """
    if against in ("nn.Dropout", "copy"):
        package = imported()
        yield [Side("TailDropout", "TailDropout", package), Side(against, against, package)]
        return
    with ExitStack() as stack:
        try:
            commit = resolve(against)
            both: list[Side] = []
            # Both are built in the same way, so that C code is not missing on one side only.
            for name, revision in (("TailDropout", None), (f"TailDropout-{commit[:8]}", against)):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "source"
                version = extract(workload, revision, folder)
                description = f"{name} is {version}, {version.note or 'with its C code'}"
                both.append(Side(name, "TailDropout", load_version(folder, len(both), str(version)), description))
        except UnknownRevision as error:
            raise CannotTrace(str(error)) from error
        yield both


def imported() -> ModuleType:
    """Return the working tree's package. Raises CannotTrace."""
    from ..suite.subject import package

    try:
        return package()
    except Exception as error:  # any error of the package's own import
        raise CannotTrace(f"the package cannot be imported: {type(error).__name__}: {error}") from error


def load_version(folder: Path, number: int, version: str) -> ModuleType:
    """Return the package of a version, imported under a name with `number`. Raises CannotTrace."""
    try:
        return workload.load(folder, f"taildropout_traced_{number}")
    except Exception as error:  # any error of an old version's import
        raise CannotTrace(f"{version} cannot be imported: {type(error).__name__}: {error}") from error


def trace(case: "Case", side: Side, folder: Path) -> dict[str, Operator]:
    """Write the trace of one side as a run in `folder` and return its operators. Raises CannotTrace or BrokenTrace."""
    from torch.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler

    from ..suite import cases

    try:
        call = cases.make(case.of(side.layer), side.package)
    except cases.NotAvailable as error:
        raise CannotTrace(f"{case.name} is n/a: {error}") from error
    except Exception as error:  # of a layer that is broken or wrong, or of a compiler
        raise CannotTrace(f"{side.name} fails in {case.name}: {type(error).__name__}: {error}") from error
    wait = cases.synchronise(case)
    on_gpu = [ProfilerActivity.CUDA] if case.device == "cuda" else []
    run = folder / side.name
    with profile(
        activities=[ProfilerActivity.CPU, *on_gpu],
        schedule=schedule(wait=WAIT, warmup=WARMUP, active=STEPS, repeat=1),
        on_trace_ready=tensorboard_trace_handler(str(run), worker_name=side.name),
        record_shapes=True,
        profile_memory=True,
        with_stack=True,
        with_modules=True,
    ) as profiler:
        for _ in range(WAIT + WARMUP + STEPS):
            call()
            if wait:
                wait()  # so that a step contains the kernels that it started
            profiler.step()
    operators = events.operators(events.median_step(events.repair(run), STEPS))
    if not operators.keys() - {OUTSIDE}:
        raise CannotTrace(f"{side.name} in {case.name} ran no operator here: it works in other processes, which are not traced")
    if on_gpu and not any(operator.device for operator in operators.values()):
        raise CannotTrace("the profiler recorded no kernel on the GPU; with KINETO_LOG_LEVEL=0 it prints why")
    return operators


def touch_memory(case: "Case") -> None:
    """Write to as much memory as a case's steps need on a CPU: a step on fresh pages takes several times as long."""
    import torch

    if case.device == "cpu":
        count = -(-TOUCHED * case.numel // BLOCK)
        [torch.empty(BLOCK, dtype=torch.uint8).fill_(1) for _ in range(count)]  # all are alive at once, then freed
