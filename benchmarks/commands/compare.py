"""The regression gate: is HEAD slower than BASE?

    python -m benchmarks compare main                 this working tree against main
    python -m benchmarks compare main~10 main         two commits
    python -m benchmarks compare HEAD~1 HEAD --case 8x16-f32-train --budget 5m

Both versions of the package are loaded in one process and measured in turn, in fresh processes, until the change is
known well enough: time, instructions and exact counts, each with a threshold of its own (verdict.py says how, `calibrate`
how often it errs). The suite is that of the working tree.

Exit code: 0 pass, 1 regressed, 2 could not measure, 3 unstable, which is not a pass.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .. import ROOT
from ..gate.measuring import Gate
from ..gate.processes import Broken
from ..gate.report import Row, exit_code, junit, line, markdown, ordered, overall, render
from ..gate.revisions import UnknownRevision, extract
from ..gate.rule import REGRESSED, THRESHOLD, UNSTABLE
from ..gate.signals import count_rows, instruction_rows, lack_rows, time_rows
from ..suite.cases import CASES
from ..system.files import write
from .run import CannotMeasure, select

VERDICT = ROOT / ".asv" / "verdict.json"  # of the last comparison, for the dashboard


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("base", metavar="BASE", help="the version to compare with: a branch, tag or commit")
    parser.add_argument("head", metavar="HEAD", nargs="?", help="default: the working tree, with its changes")
    parser.add_argument("--profile", choices=("quick", "full"), default="quick")
    parser.add_argument("--case", action="append", metavar="NAME", help="only this case; may be given again")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cpu, or that of each --case")
    parser.add_argument("--budget", type=duration, default=float("inf"), metavar="TIME", help="such as 10m or 90s")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="of time, as a fraction (default %(default)s)")
    parser.add_argument("--markdown", metavar="FILE", help="write the table there; default $GITHUB_STEP_SUMMARY where set")
    parser.add_argument("--junit", metavar="FILE")
    parser.add_argument("--json", metavar="FILE", help="every round of every process, environment and both commits")


def duration(text: str) -> float:
    """Seconds from 90s, 10m or 1h."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 90s, 10m or 1h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def main(arguments: argparse.Namespace) -> int:
    """Compare, show, store; the exit code."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    if not 0 < arguments.threshold < 1:
        print(f"--threshold={arguments.threshold} is no fraction of a time; give one above 0 and below 1", file=sys.stderr)
        return 2
    try:
        arguments.device = arguments.device or (None if arguments.case else "cpu")
        names = select(arguments)
        if not names:
            raise CannotMeasure(f"none of these cases runs on {arguments.device}; leave --device out")
        with tempfile.TemporaryDirectory(prefix="taildropout-gate-", ignore_cleanup_errors=True) as folder:
            gate = prepare(arguments.base, arguments.head, Path(folder))
            gate.deadline = time.monotonic() + arguments.budget
            return report(gate, compare(gate, names, arguments.threshold, console), arguments, console)
    except (CannotMeasure, UnknownRevision, Broken, OSError) as error:
        print(f"Could not measure: {error}", file=sys.stderr)
        return 2


def prepare(base: str, head: str | None, folder: Path) -> Gate:
    """Both versions, taken out and built."""
    return Gate(extract(base, folder / "base"), extract(head, folder / "head"), folder, seed=int(time.time()))


def compare(gate: Gate, names: Sequence[str], threshold: float, console: Console) -> list[Row]:
    """Exact counts, instructions, then time: a row for each case and signal."""
    same = " They are the same source: what differs is noise." if gate.base.digest == gate.head.digest else ""
    console.print(f"base {gate.base}\nhead {gate.head}{same}", highlight=False, soft_wrap=True)
    for side, version in (("base", gate.base), ("head", gate.head)):
        if not version.built:
            console.print(f"{side} has no C code (none in that version, or no compiler here): it runs plain torch")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("")

        def show(what: str, processes: int) -> None:
            total = int(progress.tasks[0].completed) + processes
            progress.update(task, description=what, total=total)
            if not progress.console.is_terminal:
                console.print(f"{what}: {processes} process(es)", highlight=False)

        gate.begins, gate.ends = show, lambda: progress.advance(task)
        rows = count_rows(gate, names)
        rows += instruction_rows(gate, usable(gate, names))
        rows += time_rows(gate, usable(gate, names), threshold)
    return rows + lack_rows(gate, names)


def usable(gate: Gate, names: Sequence[str]) -> list[str]:
    """The cases that both sides can run, as far as is known."""
    return [name for name in names if name not in gate.failures and name not in gate.lacking]


def report(gate: Gate, rows: Sequence[Row], arguments: argparse.Namespace, console: Console) -> int:
    """Show the rows, write what was asked for, and say what to do next."""
    title = f"{gate.head} against {gate.base}"
    verdict = line(rows, str(gate.base), str(gate.head))
    console.print(render(rows, title))
    console.print(verdict, style="bold", highlight=False, soft_wrap=True)
    for advice in next_steps(gate, rows, arguments):
        console.print(advice, highlight=False, soft_wrap=True)
    stored = {"version": 1, "verdict": overall(rows), "line": verdict, "date": datetime.now(UTC).isoformat(timespec="seconds")}
    stored |= {side: described(getattr(gate, side)) for side in ("base", "head")}
    stored |= {"threshold": arguments.threshold, "rows": [asdict(row) for row in ordered(rows)]}
    write(VERDICT, json.dumps(stored, indent=1) + "\n")
    if arguments.json:
        everything = stored | {"environment": gate.notes(), "seed": gate.seed, "processes": gate.raw}
        write(Path(arguments.json), json.dumps(everything) + "\n")
    if arguments.junit:
        write(Path(arguments.junit), junit(rows, title))
    if arguments.markdown:
        write(Path(arguments.markdown), markdown(rows, title, verdict))
    elif summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(summary, "a") as file:
            file.write(markdown(rows, title, verdict))
    return exit_code(rows)


def described(version: Any) -> dict[str, Any]:
    """What identifies a version."""
    return {"label": version.label, "commit": version.commit, "dirty": version.dirty, "digest": version.digest}


def next_steps(gate: Gate, rows: Sequence[Row], arguments: argparse.Namespace) -> list[str]:
    """What to run next where something is slower, or not known."""
    if overall(rows) == UNSTABLE:
        return ["Run it again with more --budget, with fewer cases (--case), or on a quieter machine."]
    slower = [row.case for row in ordered(rows) if row.verdict == REGRESSED and row.case in CASES]
    if not slower:
        return []
    case = slower[0]
    checked_out = f"git checkout --detach {arguments.head}; " if arguments.head else ""
    steps = [f"What changed in it: {checked_out}python -m benchmarks trace {case} --against {arguments.base}"]
    if arguments.head:
        steps.append(
            f"Which commit did it (in a second worktree, from {gate.base.commit[:8]} to {gate.head.commit[:8]}): "
            f"see 'Finding the commit' in CONTRIBUTING.md, with --case {case}"
        )
    return steps
