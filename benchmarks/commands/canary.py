"""Check that the gate sees a slowdown of 10 % on this machine.

    python -m benchmarks canary            a slowdown injected into HEAD
    python -m benchmarks canary v0.1.0     a slowdown injected into another commit

A copy of the commit gets extra Python code or extra memory traffic in some cases. The gate has to report each of these cases as
REGRESSED, by 5 % to 20 %. If it does not, its verdicts on other commits mean nothing at present.

Exit code: 0 every slowdown was seen, 1 a slowdown was not seen, 2 could not measure.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from .. import workload
from ..gate.canary import EFFECT, canary_line, judge_canary, unseen
from ..gate.report import render
from ..gate.workload import Slowdown
from ..system.files import write_atomically


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("commit", nargs="?", default="HEAD", metavar="COMMIT")
    parser.add_argument("--device", choices=tuple(workload.CANARY), default="cpu")
    parser.add_argument("--json", metavar="FILE", help="write the result, one sentence, to this file")


def main(arguments: argparse.Namespace) -> int:
    """Inject the slowdowns, compare, and print whether the gate saw them; return the exit code."""
    console = Console(width=None if sys.stdout.isatty() else 160)

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    slowdowns = {case: Slowdown(kind, EFFECT) for case, kind in workload.CANARY[arguments.device].items()}
    with tempfile.TemporaryDirectory(prefix="taildropout-canary-", ignore_cleanup_errors=True) as folder:
        rows = judge_canary(workload, slowdowns, arguments.commit, Path(folder), say)
    missed = unseen(rows)
    if arguments.json:
        write_atomically(Path(arguments.json), json.dumps({"line": canary_line(rows, missed)}) + "\n")
    console.print(render(rows, f"an injected slowdown of {EFFECT:+.0%}"))
    console.print(canary_line(rows, missed), style="bold", highlight=False, soft_wrap=True)
    return 1 if missed else 0
