"""Run a command that is killed when the process that started it dies, or when its time is up.

`python -m benchmarks.system.process_group COMMAND …` runs COMMAND in its own process group and kills the whole group when its
standard input closes. The input closes when the process at the other end dies, however it dies. `run` starts this module as a
process and waits.
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

KEPT_LINES = 25  # of the end of standard error


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
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            reader.join(5)
    return code, "\n".join(stderr)


def pass_on(stream: IO[str], kept: deque[str]) -> None:
    """Copy each line of `stream` to standard error, and to `kept` unless it is blank."""
    for line in stream:
        print(line, end="", file=sys.stderr, flush=True)
        if line.strip():
            kept.append(line.rstrip())


def end_with_stdin() -> None:
    """Wait until standard input closes, then kill the process group."""
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGKILL)


def main(command: Sequence[str]) -> int:
    """Run the command; return its exit code, or 128 + N if signal N ended it."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        threading.Thread(target=end_with_stdin, daemon=True).start()
        code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
