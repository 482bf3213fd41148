"""The branch that keeps the results: whatever happens to it, here or at the remote, nothing is lost and somebody is told."""

import json
import shutil
from pathlib import Path

import pytest
import synthetic
from nights import World, git

from benchmarks.nightly import results_branch
from benchmarks.nightly.results_branch import BRANCH, BranchTrouble, ResultsBranch
from benchmarks.nightly.results_merge import combined, merge


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A repository with a remote, on which one night has been."""
    monkeypatch.setattr(results_branch, "WAITS", (0, 0))
    world = World.new(tmp_path)
    assert world.night()[0] == 0
    return world


@pytest.fixture
def head(world: World) -> str:
    """The commit that was measured, shortened."""
    return git(world.root, "rev-parse", "--short=8", "HEAD")


def result(folder: Path, commit: str) -> Path:
    """The file with a commit's figures."""
    (file,) = (folder / synthetic.MACHINE).glob(f"{commit}-*.json")
    return file


def elsewhere(world: World, name: str = "elsewhere") -> Path:
    """A second clone with the branch checked out."""
    clone = world.root.parent / name
    git(world.root.parent, "clone", "--quiet", "--branch", BRANCH, str(world.remote), str(clone))
    return clone


def push_from(clone: Path, name: str, text: str) -> None:
    """What somebody else pushes."""
    (clone / name).parent.mkdir(parents=True, exist_ok=True)
    (clone / name).write_text(text)
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "-m", "from elsewhere")
    git(clone, "push", "--quiet", "origin", BRANCH)


# ---- At the remote


def test_what_somebody_else_pushed_before_is_taken_over(world):
    push_from(elsewhere(world), "cuda/state.json", "{}")
    world.commit()
    assert world.night()[0] == 0
    assert (world.branch / "cuda" / "state.json").read_text() == "{}"
    assert git(world.remote, "log", "--format=%s", BRANCH).count("from elsewhere") == 1


def test_what_somebody_else_pushes_meanwhile_is_united_without_force(world):
    clone = elsewhere(world)
    before = git(world.remote, "rev-parse", BRANCH)
    world.before = lambda step: push_from(clone, "cuda/state.json", "{}") if step == "law" else None
    new = world.commit()
    assert world.night()[0] == 0
    assert "Somebody else has pushed to asv-results; both are united" in world.summary()
    assert git(world.remote, "show", f"{BRANCH}:cuda/state.json") == "{}"
    assert new[:8] in world.results()
    for commit in (before, git(clone, "rev-parse", "HEAD")):
        git(world.remote, "merge-base", "--is-ancestor", commit, BRANCH)
    assert world.night() == (0, ["publish"])


def test_figures_that_both_sides_have_of_a_commit_are_united(world, head):
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
    found = json.loads(git(world.remote, "show", f"{BRANCH}:{name}"))["results"]
    assert found["more.track"][0] == [1.0]
    assert found["other.track"][0] == [2.0]


def rewrite(world: World) -> str:
    """Have the remote's branch begin anew, with another file."""
    clone = elsewhere(world, "rewriting")
    git(clone, "checkout", "--quiet", "--orphan", "anew")
    git(clone, "rm", "-rfq", ".")
    (clone / "note").write_text("rewritten")
    git(clone, "add", "note")
    git(clone, "commit", "--quiet", "-m", "rewritten")
    git(clone, "push", "--quiet", "--force", "origin", f"anew:{BRANCH}")
    return git(clone, "rev-parse", "HEAD")


def test_a_rewritten_branch_costs_nothing(world, head):
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
    assert before not in history, "what was taken out of the history at the remote stays out"
    assert "rewritten" not in (world.night(), world.summary())[1]


def test_a_branch_that_is_rewritten_while_a_night_works_costs_nothing(world, head):
    tips = []
    world.before = lambda step: tips.append(rewrite(world)) if step == "law" else None
    new = world.commit()
    assert world.night()[0] == 0
    assert world.results() == {head, new[:8]}
    assert git(world.root, "rev-parse", "--verify", f"{BRANCH}-before-{tips[0][:8]}")
    assert git(world.remote, "show", f"{BRANCH}:note") == "rewritten"


def test_a_branch_that_was_moved_back_or_deleted_is_pushed_again(world, head):
    tip = git(world.remote, "rev-parse", BRANCH)
    git(world.remote, "update-ref", f"refs/heads/{BRANCH}", f"{tip}~1")
    assert world.night() == (0, ["publish"])
    assert "Somebody has rewritten" in world.summary()
    assert git(world.remote, "rev-parse", BRANCH) == tip
    git(world.remote, "update-ref", "-d", f"refs/heads/{BRANCH}")
    assert world.night() == (0, ["publish"])
    assert "is gone at origin" in world.summary()
    assert git(world.remote, "rev-parse", BRANCH) == tip


def test_a_remote_that_cannot_be_reached_fails_the_night_and_loses_nothing(world):
    away = world.remote.rename(world.remote.with_name("away"))
    world.commit()
    assert world.night()[0] == 2
    assert "git ls-remote failed" in world.summary()
    away.rename(world.remote)
    world.before = lambda step: world.remote.rename(away) if step == "publish" else None
    code, calls = world.night()
    assert code == 2
    assert len(calls) == 5
    assert "could not be pushed" in world.summary()
    away.rename(world.remote)
    world.before = lambda step: None
    assert world.night() == (0, ["publish"])
    assert len(world.results()) == 2


def test_without_a_remote_the_results_stay_here(tmp_path, head):
    (tmp_path / "alone").mkdir()
    world = World.new(tmp_path / "alone")
    git(world.root, "remote", "remove", "origin")
    assert world.night()[0] == 0
    assert "There is no remote 'origin'" in world.summary()
    assert git(world.root, "log", "--format=%s", BRANCH)


def test_what_is_measured_again_by_hand_takes_the_place_of_what_the_branch_had(world, head):
    file = result(world.root / ".asv" / "results", head)
    again = file.read_text().replace('"version": 2', '"version": 2, "again": 1')
    file.write_text(again)
    world.commit()
    assert world.night()[0] == 0
    assert file.read_text() == again
    assert git(world.remote, "show", f"{BRANCH}:results/{synthetic.MACHINE}/{file.name}") == again


def test_a_fresh_clone_goes_on_from_what_the_remote_has(world, head):
    clone = World(world.root.parent / "fresh")
    git(world.root, "push", "--quiet", "origin", "HEAD:main")
    git(world.root.parent, "clone", "--quiet", str(world.remote), str(clone.root))
    assert clone.night() == (0, ["publish"])
    assert result(clone.root / ".asv" / "results", head).exists()


# ---- Here


@pytest.mark.parametrize("text", ["", '{"results": ', "\x00\x00"])
def test_a_broken_result_of_asv_is_moved_aside_and_taken_back_from_the_branch(world, head, text):
    file = result(world.root / ".asv" / "results", head)
    good = file.read_text()
    file.write_text(text)
    assert world.night() == (0, ["publish"])
    assert f"{file} is no JSON: it was moved to" in world.summary()
    assert file.read_text() == good
    (kept,) = (world.root / ".asv" / "broken").rglob(f"{file.name}.*")
    assert kept.read_text() == text


def test_a_broken_file_of_the_branch_is_put_back_as_it_was_last(world, head):
    file, state = result(world.branch / "results", head), world.branch / "cpu" / "state.json"
    good = file.read_text(), state.read_text()
    file.write_text("{")
    git(world.branch, "commit", "--quiet", "--all", "-m", "broken and committed")
    state.write_text("half a st")
    assert world.night() == (0, ["publish"])
    assert (file.read_text(), state.read_text()) == good
    assert world.summary().count("was no JSON; it is again as commit") == 2
    assert {path.read_text() for path in (world.branch / "broken").rglob("*.json.*")} == {"{", "half a st"}


def test_a_result_that_never_was_whole_is_moved_aside_and_measured_anew(world, head):
    new = world.commit()
    world.before = lambda step: 1 / 0 if step == "law" else None
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
    assert "no commit has it whole" in world.summary()
    assert "is no JSON: it was moved to" in world.summary()
    assert world.results() == {head, new[:8]}


def test_what_a_killed_git_has_left_is_cleared_away(world, head):
    gitdir = Path(git(world.branch, "rev-parse", "--absolute-git-dir"))
    (gitdir / "index.lock").touch()
    (world.branch / "cpu" / "state.json.partial").write_text("ha")
    result(world.branch / "results", head).unlink()
    (world.branch / "results" / "new.json").write_text("{}")
    (gitdir / "index").unlink()
    assert world.night() == (0, ["publish"])
    assert "An earlier night was interrupted; what it had stored is kept" in world.summary()
    assert world.results() == {head}
    assert not (world.branch / "cpu" / "state.json.partial").exists()
    assert git(world.remote, "show", f"{BRANCH}:results/new.json") == "{}"


def test_a_worktree_that_was_deleted_is_made_again(world, head):
    shutil.rmtree(world.branch)
    assert world.night() == (0, ["publish"])
    assert result(world.branch / "results", head).exists()


def test_a_folder_that_holds_something_else_is_left_alone(world, tmp_path):
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "mine").write_text("mine")
    git(world.root, "worktree", "remove", "--force", str(world.branch))
    with pytest.raises(BranchTrouble, match="not empty"):
        ResultsBranch(world.root, occupied, print).open()
    assert [file.name for file in occupied.iterdir()] == ["mine"]


def test_a_branch_that_is_checked_out_elsewhere_is_named(world, tmp_path):
    with pytest.raises(BranchTrouble, match=f"is checked out in {world.branch}"):
        ResultsBranch(world.root, tmp_path / "another", print).open()


def test_a_shallow_clone_is_refused(world, tmp_path):
    world.commit()
    git(world.root, "push", "--quiet", "origin", "HEAD:main")
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{world.remote}", "shallow")
    with pytest.raises(BranchTrouble, match="git fetch --unshallow"):
        ResultsBranch(tmp_path / "shallow", tmp_path / "results", print).open()


# ---- Two folders of results


NAME = "01234567-env.json"
COLUMNS = ["result", "params", "version", "started_at", "stats_q_25"]


def text(**results: list) -> str:
    return json.dumps({"params": {"machine": "here"}, "result_columns": COLUMNS, "results": results})


def test_figures_fill_each_other_and_the_first_one_stays():
    first = text(both=[[1.0, None, None], [["a", "b", "c"]], "1"], mine=[[5.0], [], "1"])
    second = text(both=[[2.0, 3.0, None], [["a", "b", "c"]], "1", 7, [1.9, 2.9, None]], yours=[[6.0], [], "1"])
    found = json.loads(combined(NAME, first, second))["results"]
    assert found["both"] == [[1.0, 3.0, None], [["a", "b", "c"]], "1", None, [None, 2.9, None]]
    assert (found["mine"], found["yours"]) == ([[5.0], [], "1"], [[6.0], [], "1"])
    assert combined(NAME, first, first) == first


@pytest.mark.parametrize("other", [[[2.0], [["z"]], "1"], [[2.0], [], "2"], [None, [], "1"]])
def test_figures_of_another_benchmark_by_the_same_name_do_not_mix(other):
    first = text(both=[[None], [], "1"])
    assert json.loads(combined(NAME, first, text(both=other)))["results"]["both"] == [[None], [], "1"]


def test_what_is_no_result_is_taken_from_the_first_that_is_whole():
    assert combined("machine.json", '{"a": 1}', '{"a": 2}') == '{"a": 1}'
    assert combined("machine.json", "{", '{"a": 2}') == '{"a": 2}'
    assert combined(NAME, "{", text()) == text()
    assert combined(NAME, text(a=[[1], [], "1"]), text().replace("here", "there")) == text(a=[[1], [], "1"])


@pytest.mark.parametrize("prefer_source", [True, False])
def test_a_merge_keeps_what_either_folder_has(tmp_path, prefer_source):
    source, target = tmp_path / "source", tmp_path / "target"
    for folder, value in ((source, 1.0), (target, 2.0)):
        (folder / "here").mkdir(parents=True)
        (folder / "here" / NAME).write_text(text(a=[[value], [], "1"]))
        (folder / f"{folder.name}.json").write_text("{}")
    assert merge(source, target, tmp_path / "aside", prefer_source) == []
    assert json.loads((target / "here" / NAME).read_text())["results"]["a"][0] == [1.0 if prefer_source else 2.0]
    assert {file.name for file in target.glob("*.json")} == {"source.json", "target.json"}
    assert not (source / "target.json").exists()
