"""Write the tables of README.md and docs/ between their markers: speed, the gate's error rates, and the examples' results.

Exit code: 0 written, or up to date; 1 (--check) not up to date; 2 a table cannot be made.
"""

import argparse
import sys
from pathlib import Path

from ..results import tables
from ..results.tables import CannotFill
from ..system.files import write_atomically


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--file", type=Path, action="append", help="a page instead of README.md and docs/; can be repeated")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is not up to date")


def main(arguments: argparse.Namespace) -> int:
    """Write the tables or, with --check, compare them with the pages; return the exit code. Raises CannotFill."""
    makers = tables.makers()
    before = {page: page.read_text(encoding="utf-8") for page in arguments.file or tables.pages()}
    after = {page: tables.fill(page, text, makers) for page, text in before.items()}
    shown = [name for page, text in after.items() for name in tables.names(page, text)]
    if not shown:
        raise CannotFill(f"no page has a marker <!-- table:NAME -->; a NAME is one of {', '.join(makers)}")
    old = [page for page, text in after.items() if text != before[page]]
    if arguments.check:
        for page in old:
            print(f"{page.name} differs from the stored records; run: python -m benchmarks table", file=sys.stderr)
        return int(bool(old))
    for page in old:
        write_atomically(page, after[page])
    print(f"{len(shown)} tables on {len(after)} pages, {len(old)} of the pages changed")
    return 0
