"""The git commands of the results branch: in the project's clone and in the worktree that has the branch checked out."""

from pathlib import Path

from ..system.errors import CommandError
from ..system.git import GitError, git

BRANCH, REMOTE = "asv-results", "origin"
BRANCH_REF = f"refs/heads/{BRANCH}"
LAST_SEEN_REF = f"refs/nightly/{BRANCH}"  # the remote's commit of the branch when it was last fetched or pushed
GIT_TIMEOUT = 600  # seconds
# The commits name the nightly job as author, whoever runs it, and git neither asks for a password nor translates messages.
ENV = {f"GIT_{role}_NAME": "nightly" for role in ("AUTHOR", "COMMITTER")}
ENV |= {f"GIT_{role}_EMAIL": "nightly@localhost" for role in ("AUTHOR", "COMMITTER")}
ENV |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


class BranchError(CommandError):
    """The results branch cannot be read, written or pushed."""

    summary = "Could not keep the results"


class Repository:
    """A clone in `root`, and the worktree of its results branch in `folder`."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder.absolute()

    def git(
        self, *args: str, cwd: Path | None = None, stdin: str | None = None, otherwise: str | None = None, strip: bool = True
    ) -> str:
        """Run git in the clone and return its output. If git fails, return `otherwise`; raise BranchError if that is None."""
        try:
            return git(
                *args, folder=cwd or self.root, otherwise=otherwise, stdin=stdin, env=ENV, timeout=GIT_TIMEOUT, strip=strip
            )
        except GitError as error:
            raise BranchError(str(error)) from None

    def in_worktree(self, *args: str) -> str:
        """Run git in the worktree and return its output. Raises BranchError."""
        return self.git(*args, cwd=self.folder)

    def commit_of(self, ref: str) -> str | None:
        """Return the commit that `ref` names, or None if `ref` does not exist."""
        return self.git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", otherwise="") or None

    def is_ancestor(self, older: str, newer: str) -> bool:
        """Return True if the commit `older` is `newer` or comes before it."""
        return self.git("merge-base", "--is-ancestor", older, newer, otherwise="no") == ""

    def file_at(self, commit: str, name: str) -> str | None:
        """Return the text of the file `name` in a commit, or None if the commit does not contain it."""
        if not self.git("ls-tree", "--name-only", commit, "--", name):
            return None
        return self.git("cat-file", "blob", f"{commit}:{name}", strip=False)

    def commit_all(self, message: str) -> bool:
        """Commit every change in the worktree; return False if there is none."""
        self.in_worktree("add", "--all")
        if not self.in_worktree("status", "--porcelain"):
            return False
        self.in_worktree("commit", "--quiet", "--no-verify", "--no-gpg-sign", "-m", message)
        return True
