"""Trace a case with torch.profiler, beside nn.Dropout, a copy or another version, and show where the time goes.

    python -m benchmarks trace 1024x512-f32-train                    beside nn.Dropout
    python -m benchmarks trace 1024x512-f32-train --against HEAD~3   the working tree beside a revision

Each side is a run of TensorBoard's profiler plugin: a folder with one Chrome trace, which has shapes, memory, stacks and
modules. The printed table is made from these traces. Exit code: 0 traced, 2 could not trace; then no file is left behind.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from .. import ROOT
from ..profiling.table import render
from ..profiling.trace import sides, staging, touch_memory, trace
from ..results import recording
from ..results.choice import known_case

TRACES = ROOT / ".asv" / "traces"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("case", metavar="CASE", help="a case, such as 1024x512-f32-train")
    parser.add_argument(
        "--against",
        default="nn.Dropout",
        metavar="WHAT",
        help="nn.Dropout, copy, or a revision of the package (default %(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="an empty or new folder; default .asv/traces/CASE, replaced")


def main(arguments: argparse.Namespace) -> int:
    """Trace both sides, print their operators and how to view the traces; return 0. Raises CannotTrace."""
    # Otherwise the profiler logs its start and stop, and each tensor older than the trace. `trace` checks the traces itself.
    for variable, level in (("KINETO_LOG_LEVEL", "6"), ("TORCH_CPP_LOG_LEVEL", "ERROR")):
        os.environ.setdefault(variable, level)
    recording.with_environment()
    console = Console(width=None if sys.stdout.isatty() else 140)
    case = known_case(arguments.case)
    out = TRACES / case.name if arguments.out is None else arguments.out
    with staging(out, replace=arguments.out is None) as folder, sides(arguments.against) as both:
        for side in both:
            if side.description:
                console.print(side.description, highlight=False, markup=False, soft_wrap=True)
        touch_memory(case)
        operators = {side.name: trace(case, side, folder) for side in both}
    console.print(render(operators, case))
    console.print("\n".join(directions(out, operators)), highlight=False, markup=False, soft_wrap=True)
    return 0


def directions(out: Path, names: Iterable[str]) -> list[str]:
    """Return lines that say where the runs `names` are and how to view them."""
    command = [relative(Path(sys.executable).with_name("tensorboard")), "--logdir", relative(out)]
    return [
        f"The runs {' and '.join(names)} are in {relative(out)}. View them with:",
        f"  {shlex.join(command)}",
        "and open http://localhost:6006/#pytorch_profiler, or a file from there in https://ui.perfetto.dev.",
    ]


def relative(path: Path) -> str:
    """Return a path relative to the current folder if it lies below that folder."""
    here, path = Path.cwd(), Path(os.path.abspath(path))
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
