"""Does the gate see a slowdown of 10 % here and now?

    python -m benchmarks canary            planted in HEAD
    python -m benchmarks canary v0.1.0     in another commit

A slowdown of known size is planted in a copy of the commit: bytecode in a small case, traffic in a large one. The gate has to
call each of them REGRESSED, and by about that much. If it does not, then what it says tonight of other commits means nothing.

Exit code: 0 it does, 1 it does not, 2 could not measure.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..gate.injection import plant, tuned
from ..gate.measuring import Gate
from ..gate.processes import Broken
from ..gate.report import Row, render
from ..gate.revisions import UnknownRevision, extract
from ..gate.rule import REGRESSED, THRESHOLD
from ..gate.signals import lack_rows, time_rows
from ..system.files import write
from .compare import usable

EFFECT = 0.10
SEEN = 0.05, 0.20  # what the gate may make of it; else the tuning failed, and another size was tried
PLANTED = {
    "cpu": {"8x16-f32-train": ("python", EFFECT), "1024x512-bf16-train": ("traffic", EFFECT)},
    # A call on a GPU is as long as its start on the host, until it moves megabytes.
    "cuda": {"cuda-8x16-f32-fwd": ("python", EFFECT), "cuda-1024x512-f32-train": ("python", EFFECT)},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("commit", nargs="?", default="HEAD", metavar="COMMIT")
    parser.add_argument("--device", choices=tuple(PLANTED), default="cpu")
    parser.add_argument("--json", metavar="FILE", help="write the finding there")


def main(arguments: argparse.Namespace) -> int:
    """Plant, compare, say whether it was seen."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        with tempfile.TemporaryDirectory(prefix="taildropout-canary-", ignore_cleanup_errors=True) as folder:
            rows = judged(arguments.commit, arguments.device, Path(folder), console)
        missed = unseen(rows)
        if arguments.json:
            write(Path(arguments.json), json.dumps({"line": line(rows, missed)}) + "\n")
    except (Broken, UnknownRevision, OSError) as error:
        print(f"Could not measure: {error}", file=sys.stderr)
        return 2
    console.print(render(rows, f"a planted slowdown of {EFFECT:+.0%}"))
    console.print(line(rows, missed), style="bold", highlight=False, soft_wrap=True)
    return 1 if missed else 0


def judged(commit: str, device: str, folder: Path, console: Console) -> list[Row]:
    """What the gate makes of a copy of a commit in which slowdowns are planted."""
    effects = PLANTED[device]
    version = extract(commit, folder / "base")

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    slowed = plant(version, folder / "slowed", tuned(version, folder, effects, say))
    gate = Gate(version, slowed, folder, seed=int(time.time()))
    return time_rows(gate, usable(gate, list(effects)), THRESHOLD) + lack_rows(gate, list(effects))


def unseen(rows: Sequence[Row]) -> list[str]:
    """The cases in which the gate did not see what was planted, or saw something else."""
    low, high = SEEN
    return [row.case for row in rows if row.verdict != REGRESSED or row.change is None or not low <= row.change <= high]


def line(rows: Sequence[Row], missed: Sequence[str]) -> str:
    """The finding in a sentence."""
    told = ", ".join(f"{row.case} {row.verdict}{'' if row.change is None else f' {row.change:+.1%}'}" for row in rows)
    return f"{EFFECT:+.0%} was planted, and {'not seen' if missed else 'seen'}: {told}."
