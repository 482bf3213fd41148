"""Start a process that is killed, with every process that it has started, when this one dies."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from ..system import process_group

RUNNING: "set[subprocess.Popen[bytes]]" = set()  # so that all of them can be ended at once, from the main thread


@contextlib.contextmanager
def guarded(
    command: Sequence[str], cwd: Path, env: Mapping[str, str], stdout: int | IO[bytes], stderr: int | IO[bytes]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a command that is killed in the end, or when this process dies, with all that it has started.

    The command has an empty standard input, since the pipe there tells process_group.py when this process dies.
    """
    # -P: the modules beside that file must not hide those of the standard library.
    wrapped = [sys.executable, "-P", str(Path(process_group.__file__)), *command]
    with subprocess.Popen(
        wrapped, cwd=cwd, env=dict(env), stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, start_new_session=True
    ) as process:
        RUNNING.add(process)
        try:
            yield process
        finally:
            RUNNING.discard(process)
            process_group.kill(process)


def kill_all() -> None:
    """Kill every guarded process; the threads that wait for one see it end."""
    for process in list(RUNNING):
        process_group.kill(process)


def run_logged(command: Sequence[str], seconds: float, cwd: Path, env: Mapping[str, str], log: Path) -> int:
    """Run a command for at most `seconds`, append its output to `log`, and return its exit code.

    Raises process_group.OutOfTime if it has not ended by then.
    """
    with open(log, "ab") as file:
        file.write(f"$ {' '.join(command)}\n".encode())
        file.flush()
        with guarded(command, cwd, env, file, file) as process:
            try:
                return process.wait(seconds)
            except subprocess.TimeoutExpired:
                raise process_group.OutOfTime(f"it was not done after {seconds:.0f} s: {' '.join(command)}") from None
