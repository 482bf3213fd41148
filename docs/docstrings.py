"""A Sphinx extension: the docstrings, which are written to be read in an editor, as reStructuredText.

`code` in single quotes may have a letter after it, as in the plural of a class. A bar is a bar, as in |x|. The docstring of a
property is plain text, which may hold a colon.
"""

import re
from typing import Any

from sphinx.application import Sphinx

NAPOLEON = 500  # when napoleon reads a docstring: extensions with a lower number come before it
PLURAL = re.compile(r"(?<!`)`([^`]+)`(?=\w)")
BAR = re.compile(r"\|(?=[^`]*(?:`[^`]*`[^`]*)*$)")  # outside of code


def marked_up(line: str) -> str:
    """Return a line with an end to code before a letter, and its bars escaped; an example stays as it is."""
    if line.lstrip().startswith((">>>", "...")):
        return line
    return BAR.sub(r"\\|", PLURAL.sub(r"`\1`\\ ", line))


def before_napoleon(_app: Sphinx, what: str, name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Mark up a docstring."""
    lines[:] = map(marked_up, lines)
    if what == "property":
        KEPT[name] = list(lines)


def after_napoleon(_app: Sphinx, what: str, name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Undo napoleon for a property: it takes what stands before a colon for a type."""
    if what == "property":
        lines[:] = KEPT.pop(name)


KEPT: dict[str, list[str]] = {}


def setup(app: Sphinx) -> dict[str, bool]:
    """Have autodoc call both."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", before_napoleon, priority=NAPOLEON - 1)
    app.connect("autodoc-process-docstring", after_napoleon, priority=NAPOLEON + 1)
    return {"parallel_read_safe": True}
