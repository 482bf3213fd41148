"""Run a command that is killed when the process that started it dies, or when its time is up.

`python -m benchmarks.system.process_group COMMAND …` runs COMMAND in its own process group and kills the whole group when its
standard input closes. The input closes when the process at the other end dies, however it dies. `run` starts this module as a
process and waits. On Linux, what COMMAND started in other groups and sessions is killed too.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

KEPT_LINES = 25  # of the end of standard error
ADOPT_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER of Linux's prctl
SWEEPS = 100  # over a tree of processes, in which new ones may start while others are killed


class OutOfTime(Exception):
    """A command was killed because its time was up."""


def run(command: Sequence[str], seconds: float, cwd: Path, **environment: str) -> tuple[int, str]:
    """Run a command for at most `seconds`; return its exit code and its last lines on standard error.

    Standard error is also passed on as it comes. `environment` is added to the variables of this process.
    Raises OutOfTime if the command has not ended after `seconds`.
    """
    # -P: the modules beside this file must not hide those of the standard library.
    wrapped = [sys.executable, "-P", str(Path(__file__)), *command]
    pipe = subprocess.PIPE
    env = {**os.environ, **environment}
    stderr: deque[str] = deque(maxlen=KEPT_LINES)
    with subprocess.Popen(
        wrapped, cwd=cwd, env=env, stdin=pipe, stderr=pipe, text=True, errors="replace", start_new_session=True
    ) as process:
        assert process.stderr is not None
        reader = threading.Thread(target=pass_on, args=(process.stderr, stderr), daemon=True)
        reader.start()
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise OutOfTime(f"it was not done after {seconds:.0f} s") from None
        finally:
            kill(process)
            reader.join(5)
    return code, "\n".join(stderr)


def pass_on(stream: IO[str], kept: deque[str]) -> None:
    """Copy each line of `stream` to standard error, and to `kept` unless it is blank."""
    for line in stream:
        print(line, end="", file=sys.stderr, flush=True)
        if line.strip():
            kept.append(line.rstrip())


def kill(process: "subprocess.Popen[Any]") -> None:
    """Kill a process that runs this module, and all that it has started."""
    if process.poll() is None:  # else its number may be another's by now
        kill_descendants(process.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def kill_descendants(ancestor: int) -> None:
    """Kill all living processes below `ancestor`, in whatever group or session. Only Linux tells which they are."""
    for _ in range(SWEEPS):
        found = descendants(ancestor)
        if not found:
            break
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def descendants(ancestor: int) -> list[int]:
    """Return the living processes below `ancestor`, by their numbers."""
    children: dict[int, list[tuple[int, str]]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            # PID (NAME) STATE PARENT …, where the name may hold spaces and parentheses.
            state, parent = file.read_text(errors="replace").rpartition(")")[2].split()[:2]
            children.setdefault(int(parent), []).append((int(file.parent.name), state))
    tree, living = [ancestor], []
    for process in tree:
        for child, state in children.get(process, ()):
            tree.append(child)
            if state != "Z":
                living.append(child)
    return living


def end_with_stdin() -> None:
    """Wait until standard input closes, then kill all that was started, and this process."""
    while os.read(0, 1024):
        pass
    kill_descendants(os.getpid())
    os.killpg(0, signal.SIGKILL)


def main(command: Sequence[str]) -> int:
    """Run the command; return its exit code, or 128 + N if signal N ended it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(ADOPT_ORPHANS, 1, 0, 0, 0)  # else a daemon's parent would be the system's first process
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        threading.Thread(target=end_with_stdin, daemon=True).start()
        code = process.wait()
    kill_descendants(os.getpid())
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
