"""Versions of a workload's package, taken out of git or from the working tree, and built."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ..system.git import UnknownRevision, changed, export
from .workload import Workload

SOURCE_SUFFIXES = (".py", ".c", ".cpp", ".cu")


@dataclass(frozen=True)
class Version:
    """One version of a package, ready to be loaded from `folder`."""

    label: str  # as the user named it
    commit: str  # full name; for the working tree, the name of its HEAD
    dirty: bool  # True for a working tree with changes beside that commit
    folder: Path  # holds the package's folder
    digest: str  # of the sources: equal for the same code
    note: str = ""  # what building had to say, such as "no C code"

    def __str__(self) -> str:
        return f"{self.label} ({self.commit[:8]}{' with changes' if self.dirty else ''})"


def extract(workload: Workload, revision: str | None, folder: Path) -> Version:
    """Put the version of `revision` into `folder` and build it; None is the working tree as it is now.

    Raises UnknownRevision or OSError (a full disk, for instance).
    """
    commit = export(revision, folder, workload.sources, workload.repository)
    dirty = revision is None and changed(workload.sources, workload.repository)
    if not (folder / workload.package / "__init__.py").exists():
        raise UnknownRevision(f"commit {commit[:8]} holds no package {workload.package!r} yet; give a later one")
    label = "working tree" if revision is None else revision
    return Version(label, commit, dirty, folder, digest(folder, workload.package), workload.build(folder))


def digest(folder: Path, package: str) -> str:
    """Return a hash over names and contents of the package's sources."""
    sources = hashlib.sha256()
    for file in sorted((folder / package).rglob("*")):
        if file.suffix in SOURCE_SUFFIXES:
            sources.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes() + b"\0")
    return sources.hexdigest()
