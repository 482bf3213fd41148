"""Check out the results branch, and repair its worktree after a night that was killed at any moment."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from ..system.files import write_atomically
from .merging import is_json, move_aside
from .repository import BRANCH, BRANCH_REF, BranchError, Repository


def check_out(repository: Repository) -> None:
    """Make `repository.folder` a worktree of the branch. Raises BranchError if the folder or the branch is in other use."""
    folder = repository.folder
    repository.git("worktree", "prune")
    for entry in repository.git("worktree", "list", "--porcelain").split("\n\n"):
        lines = entry.split("\n")
        path = Path(lines[0].removeprefix("worktree "))
        if f"branch {BRANCH_REF}" not in lines:
            continue
        if path.resolve() == folder.resolve():
            return
        raise BranchError(
            f"{BRANCH} is checked out in {path}: use that folder (--results {path}), or remove it (git worktree remove {path})"
        )
    if folder.exists() and any(folder.iterdir()):
        raise BranchError(f"{folder} is not empty and not a worktree of {BRANCH}; choose another folder: --results FOLDER")
    repository.git("worktree", "add", "--quiet", str(folder), BRANCH)


def keep_leftovers(repository: Repository, note: Callable[[str], None]) -> None:
    """Commit the files that a killed night has written, and restore the files that are missing in the worktree."""
    with contextlib.suppress(FileNotFoundError):  # the process that held the lock is dead: only one night runs in a clone
        Path(repository.in_worktree("rev-parse", "--git-path", "index.lock")).unlink()
    for partial in repository.folder.rglob("*.partial"):
        partial.unlink()
    repository.in_worktree("reset", "--quiet")
    missing = [name for name in repository.in_worktree("ls-files", "--deleted", "-z").split("\0") if name]
    if missing:
        repository.in_worktree("checkout", "--quiet", "--", *missing)
    if repository.commit_all("Keep the files of an interrupted night"):
        note("An earlier night was interrupted; the files that it had written are kept.")


def repair(repository: Repository, note: Callable[[str], None]) -> None:
    """Move each broken JSON file to the folder `broken`, and restore its last valid version in the branch, if there is one."""
    for file in sorted(repository.folder.rglob("*.json")):
        if is_json(file.read_text(errors="replace")):
            continue
        name = str(file.relative_to(repository.folder))
        aside = move_aside(file, repository.folder / "broken")
        for commit in repository.in_worktree("rev-list", "HEAD", "--", name).split():
            text = repository.file_at(commit, name)
            if text is not None and is_json(text):
                write_atomically(file, text)
                note(f"{file} was not JSON; it is restored from commit {commit[:8]}. The broken file was moved to {aside}")
                break
        else:
            note(f"{file} is not JSON, and no commit has a valid version; it was moved to {aside}")
    repository.commit_all("Repair broken files")
