"""The branch that keeps the results, checked out in a worktree of its own. Its history only grows.

`open` repairs whatever a killed night has left in the worktree. Commits that only the remote has are united with the local
ones. If somebody rewrote the branch at the remote, the local history is kept as another branch.
"""

from collections.abc import Callable
from pathlib import Path

from .remote import Remote
from .repository import BRANCH, BRANCH_REF, LAST_SEEN_REF, REMOTE, BranchError, Repository
from .worktree import check_out, keep_leftovers, repair


class ResultsBranch:
    """The results branch of the clone `root`, checked out in `folder`. `note` receives what the summary should contain."""

    def __init__(self, root: Path, folder: Path, note: Callable[[str], None]) -> None:
        self.repository, self.note = Repository(root, folder), note
        self.folder = self.repository.folder

    def open(self) -> None:
        """Check the branch out, repair it, and unite it with the remote's; create it if it does not exist.

        Raises BranchError.
        """
        repository = self.repository
        if repository.git("rev-parse", "--is-shallow-repository") != "false":
            raise BranchError("this clone lacks older commits; fetch them: git fetch --unshallow")
        self.remote = Remote(repository, self.note)
        last_seen, tip = self.remote.last_seen(), self.remote.fetch()
        if not self.remote.exists:
            self.note(f"There is no remote {REMOTE!r}: the results stay in this clone.")
        elif tip is None and last_seen:
            self.note(f"{BRANCH} is gone at {REMOTE}; it is pushed there again.")
            repository.git("update-ref", "-d", LAST_SEEN_REF)
        if repository.commit_of(BRANCH_REF) is None:
            repository.git("update-ref", BRANCH_REF, tip or self.first_commit())
        check_out(repository)
        keep_leftovers(repository, self.note)
        repair(repository, self.note)
        if tip:
            self.remote.join(tip, last_seen)

    def first_commit(self) -> str:
        """Create a commit without parents and files; return its name."""
        empty_tree = self.repository.git("mktree", stdin="")
        return self.repository.git("commit-tree", empty_tree, "-m", "Begin to keep results")

    def commit(self, message: str) -> bool:
        """Commit every change in the worktree; return False if there is none."""
        return self.repository.commit_all(message)

    def push(self) -> None:
        """Push the branch, after uniting it with what others have pushed. Raises BranchError after the last attempt."""
        self.remote.push()
