"""Versions of the package, taken out of git or from the working tree, built, and loaded under names of their own."""

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from .. import ROOT
from ..suite.loading import PACKAGE, load

__all__ = ["UnknownRevision", "Version", "extract", "git", "load", "resolve"]

NEEDED = (PACKAGE, "pyproject.toml", "README.md", "LICENSE")  # what building takes
BUILD = "from setuptools import setup; setup()"


class UnknownRevision(Exception):
    """A revision that git does not know, or that holds no package."""


@dataclass(frozen=True)
class Version:
    """One version of the package, ready to be loaded from `folder`."""

    label: str  # what was asked for
    commit: str  # full name; of the working tree, that of its HEAD
    dirty: bool  # whether it is the working tree with changes beside that commit
    folder: Path  # holds `taildropout/`
    digest: str  # of the sources: equal for the same code
    built: bool  # whether the optional C code is there

    def __str__(self) -> str:
        return f"{self.label} ({self.commit[:8]}{' with changes' if self.dirty else ''})"


def git(*words: str) -> str:
    """What git prints, stripped; empty where it fails."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def resolve(revision: str) -> str:
    """The full name of the commit that `revision` names."""
    if not git("rev-parse", "--git-dir"):
        raise UnknownRevision("this folder is no git repository; versions are taken from its history")
    found = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if not found:
        raise UnknownRevision(f"{revision!r} names no commit here; give a branch, a tag or a commit (git log shows them)")
    return found


def extract(revision: str | None, folder: Path) -> Version:
    """Put the package as it was at `revision` into `folder` and build it; None is the working tree as it is now.

    Raises UnknownRevision, OSError (a full disk, for instance).
    """
    commit = resolve("HEAD" if revision is None else revision)
    folder.mkdir(parents=True)
    if revision is None:
        copy_working_tree(folder)
        changed = git("status", "--porcelain", "--", *NEEDED)
    else:
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        changed = ""
    if not (folder / PACKAGE / "__init__.py").exists():
        raise UnknownRevision(f"commit {commit[:8]} holds no package {PACKAGE!r} yet; give a later one")
    label = "working tree" if revision is None else revision
    return Version(label, commit, bool(changed), folder, digest(folder), build(folder))


def copy_working_tree(folder: Path) -> None:
    """Copy what git tracks or would track, as it is on disk."""
    names = git("ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *NEEDED).split("\0")
    for name in filter(None, names):
        source, target = ROOT / name, folder / name
        if source.is_file():  # a deleted file is tracked still
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def digest(folder: Path) -> str:
    """A hash over names and contents of the package's sources."""
    found = hashlib.sha256()
    for file in sorted((folder / PACKAGE).rglob("*")):
        if file.suffix in (".py", ".c", ".cpp", ".cu"):
            found.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes() + b"\0")
    return found.hexdigest()


def build(folder: Path) -> bool:
    """Build what the version's own pyproject.toml says, beside its sources; without a compiler it is plain torch."""
    if not (folder / "pyproject.toml").exists():
        return False
    command = [sys.executable, "-c", BUILD, "--quiet", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, capture_output=True, check=False)
    return any((folder / PACKAGE).rglob("*.so")) or any((folder / PACKAGE).rglob("*.pyd"))
