"""Commands in process groups of their own: they end when they should, with all that they started."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.system import process_group
from benchmarks.system.process_group import OutOfTime

ROOT = Path(__file__).parents[3]
PATIENCE = 120  # seconds to wait for something that must happen; a test that passes needs far less
# Starts a child that would sleep for long, writes its id to the file `pid` in one step, and sleeps itself.
SPAWN = """import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, file=open("partial", "w"), flush=True)
os.rename("partial", "pid")
time.sleep(600)"""
# Runs that in a session of its own, with a parent that ends at once.
DAEMON = f"""import subprocess, sys, time
start = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]])"
subprocess.run([sys.executable, "-c", start, {SPAWN!r}], start_new_session=True)
time.sleep(600)"""


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition is true; fail after `PATIENCE`."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {PATIENCE} s"
        time.sleep(0.02)


def ended(pid: int) -> bool:
    """Return True if a process has ended, also if its parent has not asked for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_command_returns_its_exit_code_and_its_last_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import os, sys; [print(i, file=sys.stderr) for i in range(99)]; sys.exit(int(os.environ['CODE']))"
    done = process_group.run([sys.executable, "-c", code], PATIENCE, tmp_path, CODE="3")
    assert done == (3, "\n".join(map(str, range(74, 99))))
    assert capsys.readouterr().err.count("\n") == 99


@pytest.mark.parametrize("code", [SPAWN, DAEMON], ids=["child", "daemon"])
def test_a_command_whose_time_is_up_ends_with_all_that_it_started(tmp_path: Path, code: str) -> None:
    pid = tmp_path / "pid"
    for seconds in (1, 4, 16, 64):  # a busy machine takes longer to start the child
        with pytest.raises(OutOfTime, match=f"not done after {seconds} s"):
            process_group.run([sys.executable, "-c", code], seconds, tmp_path)
        if pid.exists():
            break
    wait_until(lambda: ended(int(pid.read_text())), "the end of the child")


@pytest.mark.parametrize("code", [SPAWN, DAEMON], ids=["child", "daemon"])
def test_a_command_that_ends_by_itself_leaves_nothing(tmp_path: Path, code: str) -> None:
    code = code.removesuffix("time.sleep(600)") + "while not os.path.exists('pid'): time.sleep(.01)"
    assert process_group.run([sys.executable, "-c", f"import os\n{code}"], PATIENCE, tmp_path) == (0, "")
    wait_until(lambda: ended(int((tmp_path / "pid").read_text())), "the end of the child")


@pytest.mark.parametrize("started", [SPAWN, DAEMON], ids=["child", "daemon"])
def test_a_command_does_not_outlive_the_process_that_started_it(tmp_path: Path, started: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\n"
    code += "from benchmarks.system import process_group\n"
    code += f"process_group.run([sys.executable, '-c', {started!r}], 600, Path('.'))"
    pid = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) as process:
        wait_until(pid.exists, "the start of the child")
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: ended(int(pid.read_text())), "the end of the child")
