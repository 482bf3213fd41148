"""Trace a case with torch.profiler, beside nn.Dropout, a copy or another version, and show where the time goes.

    python -m benchmarks trace 1024x512-f32-train                    beside nn.Dropout
    python -m benchmarks trace 1024x512-f32-train --against HEAD~3   the working tree beside a revision

Each side is a run of TensorBoard's profiler plugin, a folder with one Chrome trace: shapes, memory, stacks and modules.
The table is made from the same files. Exit code: 0 traced, 2 could not measure; nothing is left behind then.
"""

import argparse
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import ROOT, workload
from ..gate.versions import extract
from ..profiling import events
from ..profiling.events import OUTSIDE, Operator
from ..results import record
from ..system.git import UnknownRevision, resolve
from ..system.units import format_seconds
from .run import CannotMeasure, known_case

if TYPE_CHECKING:
    from ..suite.cases import Case

TRACES = ROOT / ".asv" / "traces"
WAIT, WARMUP, STEPS = 1, 4, 9  # of the profiler's schedule, in calls of the case
TOUCHED = 256  # bytes per element of the case: what the steps take if a trace keeps each from using the former's memory again
BLOCK = 2**26  # bytes
ROWS = 12  # operators in the table
NOTE = (
    f"One step, the median of {STEPS}. Self time: in an operator and the Python it runs, not in the operators it calls. Bytes: "
    "what it allocates itself. Tracing takes time, most of all in small cases: how fast a layer is says `run`, not this."
)


class CannotTrace(Exception):
    """Something that keeps the case from being traced."""


@dataclass(frozen=True)
class Side:
    """What is traced: the case with one layer. `name` is that of the run and of the worker in TensorBoard."""

    name: str
    layer: str
    package: ModuleType


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("case", metavar="CASE", help="a case, such as 1024x512-f32-train")
    parser.add_argument(
        "--against",
        default="nn.Dropout",
        metavar="WHAT",
        help="nn.Dropout, copy, or a revision of the package (default %(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="an empty or new folder; else .asv/traces/CASE, written anew")


def main(arguments: argparse.Namespace) -> int:
    """Trace both sides, print their operators and say how to look at the traces."""
    # Else the profiler reports its start and stop, and each tensor that is older than the trace. What it wrote is checked.
    for variable, level in (("KINETO_LOG_LEVEL", "6"), ("TORCH_CPP_LOG_LEVEL", "ERROR")):
        os.environ.setdefault(variable, level)
    record.with_environment()
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        case = known_case(arguments.case)
        out = TRACES / case.name if arguments.out is None else arguments.out
        with staging(out, mine=arguments.out is None) as folder, sides(arguments.against, console) as both:
            touch_memory(case)
            found = {side.name: trace(case, side, folder) for side in both}
    except KeyboardInterrupt:
        print("\nInterrupted; no trace is written.", file=sys.stderr)
        return 130
    except (CannotMeasure, CannotTrace, events.BrokenTrace, UnknownRevision, OSError) as error:
        print(f"Could not trace: {error}", file=sys.stderr)
        return 2
    console.print(render(found, case))
    console.print("\n".join(directions(out, found)), highlight=False, markup=False, soft_wrap=True)
    return 0


@contextmanager
def staging(out: Path, mine: bool) -> Iterator[Path]:
    """A folder whose content becomes that of `out` if all goes well; else it goes, and `out` is as it was.

    `out` must be new or empty, or `mine`: then what is there is replaced.
    """
    try:
        if not mine and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise CannotTrace(f"--out={out} holds something already; give a new or an empty folder")
        near = next(place for place in (out, *out.absolute().parents) if place.exists())
        folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=near))
    except OSError as error:
        raise CannotTrace(f"--out={out} cannot be written: {error.strerror}; give a folder that can") from error
    try:
        yield folder
        out.mkdir(parents=True, exist_ok=True)
        for former in out.iterdir() if mine else ():
            if former.is_dir() and not former.samefile(folder):
                shutil.rmtree(former)
        for run in folder.iterdir():
            run.rename(out / run.name)
    finally:
        shutil.rmtree(folder)


@contextmanager
def sides(against: str, console: Console) -> Iterator[list[Side]]:
    """TailDropout of the working tree, and what it is compared with."""
    if against in ("nn.Dropout", "copy"):
        sys.path.insert(0, str(ROOT))
        try:
            package = import_module("taildropout")
        except ImportError as error:
            raise CannotTrace(f"the package cannot be imported: {error}") from error
        yield [Side("TailDropout", "TailDropout", package), Side(against, against, package)]
        return
    commit = resolve(against)
    with ExitStack() as stack:
        both: list[Side] = []
        # Both are built in the same way, so that one with C code is not compared with one that lacks it by chance.
        for name, revision in (("TailDropout", None), (f"TailDropout-{commit[:8]}", against)):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "source"
            version = extract(workload, revision, folder)
            built = version.note or "with its C code"
            console.print(f"{name} is {version}, {built}", highlight=False, markup=False, soft_wrap=True)
            both.append(Side(name, "TailDropout", load(folder, f"taildropout_traced_{len(both)}", str(version))))
        yield both


def load(folder: Path, name: str, version: str) -> ModuleType:
    """The package of a version."""
    try:
        return workload.load(folder, name)
    except Exception as error:  # whatever an old version's import may raise
        raise CannotTrace(f"{version} cannot be imported: {type(error).__name__}: {error}") from error


def trace(case: "Case", side: Side, folder: Path) -> dict[str, Operator]:
    """Write the trace of one side as a run in `folder`, and give its operators."""
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
                wait()  # so that a step holds what it has started
            profiler.step()
    found = events.operators(events.median_step(events.mend(run), STEPS))
    if not found.keys() - {OUTSIDE}:
        raise CannotTrace(
            f"{side.name} in {case.name} ran no operator here: it works in other processes, which a trace does not see"
        )
    if on_gpu and not any(operator.device for operator in found.values()):
        raise CannotTrace("the profiler saw no kernel on the GPU; KINETO_LOG_LEVEL=0 shows what it says of it")
    return found


def touch_memory(case: "Case") -> None:
    """Have memory at hand that was written to: a step that meets fresh pages instead takes several times as long."""
    import torch

    if case.device == "cpu":
        count = -(-TOUCHED * case.numel // BLOCK)
        [torch.empty(BLOCK, dtype=torch.uint8).fill_(1) for _ in range(count)]  # all alive at once, then free


def render(found: Mapping[str, Mapping[str, Operator]], case: "Case") -> Table:
    """The operators in which either side spends most, side by side."""
    gpu = case.device == "cuda"
    table = Table(title=f"{case.name}: where the time goes", caption=Text(NOTE), caption_justify="left")
    table.add_column("operator", overflow="fold")
    for side in found:
        table.add_column(f"{side}: calls", justify="right")
        table.add_column("self time", justify="right", no_wrap=True)
        if gpu:
            table.add_column("on the GPU", justify="right", no_wrap=True)
        table.add_column("bytes", justify="right", no_wrap=True)

    def cost(name: str) -> float:
        return max((each.device if gpu else each.host) for side in found.values() if (each := side.get(name)))

    def row(heading: str, of: Callable[[Mapping[str, Operator]], Operator | None]) -> None:
        table.add_row(*map(Text, [heading, *(cell for side in found.values() for cell in cells(of(side), gpu))]))

    names = {name for side in found.values() for name in side} - {OUTSIDE}
    ordered = sorted(names, key=lambda name: (-cost(name), name))
    for name in ordered[:ROWS]:
        row(name, lambda side, name=name: side.get(name))
    if rest := ordered[ROWS:]:
        row(f"{len(rest)} others", lambda side: events.total(side[name] for name in rest if name in side))
    row(OUTSIDE, lambda side: side.get(OUTSIDE))
    table.add_section()
    row("all", lambda side: events.total(side.values()))
    return table


def cells(operator: Operator | None, gpu: bool) -> Sequence[str]:
    """Calls, times and bytes; empty where the side has no such operator."""
    if operator is None:
        return ("",) * (4 if gpu else 3)
    device = [format_seconds(operator.device * 1e-6)] if gpu else []
    return str(operator.calls or ""), format_seconds(max(operator.host, 0.0) * 1e-6), *device, size(operator.allocated)


def size(count: int) -> str:
    """Bytes with three digits and a unit."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} B"


def directions(out: Path, found: Iterable[str]) -> list[str]:
    """How to look at the traces: commands as they are typed here."""
    show = [shown(Path(sys.executable).with_name("tensorboard")), "--logdir", shown(out)]
    return [
        f"The runs {' and '.join(found)} are in {shown(out)}. See them with:",
        f"  {shlex.join(show)}",
        "and open http://localhost:6006/#pytorch_profiler, or a file from there in https://ui.perfetto.dev.",
    ]


def shown(path: Path) -> str:
    """A path from this folder, where it lies below it."""
    here, path = Path.cwd(), Path(os.path.abspath(path))
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
