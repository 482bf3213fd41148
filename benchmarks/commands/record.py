"""Measure this working tree in one process, without asv, git or a network, and store the record of this machine.

    python -m benchmarks record                            the quick cases
    python -m benchmarks record --profile full             all cases
    python -m benchmarks record --profile full --device cuda

A record holds all cases of a profile, measured together; it replaces this machine's former record in benchmarks/records.
Exit code: 0 measured, 1 a case failed, 2 could not measure.
"""

import argparse
import importlib.util
import sys

from rich.console import Console

from .. import ROOT
from ..results import choice, records
from ..results.speed_table import record_rows, record_title, render
from ..system.errors import CannotMeasure

SECONDS = 2.0  # per case
WIDTH = None if sys.stdout.isatty() else 140  # of the console; None is the terminal's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_choice(parser)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time per case (default %(default)s)")


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the cases."""
    parser.add_argument("--profile", choices=("quick", "full"), default="quick")
    parser.add_argument("--case", action="append", metavar="NAME", help="only this case; can be repeated")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="only the cases of this device")


def main(arguments: argparse.Namespace) -> int:
    """Measure the cases, print the table and, unless --case is set, store the record; return the exit code.

    Raises CannotMeasure.
    """
    from ..results import recording

    if not 0 < arguments.seconds < float("inf"):
        raise CannotMeasure(f"--seconds={arguments.seconds} is not a time to measure for; give a number above 0")
    device = arguments.device or "cpu"
    names = choice.select(arguments.case, arguments.profile, device)
    if not names:
        raise CannotMeasure(f"none of these cases is for --device {device}")
    recording.with_environment()
    if device == "cuda" and not choice.has_cuda():
        raise CannotMeasure("torch finds no CUDA device")
    if importlib.util.find_spec("taildropout") is None:
        raise CannotMeasure("there is no package `taildropout`; run this in the project's folder")
    console = Console(width=WIDTH)
    record = recording.record(names, device, arguments.seconds, console)
    rows = record_rows(record)
    console.print(render(rows, record_title(record)))
    failures = [f"{name}: {stored['error']}" for name, stored in record["cases"].items() if "error" in stored]
    if not any(row.ratio for row in rows) or failures:
        print("\n".join(["Nothing is stored, since a case failed or none was measured.", *failures]), file=sys.stderr)
        return 1
    if arguments.case:
        console.print("Nothing is stored: a record holds all cases of a profile, measured together.")
    else:
        file = records.store(record, records.FOLDER)
        console.print(f"Stored in {file.relative_to(ROOT)}. Next: python -m benchmarks table", soft_wrap=True)
    return 0
