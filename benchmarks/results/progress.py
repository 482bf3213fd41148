"""One line of progress with an estimate of the time left; in a log, a line per chunk of figures instead."""

from collections.abc import Callable
from time import monotonic
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ..system.units import format_minutes

SECONDS_PER_FIGURE = 6.0  # on two slow cores; the estimate until this run has measured `ENOUGH` figures
ENOUGH = 3


class ProgressLine:
    """The progress of a run, shown in a terminal as one line that is rewritten."""

    def __init__(self, console: Console, clock: Callable[[], float] = monotonic) -> None:
        self.console, self.clock = console, clock
        self.total, self.began, self.title = 0, clock(), ""
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self.task = self.bar.add_task("", total=None, left="")

    def __enter__(self) -> "ProgressLine":
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stage(self, text: str) -> None:
        """Show that work of unknown length has begun."""
        self.bar.update(self.task, description=text, total=None, left="")
        if not self.console.is_terminal:
            self.note(text)

    def begin(self, title: str, total: int, before: int) -> None:
        """Begin to count the `total` figures that this run measures; `before` further figures were measured in earlier runs."""
        self.title, self.total, self.began = title, total, self.clock()
        self.bar.update(self.task, description=title, total=total, completed=0, left="")
        if not self.console.is_terminal:
            self.note(f"{title}: {total} figures to measure, {before} measured before")

    def show(self, done: float, name: str = "") -> None:
        """Show that `done` figures are measured, the last one of the benchmark `name`."""
        left = f"about {format_minutes(self.left(done))} left" if done < self.total else "done"
        description = f"{self.title} {name}".strip()
        self.bar.update(self.task, description=description, completed=done, left=f"{done:.0f}/{self.total}, {left}")
        if not self.console.is_terminal and not name and done < self.total:
            self.note(f"{done:.0f} of {self.total} figures, {left}")

    def left(self, done: float) -> float:
        """Estimate the seconds until all figures are measured, from this run's own speed once it is known."""
        seconds = (self.clock() - self.began) / done if done >= ENOUGH else SECONDS_PER_FIGURE
        return (self.total - done) * seconds
