"""Measure how often the gate errs: complete trials of the gate, accumulated over several runs of this command.

    python -m benchmarks calibrate                    begin a record for this machine
    python -m benchmarks calibrate --resume           add to it, until Ctrl-C
    python -m benchmarks calibrate --resume --hours 2
    python -m benchmarks calibrate --resume --hours 0 only evaluate the recorded trials
    python -m benchmarks calibrate --resume --lockstep --machine quiet    in lock step; leave the machine alone

gate/calibration.py says what a trial is, gate/lockstep_calibration.py what it is in lock step. A trial counts by how busy the
machine was, and not by --machine. The record is benchmarks/records/gate/MACHINE.json; `table` puts its error rates into
the documentation. Exit code: 0 evaluated, 2 could not calibrate.
"""

import argparse
import sys
import time

from rich.console import Console

from .. import workload
from ..gate import error_rates
from ..gate.calibration import accumulate
from ..gate.lockstep_calibration import accumulate_pairs
from ..gate.processes import Broken
from ..gate.records import load_record, record_path, store_record
from ..system.git import GitError, UnknownRevision, git


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--resume", action="store_true", help="add to this machine's record")
    parser.add_argument("--hours", type=float, default=float("inf"), help="time to run trials for (default: until Ctrl-C)")
    parser.add_argument("--lockstep", action="store_true", help="pairs of processes in lock step, as for any asv project")
    parser.add_argument(
        "--machine",
        choices=("quiet", "busy"),
        help="only trials of time, and none with (quiet) or without (busy) a competing process on each core",
    )


def main(arguments: argparse.Namespace) -> int:
    """Run trials until the time is up, store each of them, and print the error rates; return the exit code."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    file = record_path(workload.records)

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    try:
        record = load_record(file)
        if record["trials"] and not arguments.resume:
            raise ValueError(f"{file} holds {len(record['trials'])} trials; add to them with --resume, or move the file away")
        if arguments.hours > 0:
            end = time.monotonic() + 3600 * arguments.hours
            try:
                if arguments.lockstep:
                    commit = git("rev-parse", "HEAD", folder=workload.repository)
                    accumulate_pairs(record, file, end, commit, say, arguments.machine)
                else:
                    accumulate(workload, record, file, end, say, arguments.machine)
            except KeyboardInterrupt:
                say("Interrupted; the trials so far are kept.")
        record["rates"] = error_rates.evaluate(record)
        store_record(record, file)
    except (ValueError, Broken, UnknownRevision, GitError, OSError) as error:
        print(f"Could not calibrate: {error}", file=sys.stderr)
        return 2
    say(error_rates.markdown(record))
    return 0
