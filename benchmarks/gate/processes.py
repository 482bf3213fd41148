"""Start the measuring processes, read their messages, and end them whatever happens."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import IO, AnyStr

from ..system import machine
from ..system.errors import CommandError
from .messages import BOTH, CaseMessage, Done, Failure, Message, Task, decode, encode_task
from .workload import Workload

SILENCE = 150.0  # seconds without a message after which a case counts as hanging; a first compilation takes some 20 s
MOST_CORES = 2  # processes at a time: more would share a core's memory bandwidth
ROOT = Path(__file__).parents[2]  # from where `benchmarks.gate` can be imported


class Broken(CommandError):
    """A version that cannot be imported, or a process that died."""

    summary = "Could not measure"


class Processes:
    """The processes of one comparison; `folder` holds their caches and their standard error."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: set[subprocess.Popen[str]] = set()

    def findings(
        self, task: Task, core: int | None = None, prefix: Sequence[str] = (), until: float = float("inf")
    ) -> Iterator[Message]:
        """Start a process for `task` and yield its messages as they come.

        The process is pinned to `core` if that is given; `prefix` is put before its command. It is ended without a message at
        `until`, on the clock of time.monotonic, and with a Failure that `hangs` if a case gives no result for SILENCE seconds.
        Raises Broken if the process dies.
        """
        pin = ["taskset", "--cpu-list", str(core)] if core is not None else []
        command = [*pin, *prefix, sys.executable, "-m", "benchmarks.gate.worker"]
        errors = self.folder / f"stderr.{threading.get_ident()}"
        left = list(task.cases)
        with open(errors, "w") as stderr, self.started(command, stderr) as process:
            lines = hand_over(process, encode_task(task))
            while True:
                try:
                    line = lines.get(timeout=max(0.0, min(SILENCE, until - time.monotonic())))
                except Empty:
                    if time.monotonic() >= until:
                        return
                    case = left[0] if left else "package"
                    yield Failure(case, BOTH, f"it hangs: no result after {SILENCE:.0f} s", hangs=True)
                    return
                if not line:
                    last = errors.read_text(errors="replace").strip().splitlines()[-1:] or ["it left no message"]
                    at = f" at {left[0]}" if left else ""
                    raise Broken(f"a measuring process died{at} (exit code {process.wait()}): {last[0]}")
                message = decode(line)
                if isinstance(message, Done):
                    return
                if isinstance(message, CaseMessage) and message.case in left:
                    left.remove(message.case)
                yield message

    @contextlib.contextmanager
    def started(self, command: Sequence[str], stderr: IO[str]) -> Iterator["subprocess.Popen[str]"]:
        """Start a process with the environment of `machine.ENVIRONMENT`; kill it in the end."""
        env = {**os.environ, **machine.ENVIRONMENT, "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "inductor")}
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, stderr=stderr, text=True) as process:
            self.running.add(process)
            try:
                yield process
            finally:
                self.running.discard(process)
                process.kill()  # a process that ends without an error has sent Done before
                process.wait()

    def stop(self) -> None:
        """Kill all processes now."""
        for process in list(self.running):
            process.kill()


def hand_over(process: "subprocess.Popen[str]", task: str) -> "Queue[str]":
    """Write `task` to a process's standard input; return a queue of the lines that it prints, with an empty one at the end."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once: its standard error says why
        process.stdin.write(task)
        process.stdin.close()
    lines: Queue[str] = Queue()
    threading.Thread(target=pump, args=(process.stdout, lines, ""), daemon=True).start()
    return lines


def pump(stream: IO[AnyStr], lines: "Queue[AnyStr]", end: AnyStr) -> None:
    """Put each line of a stream into a queue, and an empty one, `end`, when the stream ends."""
    with contextlib.suppress(ValueError):  # closed, since the process was ended
        for line in stream:
            lines.put(line)
    lines.put(end)


def cores_for(workload: Workload, names: Sequence[str]) -> list[int | None]:
    """Return the cores on which processes measure these cases side by side; [None] is one process on any core."""
    traits = workload.cases()
    cores = [] if any(traits[name].exclusive for name in names) else machine.cores(MOST_CORES)
    return list(cores) if len(cores) > 1 else [None]
