"""Choose the commits that the gate compares HEAD with: the commit that was judged last, and the last release."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..system.git import git


@dataclass(frozen=True)
class Base:
    """The commit to compare HEAD with; if `commit` is empty, `reason` says why there is none."""

    commit: str
    reason: str = ""


def last_judged(root: Path, head: str, judged: str, measured: Sequence[str], note: Callable[[str], None]) -> Base:
    """Return the commit `judged`, which was judged last, as the base; no base if HEAD is not newer or the package is the same.

    If the history was rewritten and no longer contains `judged`, return the newest commit before HEAD that is in `measured`.
    """
    if not judged:
        return Base("", "this is the first night: nothing to compare with")
    if not git("rev-parse", "--verify", "--quiet", f"{judged}^{{commit}}", folder=root, otherwise=""):
        note(f"Commit {judged[:8]}, which was judged last, no longer exists: was the history rewritten?")
        history = git("rev-list", "--first-parent", head, folder=root, otherwise="").split()
        judged = next((commit for commit in history if commit in measured and commit != head), "")
        if not judged:
            return Base("", "no earlier commit of this history is measured")
    if git("merge-base", head, judged, folder=root, otherwise="") == head:
        return Base("", f"nothing new since {judged[:8]}")
    return unless_equal(root, head, judged, f"commit {judged[:8]}")


def last_release(root: Path, head: str) -> Base:
    """Return the commit of the newest release before HEAD, the nearest tag v[0-9]*, as the base; no base without a release."""
    tag = git("describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", head, folder=root, otherwise="")
    if not tag:
        return Base("", "there is no release yet: no tag v… before this commit")
    commit = git("rev-parse", f"{tag}^{{commit}}", folder=root, otherwise="")
    if commit == head:
        return Base("", f"this commit is the release {tag}")
    return unless_equal(root, head, commit, f"the release {tag}")


def unless_equal(root: Path, head: str, commit: str, name: str) -> Base:
    """Return `commit` as the base, unless its package is the same as at `head`: then no case can be slower."""
    paths = ("taildropout", "pyproject.toml")
    if git("diff", "--quiet", commit, head, "--", *paths, folder=root, otherwise="different") == "":
        return Base("", f"the package is the same as at {name}")
    return Base(commit)
