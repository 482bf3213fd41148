"""Does the gate see a slowdown of 10 % here and now?

    python -m benchmarks canary            injected into HEAD
    python -m benchmarks canary v0.1.0     into another commit

A slowdown of known size is injected into a copy of the commit: bytecode in a small case, traffic in a large one. The gate has
to call each of them REGRESSED, and by about that much. If it does not, its verdicts on other commits mean nothing now.

Exit code: 0 it does, 1 it does not, 2 could not measure.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from .. import workload
from ..gate.canary import EFFECT, canary_line, judge_canary, unseen
from ..gate.processes import Broken
from ..gate.report import render
from ..gate.workload import Slowdown
from ..system.files import write_atomically
from ..system.git import GitError, UnknownRevision


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("commit", nargs="?", default="HEAD", metavar="COMMIT")
    parser.add_argument("--device", choices=tuple(workload.CANARY), default="cpu")
    parser.add_argument("--json", metavar="FILE", help="write the finding there")


def main(arguments: argparse.Namespace) -> int:
    """Inject, compare, and say whether it was seen; return the exit code."""
    console = Console(width=None if sys.stdout.isatty() else 160)

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    slowdowns = {case: Slowdown(kind, EFFECT) for case, kind in workload.CANARY[arguments.device].items()}
    try:
        with tempfile.TemporaryDirectory(prefix="taildropout-canary-", ignore_cleanup_errors=True) as folder:
            rows = judge_canary(workload, slowdowns, arguments.commit, Path(folder), say)
        missed = unseen(rows)
        if arguments.json:
            write_atomically(Path(arguments.json), json.dumps({"line": canary_line(rows, missed)}) + "\n")
    except (Broken, UnknownRevision, GitError, OSError) as error:
        print(f"Could not measure: {error}", file=sys.stderr)
        return 2
    console.print(render(rows, f"an injected slowdown of {EFFECT:+.0%}"))
    console.print(canary_line(rows, missed), style="bold", highlight=False, soft_wrap=True)
    return 1 if missed else 0
