"""Write the result of a comparison to files, and show its progress."""

import errno
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..system.errors import CannotMeasure
from ..system.files import is_special, write_atomically
from ..system.units import counted
from .measuring import Comparison
from .pairs import PairComparison
from .report import Row, junit, line, markdown, ordered, overall
from .versions import Version


class Output(Console):
    """The console of a command: as wide as the terminal, or 160 columns where there is none."""

    def __init__(self) -> None:
        super().__init__(width=None if sys.stdout.isatty() else 160)

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError again: rich would exit with 1, which says that a benchmark is slower."""
        # So that the interpreter, as it ends, does not meet the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise BrokenPipeError(errno.EPIPE, "standard output was closed before all was written there")


@dataclass(frozen=True)
class Files:
    """The files to write; None writes no file, but Markdown then goes to $GITHUB_STEP_SUMMARY if that is set."""

    verdict: Path | None = None  # JSON without the rounds
    everything: Path | None = None  # JSON with the rounds
    junit: Path | None = None
    markdown: Path | None = None


def summary(rows: Sequence[Row], base: str, head: str) -> tuple[str, str]:
    """Return a title, and the line of the verdict; `base` and `head` describe the versions."""
    return f"{head} against {base}", line(rows, base, head)


def verdict_json(
    rows: Sequence[Row], base: Mapping[str, Any], head: Mapping[str, Any], threshold: float, verdict_line: str
) -> dict[str, Any]:
    """Return a verdict as its JSON file stores it; `base` and `head` identify the versions, each with a `label`."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    stored = {"version": 1, "verdict": overall(rows), "line": verdict_line, "date": date, "base": base, "head": head}
    return stored | {"threshold": threshold, "rows": [asdict(row) for row in ordered(rows)]}


def version_json(version: Version) -> dict[str, Any]:
    """Return the fields of a version that identify it in JSON."""
    return {"label": version.label, "commit": version.commit, "dirty": version.dirty, "digest": version.digest}


def refuse_unwritable(asked: Mapping[str, str | None]) -> None:
    """Raise CannotMeasure for a file that could not be written after all the measuring; `asked` maps options to paths."""
    taken: dict[Path, str] = {}
    for option, name in asked.items():
        if name is None:
            continue
        file = Path(name).absolute()
        file = file if is_special(file) else file.resolve()
        if file.is_dir():
            raise CannotMeasure(f"{option}={name} is a folder; give another file")
        if file in taken:
            raise CannotMeasure(f"{option} and {taken[file]} name the same file, {name}; give another file")
        taken[file] = option
        if is_special(file):
            if not os.access(file, os.W_OK):
                raise CannotMeasure(f"{option}={name} cannot be written; give another file")
            continue
        there = next(folder for folder in file.parents if folder.exists())
        try:
            with tempfile.TemporaryFile(dir=there):  # folders below it are made when the file is written
                pass
        except OSError as error:
            raise CannotMeasure(f"{option}={name} cannot be written: {there}: {error.strerror}; give another file") from None


def write_files(files: Files, rows: Sequence[Row], title: str, stored: Mapping[str, Any], details: Mapping[str, Any]) -> None:
    """Write the files that `files` names; `stored` is the verdict for JSON, `details` are added to it in `everything`."""
    if files.verdict:
        write_atomically(files.verdict, json.dumps(stored, indent=1) + "\n")
    if files.everything:
        write_atomically(files.everything, json.dumps({**stored, **details}) + "\n")
    if files.junit:
        write_atomically(files.junit, junit(rows, title))
    if files.markdown:
        write_atomically(files.markdown, markdown(rows, title, stored["line"]))
    elif step_summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(step_summary, "a") as file:
            file.write(markdown(rows, title, stored["line"]))


@contextmanager
def progress(comparison: Comparison | PairComparison, console: Console) -> Iterator[None]:
    """Show how many processes, or pairs, have ended while the context lasts; without a terminal, say when they start."""
    unit = "pair" if isinstance(comparison, PairComparison) else "process"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("")

        def started(what: str, processes: int) -> None:
            total = int(bars.tasks[0].completed) + processes
            bars.update(task, description=what, total=total)
            if not bars.console.is_terminal:
                console.print(f"{what}: {counted(processes, unit)}", highlight=False)

        comparison.on_start, comparison.on_end = started, lambda: bars.advance(task)
        yield
