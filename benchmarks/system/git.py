"""Run git, resolve a revision, and copy the files of a revision."""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import ROOT
from .errors import CommandError


class GitError(CommandError):
    """git failed or took too long; the text says which command and what git wrote."""

    summary = "Could not use git"


class UnknownRevision(CommandError):
    """A revision that git does not know, or that lacks the files that are to be copied from it."""

    summary = "Could not measure"


def git(
    *args: str,
    folder: Path = ROOT,
    otherwise: str | None = None,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    strip: bool = True,
) -> str:
    """Run git in `folder` and return its standard output, without whitespace around it unless `strip` is False.

    `env` is added to the environment. If git fails or is not installed, return `otherwise`; raise GitError if that is None.
    A command that exceeds `timeout` seconds always raises GitError.
    """
    command = ["git", *args]
    try:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, **(env or {})}, input=stdin, capture_output=True, text=True,
            check=False, timeout=timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise GitError(f"git {args[0]} was not done after {timeout:g} s") from None
    except FileNotFoundError:
        if otherwise is None:
            raise GitError("git is not installed; install it, since versions are taken from the history") from None
        return otherwise
    if done.returncode == 0:
        return done.stdout.strip() if strip else done.stdout
    if otherwise is not None:
        return otherwise
    raise GitError(f"git {args[0]} failed: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")


def resolve(revision: str, folder: Path = ROOT) -> str:
    """Return the full hash of the commit that `revision` names.

    Raises UnknownRevision if there is no such commit or `folder` is in no git repository, GitError if git refuses that one, as
    it does with another user's.
    """
    try:
        git("rev-parse", "--git-dir", folder=folder)
    except GitError as error:
        if "not a git repository" not in str(error):
            raise
        raise UnknownRevision(f"{folder} is no git repository; versions are taken from its history") from None
    commit = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", folder=folder, otherwise="")
    if not commit:
        shallow = git("rev-parse", "--is-shallow-repository", folder=folder, otherwise="") == "true"
        more = "; this clone is shallow: git fetch --unshallow brings the rest" if shallow else ""
        raise UnknownRevision(f"{revision!r} names no commit here; give a branch, a tag or a commit (git log shows them){more}")
    return commit


def export(revision: str | None, target: Path, paths: Sequence[str] = (), folder: Path = ROOT) -> str:
    """Copy all files of a revision to the new folder `target` and return the full hash of its commit.

    `revision=None` copies from the working tree as it is now the files under `paths` that git tracks or does not ignore, and
    returns the commit of HEAD. Raises UnknownRevision, or OSError if, for instance, the disk is full.
    """
    commit = resolve("HEAD" if revision is None else revision, folder)
    target.mkdir(parents=True)
    if revision is not None:
        archive = subprocess.run(["git", "archive", commit], cwd=folder, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(target, filter="data")
        return commit
    listed = git("ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *paths, folder=folder, strip=False)
    for name in filter(None, listed.split("\0")):
        source, copy = folder / name, target / name
        if source.is_file() or source.is_symlink():  # a deleted file is still tracked
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy, follow_symlinks=False)
    return commit


def changed(paths: Sequence[str], folder: Path = ROOT) -> bool:
    """Return True if the working tree differs from HEAD under `paths`, or holds untracked files there."""
    return bool(git("status", "--porcelain", "--", *paths, folder=folder))
