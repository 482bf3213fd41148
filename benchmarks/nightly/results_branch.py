"""The branch that keeps the results, in a worktree of its own, and its exchange with a remote. History is only ever added to.

Whatever state a killed run has left the worktree in, `open` makes it whole again. Where the branch has gone on at the remote,
both sides' files are united. Where it was rewritten there, what was here is kept as another branch.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from ..system.files import write
from ..system.git import GitError, git
from .results_merge import combined, put_aside, whole

BRANCH, REMOTE = "asv-results", "origin"
SEEN = f"refs/nightly/{BRANCH}"  # where the remote's branch was when it was last looked at
WAITS = (0, 1, 2, 4, 8)  # seconds before each try to push
PATIENCE = 600  # seconds for git
AUTHOR = {"NAME": "nightly", "EMAIL": "nightly@localhost"}  # of its commits, whoever's machine it is


class BranchTrouble(Exception):
    """The branch cannot be read, written or pushed."""


class ResultsBranch:
    """The branch of the repository `root`, checked out in `folder`; `say` is told what had to be mended."""

    def __init__(self, root: Path, folder: Path, say: Callable[[str], None]) -> None:
        self.root, self.folder, self.say = root, folder.absolute(), say

    def open(self) -> None:
        """Check it out, make it if there is none, mend it, and fetch and unite what the remote has."""
        if self.git("rev-parse", "--is-shallow-repository") != "false":
            raise BranchTrouble("this clone lacks older commits; fetch them: git fetch --unshallow")
        self.connected = REMOTE in self.git("remote").split()
        seen, tip, here = self.commit_of(SEEN), self.fetch(), self.commit_of(f"refs/heads/{BRANCH}")
        if not self.connected:
            self.say(f"There is no remote {REMOTE!r}: the results stay here.")
        elif tip is None and seen:
            self.say(f"{BRANCH} is gone at {REMOTE}; it is pushed there again.")
            self.git("update-ref", "-d", SEEN)
        if here is None:
            self.git("update-ref", f"refs/heads/{BRANCH}", tip or self.empty())
        self.check_out()
        self.settle()
        self.mend()
        if tip:
            self.join(tip, rewritten=seen is not None and not self.within(seen, tip))

    def fetch(self) -> str | None:
        """The remote's newest commit of the branch, which then is here too; None if it has none."""
        if not self.connected:
            return None
        listed = self.git("ls-remote", REMOTE, f"refs/heads/{BRANCH}")
        if not listed:
            return None
        tip = listed.split()[0]
        self.git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", REMOTE, f"refs/heads/{BRANCH}")
        return tip

    def empty(self) -> str:
        """A first commit, without files."""
        return self.git("commit-tree", self.git("mktree", given=""), "-m", "Begin to keep results")

    def check_out(self) -> None:
        """Have a worktree of the branch in the folder."""
        self.git("worktree", "prune")
        for entry in self.git("worktree", "list", "--porcelain").split("\n\n"):
            place = Path(entry.partition("\n")[0].removeprefix("worktree "))
            if f"branch refs/heads/{BRANCH}" not in entry.split("\n"):
                continue
            if place.resolve() == self.folder.resolve():
                return
            raise BranchTrouble(
                f"{BRANCH} is checked out in {place}: name it (--results {place}), or remove it (git worktree remove {place})"
            )
        if self.folder.exists() and any(self.folder.iterdir()):
            raise BranchTrouble(
                f"{self.folder} is not empty, and no worktree of {BRANCH}; name another folder: --results FOLDER"
            )
        self.git("worktree", "add", "--quiet", str(self.folder), BRANCH)

    def settle(self) -> None:
        """Keep what a killed run has left, and put back what it has not checked out."""
        with contextlib.suppress(FileNotFoundError):  # whoever held it is dead: only one night runs here
            Path(self.here("rev-parse", "--git-path", "index.lock")).unlink()
        for partial in self.folder.rglob("*.partial"):
            partial.unlink()
        self.here("reset", "--quiet")
        missing = [name for name in self.here("ls-files", "--deleted", "-z").split("\0") if name]
        if missing:
            self.here("checkout", "--quiet", "--", *missing)
        if self.commit("Keep what an interrupted night has left"):
            self.say("An earlier night was interrupted; what it had stored is kept.")

    def mend(self) -> None:
        """Put each broken file back as the branch had it last; what it never had whole is moved aside."""
        for file in sorted(self.folder.rglob("*.json")):
            if whole(file.read_text(errors="replace")):
                continue
            name = str(file.relative_to(self.folder))
            kept = put_aside(file, self.folder / "broken")
            for commit in self.here("rev-list", "HEAD", "--", name).split():
                text = self.text(commit, name)
                if text is not None and whole(text):
                    write(file, text)
                    self.say(f"{file} was no JSON; it is again as commit {commit[:8]} had it. The broken one: {kept}")
                    break
            else:
                self.say(f"{file} is no JSON, and no commit has it whole; it was moved to {kept}")
        self.commit("Mend what was broken")

    def join(self, tip: str, rewritten: bool = False) -> None:
        """Unite this side with the remote's commit `tip`."""
        here = self.here("rev-parse", "HEAD")
        if rewritten:
            backup = f"{BRANCH}-before-{tip[:8]}"
            self.git("update-ref", f"refs/heads/{backup}", here)
            self.say(
                f"Somebody has rewritten {BRANCH} at {REMOTE}. Its history here is kept as branch {backup}; the files that the "
                "new history lacks are added to it."
            )
        if self.within(tip, here):
            pass
        elif self.within(here, tip):
            self.here("merge", "--quiet", "--ff-only", tip)
        else:
            self.unite(here, tip, [tip] if rewritten else [here, tip])
        self.git("update-ref", SEEN, tip)

    def unite(self, here: str, tip: str, parents: list[str]) -> None:
        """Commit the files of both sides: what one side changed as it has it now, what both changed combined."""
        base = "" if len(parents) == 1 else self.git("merge-base", here, tip, fails="")
        for name in filter(None, self.git("diff", "--name-only", "--no-renames", "-z", here, tip).split("\0")):
            ours, theirs = self.text(here, name), self.text(tip, name)
            before = self.text(base, name) if base else None
            if theirs == before:
                continue
            if ours == before or ours is None:
                if theirs is None:
                    (self.folder / name).unlink()
                else:
                    write(self.folder / name, theirs)
            elif theirs is not None:
                write(self.folder / name, combined(Path(name).name, ours, theirs))
        self.here("add", "--all")
        words = [word for parent in parents for word in ("-p", parent)]
        commit = self.here("commit-tree", self.here("write-tree"), *words, "-m", "Unite results from two places")
        self.here("update-ref", f"refs/heads/{BRANCH}", commit)

    def text(self, commit: str, name: str) -> str | None:
        """A file as a commit has it; None if it has none."""
        if not self.git("ls-tree", "--name-only", commit, "--", name):
            return None
        return self.git("cat-file", "blob", f"{commit}:{name}", strip=False)

    def commit(self, message: str) -> bool:
        """Commit all that is in the folder; False if nothing has changed."""
        self.here("add", "--all")
        if not self.here("status", "--porcelain"):
            return False
        self.here("commit", "--quiet", "--no-verify", "--no-gpg-sign", "-m", message)
        return True

    def push(self) -> None:
        """Push, uniting first whatever somebody else has pushed; never by force. BranchTrouble after the last try."""
        if not self.connected:
            return
        problem = ""
        for wait in WAITS:
            time.sleep(wait)
            here = self.here("rev-parse", "HEAD")
            seen = self.commit_of(SEEN)
            if seen == here:
                return
            try:
                self.git("push", "--quiet", REMOTE, f"{here}:refs/heads/{BRANCH}")
                self.git("update-ref", SEEN, here)
                return
            except BranchTrouble as error:
                problem = str(error)
            try:
                tip = self.fetch()
                if tip and tip != seen:
                    self.say(f"Somebody else has pushed to {BRANCH}; both are united.")
                    self.join(tip, rewritten=seen is not None and not self.within(seen, tip))
            except BranchTrouble as error:
                problem = f"{problem}; {error}"
        raise BranchTrouble(f"the results are committed here, in {self.folder}, but could not be pushed: {problem}")

    def within(self, older: str, newer: str) -> bool:
        """Whether one commit is the other or comes before it."""
        return self.git("merge-base", "--is-ancestor", older, newer, fails="no") == ""

    def commit_of(self, name: str) -> str | None:
        """The commit that a name stands for; None if there is none."""
        return self.git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", fails="") or None

    def here(self, *words: str) -> str:
        """What git says in the worktree."""
        return self.git(*words, cwd=self.folder)

    def git(
        self, *words: str, cwd: Path | None = None, given: str | None = None, fails: str | None = None, strip: bool = True
    ) -> str:
        """What git prints; where it fails, `fails` if that is given, else BranchTrouble with what it says."""
        names = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in AUTHOR.items()}
        env = {**names, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        try:
            return git(*words, folder=cwd or self.root, otherwise=fails, stdin=given, env=env, timeout=PATIENCE, strip=strip)
        except GitError as error:
            raise BranchTrouble(str(error)) from None
