"""What a night is made of: commands that end when they should, the tests of the law, the canary, the alarms, the workflow."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nights
import pytest
import yaml
from nights import CASE, World, git

from benchmarks import __main__ as command
from benchmarks import alarm, canary, law, leash, night_steps, nightly
from benchmarks.gate_report import Row
from benchmarks.night_state import REJECTED, VOID, Outcome
from benchmarks.verdict import FAILED, PASS, REGRESSED, UNSTABLE

ROOT = Path(__file__).parents[1]


# ---- Commands


def test_a_command_gives_its_exit_code_and_what_it_said_last(tmp_path, capsys):
    code = "import os, sys; [print(i, file=sys.stderr) for i in range(99)]; sys.exit(int(os.environ['CODE']))"
    assert leash.run([sys.executable, "-c", code], 60, tmp_path, CODE="3") == (3, "\n".join(map(str, range(74, 99))))
    assert capsys.readouterr().err.count("\n") == 99


SPAWN = """import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, file=open("pid", "w"), flush=True)
time.sleep(600)"""


def gone(pid: int) -> bool:
    """Whether a process ends within some seconds; one that waits to be buried has ended."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def test_what_has_no_time_left_ends_with_all_it_started(tmp_path):
    with pytest.raises(leash.OutOfTime, match="not done after 2 s"):
        leash.run([sys.executable, "-c", SPAWN], 2, tmp_path)
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_command_does_not_outlive_who_started_it(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\nfrom benchmarks import leash\n"
    code += f"leash.run([sys.executable, '-c', {SPAWN!r}], 600, Path('.'))"
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) as process:
        pid = tmp_path / "pid"
        for _ in range(200):
            if pid.exists() and pid.read_text().strip():
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert gone(int(pid.read_text()))


@pytest.fixture
def said(monkeypatch):
    """What the commands of the steps are to give: an exit code, and the files they write; and what was asked of them."""
    asked: list[list[str]] = []
    given: dict[str, object] = {"code": 0, "files": {}, "said": "Nothing was measured on abc\nand more"}

    def run(words, seconds, cwd, **environment):
        asked.append([*words])
        for option, text in given["files"].items():
            Path(words[words.index(option) + 1]).write_text(text)
        return given["code"], given["said"]

    monkeypatch.setattr(leash, "run", run)
    return asked, given


def test_a_step_that_fails_says_why(said, tmp_path):
    asked, given = said
    steps = night_steps.real(tmp_path, "cuda", [CASE])
    assert steps.measure("abc", 60).verdict == PASS
    assert asked[0][3:] == ["run", "abc", "--case", CASE, "--device", "cuda"]
    given["code"] = 2
    for outcome in (steps.measure("abc", 60), steps.gate("a", "b", 60), steps.publish(60)):
        assert outcome.verdict == FAILED
        assert outcome.line.endswith(": Nothing was measured on abc")
        assert "and more" in outcome.markdown
    canary = steps.canary("abc", 60)
    assert (canary.verdict, canary.line) == (VOID, "canary: Nothing was measured on abc")
    given["said"] = ""
    assert steps.publish(60).line == "dashboard: it ended with 2 and said nothing"
    assert steps.law is None


@pytest.mark.parametrize(("verdict", "expected"), [("REGRESSED", REGRESSED), ("UNSTABLE", UNSTABLE), ("INCOMPARABLE", FAILED)])
def test_the_gates_verdict_is_read_from_what_it_wrote(said, tmp_path, verdict, expected):
    asked, given = said
    row = {"case": CASE, "signal": "time", "verdict": verdict, "change": 0.09, "note": ""}
    rows = [row, row | {"signal": "bytes", "change": None, "note": "0 → 8"}]
    stored = {"version": 1, "verdict": verdict, "line": f"{verdict}: a line", "rows": rows, "processes": [1], "seed": 3}
    given.update(code=1, files={"--json": json.dumps(stored), "--junit": nights.SUITE, "--markdown": "a table"})
    found = night_steps.real(tmp_path, "cpu").gate("a", "b", 100)
    assert (found.verdict, found.line, found.markdown, found.junit) == (
        expected,
        "a line" if expected == verdict else "INCOMPARABLE: a line",
        "a table",
        nights.SUITE,
    )
    assert found.slower == ({CASE: "time +9.0%, bytes 0 → 8"} if verdict == REGRESSED else {})
    assert set(found.shown["verdict.json"]) == {"version", "verdict", "line", "rows"}
    assert asked[0][asked[0].index("--budget") + 1] == "85s"


def test_the_canarys_finding_is_read_from_what_it_wrote(said, tmp_path):
    _, given = said
    given.update(code=1, files={"--json": '{"line": "not seen"}'})
    assert night_steps.real(tmp_path, "cpu").canary("abc", 60) == Outcome(VOID, "not seen")
    given["code"] = 0
    assert night_steps.real(tmp_path, "cpu").canary("abc", 60).verdict == PASS


@pytest.mark.parametrize(
    ("verdict", "change", "seen"),
    [(REGRESSED, 0.1, True), (REGRESSED, 0.049, False), (REGRESSED, 0.21, False), (PASS, 0.1, False), (FAILED, None, False)],
)
def test_a_canary_is_seen_if_it_is_called_slower_by_about_what_was_planted(verdict, change, seen):
    rows = [Row("one", "time", REGRESSED, change=0.1), Row("two", "time", verdict, change=change)]
    assert canary.unseen(rows) == ([] if seen else ["two"])
    assert ("not seen" in canary.line(rows, canary.unseen(rows))) != seen


def test_every_canary_is_a_case_of_its_device():
    from benchmarks.suite.cases import CASES

    assert {device: {CASES[name].device for name in cases} for device, cases in canary.PLANTED.items()} == {
        "cpu": {"cpu"},
        "cuda": {"cuda"},
    }


def test_a_device_that_is_not_there_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(nightly, "has_cuda", lambda: False)
    assert command.main(["nightly", "--device", "cuda"]) == 2
    assert "torch finds no CUDA device" in capsys.readouterr().err


def test_a_case_of_another_device_is_refused(capsys):
    assert command.main(["nightly", "--device", "cuda", "--case", CASE]) == 2
    assert "none of these cases is for --device cuda" in capsys.readouterr().err


# ---- The tests of the law

LAW = """import os
seed = os.environ["TAILDROPOUT_SEED"]
def test_right(): pass
def test_chance(): assert seed != "1", "by chance"
def test_wrong(): assert not os.path.exists("wrong"), f"p=0 on seed {seed}"
def test_holm(): assert seed != "1"
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take longer to load than these tests
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_law.py").write_text(LAW)
    return tmp_path


def test_the_law_holds_where_all_tests_pass(project):
    found = law.check(project, "abc", (3, 4), 60)
    assert (found.verdict, found.line) == (PASS, "4 tests with up to 1e+07 draws, seed 3")
    stored = found.shown["law.json"]
    assert stored.pop("date").endswith("+00:00")
    wanted = {"version": 1, "seed": 3, "draws": 10**7, "checks": 4, "rejected": [], "commit": "abc"}
    assert stored == wanted


def test_what_fails_on_one_seed_alone_is_chance(project):
    found = law.check(project, "abc", (1, 2), 60)
    assert (found.verdict, found.shown["law.json"]["rejected"]) == (PASS, [])
    assert found.line.endswith("1 failed, and 0 of them on seed 2 too")


def test_what_fails_on_two_seeds_is_rejected(project):
    (project / "wrong").touch()
    found = law.check(project, "abc", (1, 2), 60)
    assert (found.verdict, found.shown["law.json"]["rejected"]) == (REJECTED, ["test_wrong"])
    assert "p=0 on seed 1" in found.markdown
    assert "2 failed, and 1 of them on seed 2 too" in found.line


@pytest.mark.parametrize("text", ["import nothing_of_this_name", "", "raise SystemExit"])
def test_tests_that_cannot_run_are_no_verdict(project, text):
    (project / "tests" / "test_law.py").write_text(text)
    with pytest.raises(law.CannotMeasure, match="pytest could not run"):
        law.check(project, "abc", (1, 2), 60)


def test_tests_that_are_all_skipped_are_a_failure(project):
    (project / "tests" / "test_law.py").write_text("import pytest\ndef test_a(): pytest.skip('no compiler')")
    assert law.check(project, "abc", (1, 2), 60) == Outcome(FAILED, "no statistical test ran")


# ---- Alarms

GH = """#!{python} -SE
import json, os, sys
file = os.environ["GH_STATE"]
state = json.load(open(file)) if os.path.exists(file) else {{"issues": [], "calls": []}}
words = sys.argv[1:]
state["calls"].append(words[:2])
if os.environ.get("GH_FAILS"):
    sys.exit("gh: HTTP 502")
issues = state["issues"]
if words[:2] == ["issue", "list"]:
    listed = [(i, issue) for i, issue in enumerate(issues) if issue["open"] or "all" in words]
    print(json.dumps([{{"number": i, "title": issue["title"]}} for i, issue in listed]))
elif words[:2] == ["issue", "create"]:
    issues.append({{"title": words[words.index("--title") + 1], "body": sys.stdin.read(), "comments": [], "open": True}})
elif words[:2] == ["issue", "view"]:
    issue = issues[int(words[2])]
    print(json.dumps({{"body": issue["body"], "comments": [{{"body": text}} for text in issue["comments"]]}}))
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
    gh.write_text(GH.format(python=sys.executable))
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
    bare = [sys.executable, "-S", "-m", "benchmarks.alarm"]
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
    assert runs["python3"]["run"] == 'python3 -m benchmarks.alarm "$DEVICE"'
    assert "failure()" in runs["python3"]["if"]
    budget = command.parser("nightly").parse_args(["nightly", "--budget", night["env"]["BUDGET"].split("'")[1]]).budget
    assert budget < 60 * night["timeout-minutes"] < 60 * job["timeout-minutes"] < 6 * 3600
    inputs = re.findall(r"\$\{\{.*?\}\}", night["run"])
    assert inputs == [], "an expression in a shell line is a way in; hand it over in the environment"
