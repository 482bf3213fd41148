"""Versions of a workload's package, copied from a commit or from the working tree, and built."""

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
    commit: str  # full hash; for the working tree, the hash of its HEAD
    dirty: bool  # True for a working tree with changes beside that commit
    folder: Path  # holds the package's folder
    digest: str  # of the sources: equal for the same code
    note: str = ""  # of the build for the user, such as "no C code"

    def __str__(self) -> str:
        return f"{self.label} ({self.commit[:8]}{' with changes' if self.dirty else ''})"


def extract(workload: Workload, revision: str | None, folder: Path) -> Version:
    """Copy the version of `revision` to `folder`, build it and return it; None is the working tree as it is now.

    Raises UnknownRevision, or OSError if, for instance, the disk is full.
    """
    commit = export(revision, folder, workload.sources, workload.repository)
    dirty = revision is None and changed(workload.sources, workload.repository)
    if not (folder / workload.package / "__init__.py").exists():
        raise UnknownRevision(f"commit {commit[:8]} holds no package {workload.package!r} yet; give a later one")
    label = "working tree" if revision is None else revision
    return Version(label, commit, dirty, folder, digest(folder, workload.package), workload.build(folder))


def digest(folder: Path, package: str) -> str:
    """Return a hash over names and contents of the package's Python, C and CUDA sources under `folder`."""
    sources = hashlib.sha256()
    for file in sorted((folder / package).rglob("*")):
        if file.suffix in SOURCE_SUFFIXES:
            sources.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes() + b"\0")
    return sources.hexdigest()
