"""The GitHub issues that a night opens, with a fake `gh`: one per finding, and each report once."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nightly.nights import CASE, World, git, slower_outcome

from benchmarks.gate.rule import PASS, UNSTABLE
from benchmarks.nightly import github_issues
from benchmarks.nightly.github_issues import CannotReport
from benchmarks.nightly.state import REJECTED, VOID, Outcome

ROOT = Path(__file__).parents[3]

GH = """
import json, os, sys
file = os.environ["GH_STATE"]
state = json.load(open(file)) if os.path.exists(file) else {"issues": [], "calls": []}
args = sys.argv[1:]
state["calls"].append(args[:2])
if os.environ.get("GH_FAILS"):
    sys.exit("gh: HTTP 502")
issues = state["issues"]
if args[:2] == ["issue", "list"]:
    listed = [(i, issue) for i, issue in enumerate(issues) if issue["open"] or "all" in args]
    print(json.dumps([{"number": i, "title": issue["title"]} for i, issue in listed]))
elif args[:2] == ["issue", "create"]:
    issues.append({"title": args[args.index("--title") + 1], "body": sys.stdin.read(), "comments": [], "open": True})
elif args[:2] == ["issue", "view"]:
    issue = issues[int(args[2])]
    print(json.dumps({"body": issue["body"], "comments": [{"body": text} for text in issue["comments"]]}))
elif args[:2] == ["issue", "comment"]:
    issues[int(args[2])]["comments"].append(sys.stdin.read())
json.dump(state, open(file, "w"))
"""


class GitHub:
    """The issues and the calls of a fake `gh`, which is on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "gh.json"

    @property
    def issues(self) -> list[dict[str, Any]]:
        issues: list[dict[str, Any]] = json.loads(self.file.read_text())["issues"] if self.file.exists() else []
        return issues

    @property
    def calls(self) -> list[str]:
        return [" ".join(call) for call in json.loads(self.file.read_text())["calls"]] if self.file.exists() else []

    def titles(self) -> list[str]:
        return [issue["title"] for issue in self.issues]

    def close(self) -> None:
        stored = json.loads(self.file.read_text())
        stored["issues"] = [issue | {"open": False} for issue in stored["issues"]]
        self.file.write_text(json.dumps(stored))


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GitHub:
    """A fake `gh` on the PATH, without issues."""
    gh = tmp_path / "bin" / "gh"
    gh.parent.mkdir()
    # A shebang cannot hold a space, which the path of Python may have.
    script = tmp_path / "gh.py"
    script.write_text(GH)
    gh.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -SE {shlex.quote(str(script))} "$@"\n')
    gh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{gh.parent}{os.pathsep}{os.environ['PATH']}")
    fake = GitHub(tmp_path)
    monkeypatch.setenv("GH_STATE", str(fake.file))
    for name in ("SERVER_URL", "REPOSITORY", "RUN_ID", "STEP_SUMMARY", "OUTPUT"):
        monkeypatch.delenv(f"GITHUB_{name}", raising=False)
    return fake


def test_a_finding_has_one_issue_however_often_it_is_found(
    github: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = github_issues.slower(CASE, ["time +9 %"], "a" * 40, "b" * 40)
    assert github_issues.report([], tmp_path) == []
    assert github.calls == []
    assert github_issues.report([finding, github_issues.job_failed("cpu", "why")], tmp_path) == [
        f"issue opened: Slower: {CASE}",
        "issue opened: The nightly job fails (cpu)",
    ]
    assert github_issues.report([finding], tmp_path) == [f"issue reports this already: Slower: {CASE}"]
    later = github_issues.slower(CASE, ["time +9 %"], "a" * 40, "c" * 40)
    assert github_issues.report([later], tmp_path) == [f"comment added to issue: Slower: {CASE}"]
    assert github_issues.report([later], tmp_path) == [f"issue reports this already: Slower: {CASE}"]
    assert len(github.issues[0]["comments"]) == 1
    assert f"compare {'a' * 12} {'b' * 12} --case {CASE}" in github.issues[0]["body"]
    github.close()
    assert github_issues.report([later], tmp_path) == [f"issue opened: Slower: {CASE}"]
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.example")
    monkeypatch.setenv("GITHUB_REPOSITORY", "a/b")
    monkeypatch.setenv("GITHUB_RUN_ID", "7")
    assert "Run: https://github.example/a/b/actions/runs/7" in later.body()


def test_a_job_that_died_is_reported_with_the_standard_library_alone(github: GitHub) -> None:
    bare = [sys.executable, "-S", "-m", "benchmarks.nightly.github_issues"]
    for _ in range(2):
        done = subprocess.run([*bare, "cuda"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "issue reports this already: The nightly job fails (cuda)\n"
    assert github.titles() == ["The nightly job fails (cuda)"]
    assert subprocess.run([*bare], cwd=ROOT, capture_output=True, check=False).returncode == 2


@pytest.mark.parametrize("how", ["fails", "absent", "garbled"])
def test_a_report_that_fails_is_an_error(github: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "fails":
        monkeypatch.setenv("GH_FAILS", "1")
    elif how == "absent":
        monkeypatch.setenv("PATH", "")
    else:
        (tmp_path / "bin" / "gh").write_text("#!/bin/sh\necho hello\n")
    message = {
        "fails": "HTTP 502",
        "absent": "the command gh is not installed",
        "garbled": "printed something other than JSON: 'hello",
    }[how]
    with pytest.raises(CannotReport, match=message):
        github_issues.report([github_issues.job_failed("cpu", "why")], tmp_path)


@pytest.fixture
def world(world: World, github: GitHub) -> World:
    """A repository with a commit since its first night."""
    assert world.night(issues=True)[0] == 0
    world.commit()
    return world


def test_a_night_opens_an_issue_per_slower_case_and_reports_it_once(world: World, github: GitHub) -> None:
    git(world.root, "tag", "v0.1.0", "HEAD~1")
    world.gate = lambda base: slower_outcome()
    world.law = Outcome(REJECTED, "1 test failed twice")
    assert world.night(issues=True)[0] == 1
    assert github.titles() == [f"Slower: {CASE}", "K does not follow its law"]
    assert "* since the last night: time +9.0%" in github.issues[0]["body"]
    assert world.night(issues=True) == (0, ["publish"])
    assert len(github.calls) == 3
    world.commit()
    world.gate = lambda base: slower_outcome() if base == git(world.root, "rev-parse", "v0.1.0") else Outcome(PASS, "")
    assert world.night(issues=True)[0] == 1
    assert len(github.issues) == 2
    assert "* since the release: time +9.0%" in github.issues[0]["comments"][0]
    release = git(world.root, "rev-parse", "v0.1.0")[:12]
    assert f"compare {release} " in github.issues[0]["comments"][0]


def test_a_void_night_and_one_that_stopped_early_are_reported_as_failures_of_the_job(
    world: World, github: GitHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    world.gate, world.canary = lambda base: slower_outcome(), Outcome(VOID, "not seen")
    assert world.night(issues=True)[0] == 2
    assert github.titles() == ["The nightly job fails (cpu)"]
    assert "canary: not seen" in github.issues[0]["body"]
    away = world.remote.rename(world.remote.with_name("away"))
    monkeypatch.setenv("GITHUB_RUN_ID", "2")
    assert world.night(issues=True)[0] == 2
    assert "git ls-remote failed" in github.issues[0]["comments"][0]
    away.rename(world.remote)
    assert (tmp_path / "output").read_text() == "reported=true\n" * 2


def test_findings_that_could_not_be_reported_are_reported_the_next_night(
    world: World, github: GitHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("GH_FAILS", "1")
    world.gate = lambda base: slower_outcome()
    before = world.state().judged
    assert world.night(issues=True)[0] == 1
    assert "HTTP 502" in world.summary()
    assert world.state().judged == before
    assert (tmp_path / "output").read_text() == "reported=false\n"
    monkeypatch.delenv("GH_FAILS")
    assert world.night(issues=True) == (1, ["publish"])
    assert github.titles() == [f"Slower: {CASE}"]
    assert world.night(issues=True) == (0, ["publish"])


def test_three_consecutive_noisy_nights_are_reported(world: World, github: GitHub) -> None:
    noisy = world.gate = lambda base: Outcome(UNSTABLE, "noisy")
    assert world.night(issues=True)[0] == 3
    world.gate = lambda base: Outcome(PASS, "quiet")
    assert world.night(issues=True)[0] == 0
    world.commit()
    world.gate = noisy
    for _ in range(2):
        assert world.night(issues=True)[0] == 3
    assert github.titles() == []
    assert world.night(issues=True)[0] == 3
    assert "3 consecutive nights" in github.issues[0]["body"]
