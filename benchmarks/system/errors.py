"""The errors that a command reports as one line, without a traceback."""

from typing import ClassVar


class CommandError(Exception):
    """A problem that the user of a command can solve: `python -m benchmarks` prints one line and exits with 2."""

    summary: ClassVar[str] = "Could not continue"


class CannotMeasure(CommandError):
    """The benchmarks cannot run at all."""

    summary = "Could not measure"
