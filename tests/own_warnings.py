"""Recognise this project's own warnings and lines of output, as opposed to those of torch, numpy or Python."""

import re
import sys
import warnings
from typing import Any

NAMES = re.compile(r"\b(taildropout|benchmarks)", re.IGNORECASE)
ELSEWHERE = re.compile(r"\S?.*/(site|dist)-packages/(?!taildropout/)\S*")  # the path of a file of another package
FAILED = re.compile(r"^(Traceback|\w*Error\b|Could not)")


class OwnWarning(Warning):
    """A warning of this project's own, whatever its category; an error in every test."""


def own(module: str, message: object) -> bool:
    """Return True if a warning comes from `module` of this project, or names the project."""
    return bool(NAMES.match(module) or NAMES.search(ELSEWHERE.sub("", str(message))))


def own_lines(output: str) -> list[str]:
    """Return the lines that name this project or report a failure, without torch's logs."""
    return [line for line in output.splitlines() if NAMES.search(ELSEWHERE.sub("", line)) or FAILED.search(line)]


def mark_own_warnings() -> None:
    """Make `warnings.warn` add `OwnWarning` to the category of this project's own warnings.

    The filters of the standard library cannot recognise them: with `stacklevel=2` a warning belongs to the calling code.
    """
    warn = warnings.warn

    def marked(message: Any, category: type[Warning] | None = None, stacklevel: int = 1, *args: Any, **options: Any) -> None:
        if own(sys._getframe(1).f_globals.get("__name__", ""), message):
            kind = type(message) if isinstance(message, Warning) else category or UserWarning
            both = type(kind.__name__, (OwnWarning, kind), {})
            message, category = (both(*message.args), None) if isinstance(message, Warning) else (message, both)
        warn(message, category, stacklevel + 1, *args, **options)

    warnings.warn = marked
