"""Write the generated tables into the README and the pages of docs/: speed, how often the gate errs, what the examples found.

Exit code: 0 written or up to date, 1 not up to date (--check), 2 a table or its place is missing.
"""

import argparse
import sys
from pathlib import Path

from ..results import tables
from ..results.pages import filled, pages
from ..system.files import write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--file", type=Path, nargs="+", help="the pages that hold the markers; default: README.md, docs/*.md")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is not up to date")


def main(arguments: argparse.Namespace) -> int:
    """Write the tables, or check that they are up to date."""
    files = arguments.file or pages()
    try:
        texts = filled(files, tables.tables())
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    stale = [file for file, text in texts.items() if text != file.read_text(encoding="utf-8")]
    names = ", ".join(file.name for file in stale)
    if arguments.check:
        if stale:
            print(f"{names}: not what the records say; run: python -m benchmarks table", file=sys.stderr)
        return int(bool(stale))
    for file in stale:
        write(file, texts[file])
    print(f"wrote {names}" if stale else "every table is up to date")
    return 0
