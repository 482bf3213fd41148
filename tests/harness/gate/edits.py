"""Edited copies of a version, on which the tests of the gate try what it finds."""

import shutil
from dataclasses import replace
from pathlib import Path

from benchmarks.gate.versions import Version
from benchmarks.suite.loading import PACKAGE

SMALL = "8x16-f32-fwd"


def edited(
    version: Version, folder: Path, file: str = "layer.py", old: str = "", new: str = "", package: str = PACKAGE
) -> Version:
    """Return a copy of a version with one piece of text replaced, or some appended."""
    shutil.copytree(version.folder, folder)
    path = folder / package / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1) if old else text + new)
    return replace(version, folder=folder)


def forward_line(version: Version) -> str:
    """Return the line of the layer's source behind which a test can insert code."""
    text = (version.folder / PACKAGE / "layer.py").read_text()
    start = text.index("    def forward(")
    return text[start : text.index("\n", start) + 1]
