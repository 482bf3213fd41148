"""What a night is made of: commands that end when they should, the tests of the law, the canary."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import nights
import pytest
from nights import CASE

from benchmarks import __main__ as command
from benchmarks.commands import nightly
from benchmarks.gate.rule import FAILED, PASS, REGRESSED, UNSTABLE
from benchmarks.nightly import law
from benchmarks.nightly import steps as night_steps
from benchmarks.nightly.state import REJECTED, VOID, Outcome
from benchmarks.system import process_group as leash

ROOT = Path(__file__).parents[3]


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
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\n"
    code += "from benchmarks.system import process_group as leash\n"
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
