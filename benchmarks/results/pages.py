"""The pages that hold generated tables: the README and the pages of docs/.

A table stands between the markers `<!-- table:NAME -->` and `<!-- /table:NAME -->`, in one of the pages.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import ROOT

OPENING = re.compile(r"<!-- table:(\w+) -->")


def pages(root: Path = ROOT) -> list[Path]:
    """Return the README and the pages of docs/."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def between(text: str, name: str, table: str) -> str:
    """Return `text` with the table `name` replaced; raise ValueError unless both its markers stand there once, in order."""
    start, end = f"<!-- table:{name} -->", f"<!-- /table:{name} -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"the page must hold {start} and, after it, {end} once each")
    head, rest = text.split(start)
    return f"{head}{start}\n{table}\n{end}{rest.split(end)[1]}"


def filled(files: Sequence[Path], tables: Mapping[str, str]) -> dict[Path, str]:
    """Return the new text of each file: every table in its place.

    Raises ValueError if a table has no place, or two, or a marker names a table that nothing stored fills.
    """
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    places = [(name, file) for file, text in texts.items() for name in OPENING.findall(text)]
    if empty := {name for name, _ in places} - set(tables):
        raise ValueError(f"nothing stored fills the table(s) {', '.join(sorted(empty))}; run examples/NAME.py of each")
    for name, table in tables.items():
        found = [file for each, file in places if each == name]
        if len(found) != 1:
            names = ", ".join(file.name for file in files)
            raise ValueError(f"<!-- table:{name} --> stands {len(found)} times in {names}; it must stand there once")
        texts[found[0]] = between(texts[found[0]], name, table)
    return texts
