"""Runs a command that must not outlive whoever started it, nor its time.

`python -m benchmarks.system.process_group COMMAND …` runs COMMAND in its own process group and ends the whole group when its
standard input closes, as it does when the process at the other end dies, however it dies. `run` starts that and waits.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO

KEPT = 25  # of the lines that a command said last


class OutOfTime(Exception):
    """A command was ended since its time was up."""


def run(command: Sequence[str], seconds: float, cwd: Path, **environment: str) -> tuple[int, str]:
    """Run a command for so long at most; its exit code and its last lines on standard error, all of which is shown too.

    Raises OutOfTime.
    """
    leash = [sys.executable, "-P", str(Path(__file__)), *command]  # -P: modules here are not to hide the standard library's
    pipe = subprocess.PIPE
    surroundings = {**os.environ, **environment}
    said: deque[str] = deque(maxlen=KEPT)
    with subprocess.Popen(
        leash, cwd=cwd, env=surroundings, stdin=pipe, stderr=pipe, text=True, errors="replace", start_new_session=True
    ) as process:
        assert process.stderr is not None
        reader = threading.Thread(target=show, args=(process.stderr, said), daemon=True)
        reader.start()
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise OutOfTime(f"it was not done after {seconds:.0f} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            reader.join(5)
    return code, "\n".join(said)


def show(stream: IO[str], said: deque[str]) -> None:
    """Pass on what a command complains of, and remember the end of it."""
    for line in stream:
        print(line, end="", file=sys.stderr, flush=True)
        if line.strip():
            said.append(line.rstrip())


def hold() -> None:
    """Wait for the other end to let go, then end the group."""
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGKILL)


def main(command: Sequence[str]) -> int:
    """Run the command; its exit code."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        threading.Thread(target=hold, daemon=True).start()
        code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
