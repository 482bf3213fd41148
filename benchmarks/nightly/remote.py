"""Fetch the results branch from the remote, unite it with the local one, and push it. Never push by force."""

import time
from collections.abc import Callable
from pathlib import Path

from ..system.files import write_atomically
from .merging import combine
from .repository import BRANCH, BRANCH_REF, LAST_SEEN_REF, REMOTE, BranchError, Repository

PUSH_DELAYS = (0, 1, 2, 4, 8)  # seconds before each attempt to push


class Remote:
    """The branch at the remote. `note` receives each sentence that the summary should contain."""

    def __init__(self, repository: Repository, note: Callable[[str], None]) -> None:
        self.repository, self.note = repository, note
        self.exists = REMOTE in repository.git("remote").split()

    def fetch(self) -> str | None:
        """Fetch the branch; return its commit at the remote, or None if there is no remote or no branch there."""
        if not self.exists:
            return None
        listed = self.repository.git("ls-remote", REMOTE, BRANCH_REF)
        if not listed:
            return None
        self.repository.git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", REMOTE, BRANCH_REF)
        return listed.split()[0]

    def last_seen(self) -> str | None:
        """Return the remote's commit when it was last fetched or pushed, or None."""
        return self.repository.commit_of(LAST_SEEN_REF)

    def join(self, tip: str, last_seen: str | None) -> None:
        """Bring the commit `tip` of the remote into the local branch.

        If the remote's history was rewritten since `last_seen`, keep the local history as another branch.
        """
        repository = self.repository
        local = repository.in_worktree("rev-parse", "HEAD")
        rewritten = last_seen is not None and not repository.is_ancestor(last_seen, tip)
        if rewritten:
            backup = f"{BRANCH}-before-{tip[:8]}"
            repository.git("update-ref", f"refs/heads/{backup}", local)
            self.note(
                f"Somebody has rewritten {BRANCH} at {REMOTE}. The local history is kept as branch {backup}; files that the "
                "new history lacks are added to it."
            )
        if repository.is_ancestor(tip, local):
            pass  # the remote has nothing new
        elif repository.is_ancestor(local, tip):
            repository.in_worktree("merge", "--quiet", "--ff-only", tip)
        else:
            unite(repository, local, tip, [tip] if rewritten else [local, tip])
        repository.git("update-ref", LAST_SEEN_REF, tip)

    def push(self) -> None:
        """Push the branch, if there is a remote; if somebody else has pushed, unite both sides first.

        Raises BranchError after the last attempt.
        """
        if not self.exists:
            return
        problem = ""
        for delay in PUSH_DELAYS:
            time.sleep(delay)
            local, last_seen = self.repository.in_worktree("rev-parse", "HEAD"), self.last_seen()
            if last_seen == local:
                return
            try:
                self.repository.git("push", "--quiet", REMOTE, f"{local}:{BRANCH_REF}")
                self.repository.git("update-ref", LAST_SEEN_REF, local)
                return
            except BranchError as error:
                problem = str(error)
            try:
                tip = self.fetch()
                if tip and tip != last_seen:
                    self.note(f"Somebody else has pushed to {BRANCH}; both sides are united.")
                    self.join(tip, last_seen)
            except BranchError as error:
                problem = f"{problem}; {error}"
        raise BranchError(
            f"the results are committed in {self.repository.folder}, but could not be pushed to {REMOTE}: {problem}"
        )


def unite(repository: Repository, local: str, tip: str, parents: list[str]) -> None:
    """Commit the files of the commits `local` and `tip` to the branch; the new commit has the parents `parents`.

    A file that one side changed is taken from that side; a file that both changed is combined. With one parent there is no
    common base: all files of both sides then count as changed.
    """
    base = repository.git("merge-base", local, tip, otherwise="") if len(parents) > 1 else ""
    names = repository.git("diff", "--name-only", "--no-renames", "-z", local, tip).split("\0")
    for name in filter(None, names):
        ours, theirs = repository.file_at(local, name), repository.file_at(tip, name)
        before = repository.file_at(base, name) if base else None
        file = repository.folder / name
        if theirs == before:
            continue
        if theirs is None:
            if ours == before:
                file.unlink()
        elif ours is None or ours == before:
            write_atomically(file, theirs)
        else:
            write_atomically(file, combine(Path(name).name, ours, theirs))
    repository.in_worktree("add", "--all")
    parent_args = [arg for parent in parents for arg in ("-p", parent)]
    tree = repository.in_worktree("write-tree")
    commit = repository.in_worktree("commit-tree", tree, *parent_args, "-m", "Unite results from two places")
    repository.in_worktree("update-ref", BRANCH_REF, commit)
