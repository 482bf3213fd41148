"""The branch that keeps the results: whatever happens to it, here or at the remote, nothing is lost and the summary says so."""

import json
import shutil
from pathlib import Path

import pytest
import synthetic
from nightly.nights import World, fail_at, git

from benchmarks.nightly import remote
from benchmarks.nightly.branch import ResultsBranch
from benchmarks.nightly.repository import BRANCH, BranchError


@pytest.fixture
def world(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A repository with a remote, on which one night has run."""
    monkeypatch.setattr(remote, "PUSH_DELAYS", (0, 0))
    assert world.night()[0] == 0
    return world


@pytest.fixture
def head(world: World) -> str:
    """The first eight characters of the measured commit."""
    return git(world.root, "rev-parse", "--short=8", "HEAD")


def result(folder: Path, commit: str) -> Path:
    """Return the file with the figures of a commit."""
    (file,) = (folder / synthetic.MACHINE).glob(f"{commit}-*.json")
    return file


def elsewhere(world: World, name: str = "elsewhere") -> Path:
    """Make a second clone that has the branch checked out."""
    clone = world.root.parent / name
    git(world.root.parent, "clone", "--quiet", "--branch", BRANCH, str(world.remote), str(clone))
    return clone


def push_from(clone: Path, name: str, text: str) -> None:
    """Commit a file in another clone and push it."""
    (clone / name).parent.mkdir(parents=True, exist_ok=True)
    (clone / name).write_text(text)
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "-m", "from elsewhere")
    git(clone, "push", "--quiet", "origin", BRANCH)


# ---- At the remote


def test_commits_that_somebody_pushed_before_a_night_are_taken_over(world: World) -> None:
    push_from(elsewhere(world), "cuda/state.json", "{}")
    world.commit()
    assert world.night()[0] == 0
    assert (world.branch / "cuda" / "state.json").read_text() == "{}"
    assert git(world.remote, "log", "--format=%s", BRANCH).count("from elsewhere") == 1


def test_commits_that_somebody_pushes_during_a_night_are_united_without_force(world: World) -> None:
    clone = elsewhere(world)
    former = git(world.remote, "rev-parse", BRANCH)

    def before(step: str) -> None:
        if step == "law":
            push_from(clone, "cuda/state.json", "{}")

    world.before = before
    new = world.commit()
    assert world.night()[0] == 0
    assert "Somebody else has pushed to asv-results; both sides are united" in world.summary()
    assert git(world.remote, "show", f"{BRANCH}:cuda/state.json") == "{}"
    assert new[:8] in world.results()
    for commit in (former, git(clone, "rev-parse", "HEAD")):
        git(world.remote, "merge-base", "--is-ancestor", commit, BRANCH)
    assert world.night() == (0, ["publish"])


def test_figures_of_one_commit_from_both_sides_are_united(world: World, head: str) -> None:
    clone = elsewhere(world)
    name = str(result(world.branch / "results", head).relative_to(world.branch))
    theirs = json.loads((clone / name).read_text())
    theirs["results"]["more.track"] = [[1.0], [], "1"]

    def before(step: str) -> None:
        if step == "law":
            push_from(clone, name, json.dumps(theirs))
            ours = json.loads((world.branch / name).read_text())
            ours["results"]["other.track"] = [[2.0], [], "1"]
            (world.branch / name).write_text(json.dumps(ours))

    world.before = before
    world.commit()
    assert world.night()[0] == 0
    results = json.loads(git(world.remote, "show", f"{BRANCH}:{name}"))["results"]
    assert results["more.track"][0] == [1.0]
    assert results["other.track"][0] == [2.0]


def rewrite(world: World) -> str:
    """Replace the remote's branch by a new history with one file; return its commit."""
    clone = elsewhere(world, "rewriting")
    git(clone, "checkout", "--quiet", "--orphan", "anew")
    git(clone, "rm", "-rfq", ".")
    (clone / "note").write_text("rewritten")
    git(clone, "add", "note")
    git(clone, "commit", "--quiet", "-m", "rewritten")
    git(clone, "push", "--quiet", "--force", "origin", f"anew:{BRANCH}")
    return git(clone, "rev-parse", "HEAD")


def test_a_rewritten_branch_loses_nothing(world: World, head: str) -> None:
    before = git(world.remote, "rev-parse", BRANCH)
    tip = rewrite(world)
    assert world.night() == (0, ["publish"])
    backup = f"{BRANCH}-before-{tip[:8]}"
    assert f"kept as branch {backup}" in world.summary()
    assert git(world.root, "rev-parse", backup) == before
    assert world.results() == {head}
    assert git(world.remote, "show", f"{BRANCH}:note") == "rewritten"
    history = git(world.remote, "rev-list", BRANCH).split()
    assert tip in history
    assert before not in history, "commits that were taken out of the history at the remote must stay out"
    assert "rewritten" not in (world.night(), world.summary())[1]


def test_a_branch_that_is_rewritten_during_a_night_loses_nothing(world: World, head: str) -> None:
    tips: list[str] = []

    def before(step: str) -> None:
        if step == "law":
            tips.append(rewrite(world))

    world.before = before
    new = world.commit()
    assert world.night()[0] == 0
    assert world.results() == {head, new[:8]}
    assert git(world.root, "rev-parse", "--verify", f"{BRANCH}-before-{tips[0][:8]}")
    assert git(world.remote, "show", f"{BRANCH}:note") == "rewritten"


def test_a_branch_that_was_moved_back_or_deleted_is_pushed_again(world: World, head: str) -> None:
    tip = git(world.remote, "rev-parse", BRANCH)
    git(world.remote, "update-ref", f"refs/heads/{BRANCH}", f"{tip}~1")
    assert world.night() == (0, ["publish"])
    assert "Somebody has rewritten" in world.summary()
    assert git(world.remote, "rev-parse", BRANCH) == tip
    git(world.remote, "update-ref", "-d", f"refs/heads/{BRANCH}")
    assert world.night() == (0, ["publish"])
    assert "is gone at origin" in world.summary()
    assert git(world.remote, "rev-parse", BRANCH) == tip


def test_a_remote_that_cannot_be_reached_fails_the_night_and_loses_nothing(world: World) -> None:
    away = world.remote.rename(world.remote.with_name("away"))
    world.commit()
    assert world.night()[0] == 2
    assert "git ls-remote failed" in world.summary()
    away.rename(world.remote)

    def before(step: str) -> None:
        if step == "publish":
            world.remote.rename(away)

    world.before = before
    code, calls = world.night()
    assert code == 2
    assert len(calls) == 5
    assert "could not be pushed" in world.summary()
    away.rename(world.remote)
    world.before = lambda step: None
    assert world.night() == (0, ["publish"])
    assert len(world.results()) == 2


def test_without_a_remote_the_results_stay_in_the_clone(tmp_path: Path, head: str) -> None:
    (tmp_path / "alone").mkdir()
    world = World.new(tmp_path / "alone")
    git(world.root, "remote", "remove", "origin")
    assert world.night()[0] == 0
    assert "There is no remote 'origin'" in world.summary()
    assert git(world.root, "log", "--format=%s", BRANCH)


def test_figures_measured_again_by_hand_replace_those_of_the_branch(world: World, head: str) -> None:
    file = result(world.root / ".asv" / "results", head)
    again = file.read_text().replace('"version": 2', '"version": 2, "again": 1')
    file.write_text(again)
    world.commit()
    assert world.night()[0] == 0
    assert file.read_text() == again
    assert git(world.remote, "show", f"{BRANCH}:results/{synthetic.MACHINE}/{file.name}") == again


def test_a_fresh_clone_continues_from_the_remote(world: World, head: str) -> None:
    clone = World(world.root.parent / "fresh")
    git(world.root, "push", "--quiet", "origin", "HEAD:main")
    git(world.root.parent, "clone", "--quiet", str(world.remote), str(clone.root))
    assert clone.night() == (0, ["publish"])
    assert result(clone.root / ".asv" / "results", head).exists()


# ---- Here


@pytest.mark.parametrize("text", ["", '{"results": ', "\x00\x00"])
def test_a_broken_result_of_asv_is_moved_aside_and_restored_from_the_branch(world: World, head: str, text: str) -> None:
    file = result(world.root / ".asv" / "results", head)
    good = file.read_text()
    file.write_text(text)
    assert world.night() == (0, ["publish"])
    assert f"{file} is not JSON: it was moved to" in world.summary()
    assert file.read_text() == good
    (kept,) = (world.root / ".asv" / "broken").rglob(f"{file.name}.*")
    assert kept.read_text() == text


def test_a_broken_file_of_the_branch_is_restored_to_its_last_valid_version(world: World, head: str) -> None:
    file, state = result(world.branch / "results", head), world.branch / "cpu" / "state.json"
    good = file.read_text(), state.read_text()
    file.write_text("{")
    git(world.branch, "commit", "--quiet", "--all", "-m", "broken and committed")
    state.write_text("half a st")
    assert world.night() == (0, ["publish"])
    assert (file.read_text(), state.read_text()) == good
    assert world.summary().count("was not JSON; it is restored from commit") == 2
    assert {path.read_text() for path in (world.branch / "broken").rglob("*.json.*")} == {"{", "half a st"}


def test_a_result_that_was_never_valid_is_moved_aside_and_measured_again(world: World, head: str) -> None:
    new = world.commit()
    world.before = fail_at("law", ZeroDivisionError())
    assert world.night()[0] == 2
    world.before = lambda step: None
    file = result(world.branch / "results", new[:8])
    text = file.read_text()[:100]
    git(world.branch, "reset", "--quiet", "--soft", git(world.remote, "rev-parse", BRANCH))
    for broken in (file, result(world.root / ".asv" / "results", new[:8])):
        broken.write_text(text)
    code, calls = world.night()
    assert code == 0
    assert calls[0] == f"measure {new[:8]}"
    assert "no commit has a valid version" in world.summary()
    assert "is not JSON: it was moved to" in world.summary()
    assert world.results() == {head, new[:8]}


def test_the_leftovers_of_a_killed_git_are_cleared_away(world: World, head: str) -> None:
    gitdir = Path(git(world.branch, "rev-parse", "--absolute-git-dir"))
    (gitdir / "index.lock").touch()
    (world.branch / "cpu" / "state.json.partial").write_text("ha")
    result(world.branch / "results", head).unlink()
    (world.branch / "results" / "new.json").write_text("{}")
    (gitdir / "index").unlink()
    assert world.night() == (0, ["publish"])
    assert "An earlier night was interrupted; the files that it had written are kept" in world.summary()
    assert world.results() == {head}
    assert not (world.branch / "cpu" / "state.json.partial").exists()
    assert git(world.remote, "show", f"{BRANCH}:results/new.json") == "{}"


def test_a_deleted_worktree_is_made_again(world: World, head: str) -> None:
    shutil.rmtree(world.branch)
    assert world.night() == (0, ["publish"])
    assert result(world.branch / "results", head).exists()


def test_a_folder_with_other_files_is_left_alone(world: World, tmp_path: Path) -> None:
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "mine").write_text("mine")
    git(world.root, "worktree", "remove", "--force", str(world.branch))
    with pytest.raises(BranchError, match="not empty"):
        ResultsBranch(world.root, occupied, print).open()
    assert [file.name for file in occupied.iterdir()] == ["mine"]


def test_a_branch_that_is_checked_out_elsewhere_is_named(world: World, tmp_path: Path) -> None:
    with pytest.raises(BranchError, match=f"is checked out in {world.branch}"):
        ResultsBranch(world.root, tmp_path / "another", print).open()


def test_a_shallow_clone_is_refused(world: World, tmp_path: Path) -> None:
    world.commit()
    git(world.root, "push", "--quiet", "origin", "HEAD:main")
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{world.remote}", "shallow")
    with pytest.raises(BranchError, match="git fetch --unshallow"):
        ResultsBranch(tmp_path / "shallow", tmp_path / "results", print).open()
