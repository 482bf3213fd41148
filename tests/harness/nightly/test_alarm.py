"""Who is told of what a night finds, once and by a fake `gh`; and the workflow that starts it."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from nights import CASE, World, git

from benchmarks import __main__ as command
from benchmarks.gate.rule import PASS, REGRESSED, UNSTABLE
from benchmarks.nightly import github_issues as alarm
from benchmarks.nightly.state import REJECTED, VOID, Outcome

ROOT = Path(__file__).parents[3]


GH = """
import json, os, sys
file = os.environ["GH_STATE"]
state = json.load(open(file)) if os.path.exists(file) else {"issues": [], "calls": []}
words = sys.argv[1:]
state["calls"].append(words[:2])
if os.environ.get("GH_FAILS"):
    sys.exit("gh: HTTP 502")
issues = state["issues"]
if words[:2] == ["issue", "list"]:
    listed = [(i, issue) for i, issue in enumerate(issues) if issue["open"] or "all" in words]
    print(json.dumps([{"number": i, "title": issue["title"]} for i, issue in listed]))
elif words[:2] == ["issue", "create"]:
    issues.append({"title": words[words.index("--title") + 1], "body": sys.stdin.read(), "comments": [], "open": True})
elif words[:2] == ["issue", "view"]:
    issue = issues[int(words[2])]
    print(json.dumps({"body": issue["body"], "comments": [{"body": text} for text in issue["comments"]]}))
elif words[:2] == ["issue", "comment"]:
    issues[int(words[2])]["comments"].append(sys.stdin.read())
json.dump(state, open(file, "w"))
"""


class GitHub:
    """A made-up `gh` on the PATH, and what it was told."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "gh.json"

    @property
    def issues(self) -> list[dict]:
        return json.loads(self.file.read_text())["issues"] if self.file.exists() else []

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
def github(tmp_path, monkeypatch) -> GitHub:
    gh = tmp_path / "bin" / "gh"
    gh.parent.mkdir()
    # A shebang cannot hold a space, which the path of Python may have.
    script = tmp_path / "gh.py"
    script.write_text(GH)
    gh.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -SE {shlex.quote(str(script))} "$@"\n')
    gh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{gh.parent}{os.pathsep}{os.environ['PATH']}")
    found = GitHub(tmp_path)
    monkeypatch.setenv("GH_STATE", str(found.file))
    for name in ("SERVER_URL", "REPOSITORY", "RUN_ID", "STEP_SUMMARY", "OUTPUT"):
        monkeypatch.delenv(f"GITHUB_{name}", raising=False)
    return found


def test_one_issue_per_finding_however_often_it_is_found(github, tmp_path, monkeypatch):
    found = alarm.slower(CASE, ["time +9 %"], "a" * 40, "b" * 40)
    assert alarm.tell([], tmp_path) == []
    assert github.calls == []
    assert alarm.tell([found, alarm.failed("cpu", "why")], tmp_path) == [
        f"opened: Slower: {CASE}",
        "opened: The nightly job fails (cpu)",
    ]
    assert alarm.tell([found], tmp_path) == [f"known already: Slower: {CASE}"]
    later = alarm.slower(CASE, ["time +9 %"], "a" * 40, "c" * 40)
    assert alarm.tell([later], tmp_path) == [f"added to: Slower: {CASE}"]
    assert alarm.tell([later], tmp_path) == [f"known already: Slower: {CASE}"]
    assert len(github.issues[0]["comments"]) == 1
    assert f"compare {'a' * 12} {'b' * 12} --case {CASE}" in github.issues[0]["body"]
    github.close()
    assert alarm.tell([later], tmp_path) == [f"opened: Slower: {CASE}"]
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.example")
    monkeypatch.setenv("GITHUB_REPOSITORY", "a/b")
    monkeypatch.setenv("GITHUB_RUN_ID", "7")
    assert "Run: https://github.example/a/b/actions/runs/7" in later.body()


def test_a_job_that_died_is_told_by_python_alone(github):
    bare = [sys.executable, "-S", "-m", "benchmarks.nightly.github_issues"]
    for _ in range(2):
        done = subprocess.run([*bare, "cuda"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "known already: The nightly job fails (cuda)\n"
    assert github.titles() == ["The nightly job fails (cuda)"]
    assert subprocess.run([*bare], cwd=ROOT, capture_output=True, check=False).returncode == 2


@pytest.mark.parametrize("how", ["fails", "absent", "garbled"])
def test_nobody_told_is_no_silent_matter(github, tmp_path, monkeypatch, how):
    if how == "fails":
        monkeypatch.setenv("GH_FAILS", "1")
    elif how == "absent":
        monkeypatch.setenv("PATH", "")
    else:
        (tmp_path / "bin" / "gh").write_text("#!/bin/sh\necho hello\n")
    message = {"fails": "HTTP 502", "absent": "there is no command gh", "garbled": "printed no JSON: 'hello"}[how]
    with pytest.raises(alarm.AlarmTrouble, match=message):
        alarm.tell([alarm.failed("cpu", "why")], tmp_path)


@pytest.fixture
def world(tmp_path, github) -> World:
    world = World.new(tmp_path)
    assert world.night(issues=True)[0] == 0
    world.commit()
    return world


def regressed(base: str) -> Outcome:
    return Outcome(REGRESSED, "slower", {CASE: "time +9.0%"})


def test_a_night_opens_an_issue_per_regression_and_says_it_once(world, github):
    git(world.root, "tag", "v0.1.0", "HEAD~1")
    world.gate = regressed
    world.law = Outcome(REJECTED, "1 test failed twice")
    assert world.night(issues=True)[0] == 1
    assert github.titles() == [f"Slower: {CASE}", "K does not follow its law"]
    assert "* since the last night: time +9.0%" in github.issues[0]["body"]
    assert world.night(issues=True) == (0, ["publish"])
    assert len(github.calls) == 3
    world.commit()
    world.gate = lambda base: regressed(base) if base == git(world.root, "rev-parse", "v0.1.0") else Outcome(PASS, "")
    assert world.night(issues=True)[0] == 1
    assert len(github.issues) == 2
    assert "* since the release: time +9.0%" in github.issues[0]["comments"][0]
    release = git(world.root, "rev-parse", "v0.1.0")[:12]
    assert f"compare {release} " in github.issues[0]["comments"][0]


def test_a_void_night_and_one_that_breaks_off_are_told_apart_from_regressions(world, github, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    world.gate, world.canary = regressed, Outcome(VOID, "not seen")
    assert world.night(issues=True)[0] == 2
    assert github.titles() == ["The nightly job fails (cpu)"]
    assert "canary: not seen" in github.issues[0]["body"]
    away = world.remote.rename(world.remote.with_name("away"))
    monkeypatch.setenv("GITHUB_RUN_ID", "2")
    assert world.night(issues=True)[0] == 2
    assert "git ls-remote failed" in github.issues[0]["comments"][0]
    away.rename(world.remote)
    assert (tmp_path / "output").read_text() == "told=true\n" * 2


def test_what_nobody_was_told_is_told_the_next_night(world, github, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("GH_FAILS", "1")
    world.gate = regressed
    before = world.state().judged
    assert world.night(issues=True)[0] == 1
    assert "HTTP 502" in world.summary()
    assert world.state().judged == before
    assert (tmp_path / "output").read_text() == "told=false\n"
    monkeypatch.delenv("GH_FAILS")
    assert world.night(issues=True) == (1, ["publish"])
    assert github.titles() == [f"Slower: {CASE}"]
    assert world.night(issues=True) == (0, ["publish"])


def test_noise_is_told_after_three_nights_of_it_in_a_row(world, github):
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
    assert "3 nights in a row" in github.issues[0]["body"]


# ---- The workflow


@pytest.fixture(scope="module")
def workflow() -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text())


def test_every_action_is_pinned_by_commit_with_its_version_beside_it():
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        used = re.findall(r"uses: (.*)", file.read_text())
        assert used
        assert not [each for each in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)]


def test_the_job_may_write_results_and_issues_and_knows_no_secret(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert job["permissions"] == {"contents": "write", "issues": "write"}
    assert "secrets" not in (ROOT / ".github" / "workflows" / "nightly.yml").read_text()
    assert job["env"]["GH_TOKEN"] == "${{ github.token }}"


def test_the_job_runs_by_schedule_and_by_hand_and_one_at_a_time(workflow):
    assert set(workflow[True]) == {"schedule", "workflow_dispatch"}  # YAML reads the key `on` as true
    assert workflow["concurrency"]["cancel-in-progress"] is False
    (job,) = workflow["jobs"].values()
    assert "CUDA_RUNNER" in job["runs-on"]
    assert '["cpu", "cuda"]' in job["strategy"]["matrix"]["device"]


def test_the_steps_are_commands_that_exist_and_leave_time_to_report(workflow):
    (job,) = workflow["jobs"].values()
    runs = {step["run"].split()[0]: step for step in job["steps"] if "run" in step}
    assert set(runs) == {"sudo", "make", ".venv/bin/python", "python3"}
    night = runs[".venv/bin/python"]
    words = night["run"].replace('"$DEVICE"', "cpu").replace('"$BUDGET"', "5h").split()
    assert command.parser("nightly").parse_args(words[3:]).issues
    assert runs["make"]["run"] == "make setup"
    assert re.search(r"^setup:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert runs["python3"]["run"] == 'python3 -m benchmarks.nightly.github_issues "$DEVICE"'
    assert "failure()" in runs["python3"]["if"]
    budget = command.parser("nightly").parse_args(["nightly", "--budget", night["env"]["BUDGET"].split("'")[1]]).budget
    assert budget < 60 * night["timeout-minutes"] < 60 * job["timeout-minutes"] < 6 * 3600
    inputs = re.findall(r"\$\{\{.*?\}\}", night["run"])
    assert inputs == [], "an expression in a shell line is a way in; hand it over in the environment"
