"""Starts the gate's measuring processes, hears what they find, and ends them whatever happens."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import IO, Any

from .. import ROOT
from ..system import machine

SILENCE = 150.0  # seconds without a finding, after which a case hangs; the first compilation takes some 20
LANES = 2  # processes at a time: more would share a core's memory bandwidth


class Broken(Exception):
    """A version that cannot be imported, or a process that ends without a word."""


class Processes:
    """The processes of one comparison; `folder` takes their caches and complaints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: set[subprocess.Popen[str]] = set()

    def findings(
        self, task: Mapping[str, Any], core: int | None = None, prefix: Sequence[str] = ()
    ) -> Iterator[dict[str, Any]]:
        """What one process finds, as it comes. A case that hangs ends it, with a finding that says so; Broken if it dies."""
        pin = ["taskset", "--cpu-list", str(core)] if core is not None else []
        command = [*pin, *prefix, sys.executable, "-m", "benchmarks.gate.worker"]
        complaints = self.folder / f"complaints.{threading.get_ident()}"
        left = list(task["cases"])
        with open(complaints, "w") as stderr, self.started(command, stderr) as process:
            lines = self.hand_over(process, json.dumps(task))
            while True:
                try:
                    line = lines.get(timeout=SILENCE)
                except Empty:
                    case = left[0] if left else "compiler"
                    yield {"case": case, "fails": "both", "hangs": True, "error": f"it hangs: no result after {SILENCE:.0f} s"}
                    return
                if not line:
                    said = complaints.read_text(errors="replace").strip().splitlines()[-1:] or ["it left no message"]
                    at = f" at {left[0]}" if left else ""
                    raise Broken(f"a measuring process died{at} (exit code {process.wait()}): {said[0]}")
                finding = json.loads(line)
                if "end" in finding:
                    return
                if finding.get("case") in left:
                    left.remove(finding["case"])
                yield finding

    @staticmethod
    def hand_over(process: "subprocess.Popen[str]", task: str) -> "Queue[str]":
        """Give a process its task; the queue has its lines, an empty one at the end."""
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once: its complaints say why
            process.stdin.write(task)
            process.stdin.close()
        lines: Queue[str] = Queue()
        threading.Thread(target=pump, args=(process.stdout, lines), daemon=True).start()
        return lines

    @contextlib.contextmanager
    def started(self, command: Sequence[str], stderr: IO[str]) -> Iterator["subprocess.Popen[str]"]:
        """A process in the fixed environment; it is dead in the end."""
        surroundings = {**os.environ, **machine.ENVIRONMENT, "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "inductor")}
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, cwd=ROOT, env=surroundings, stdin=pipe, stdout=pipe, stderr=stderr, text=True
        ) as process:
            self.running.add(process)
            try:
                yield process
            finally:
                self.running.discard(process)
                process.kill()  # what ends in order has said so before
                process.wait()

    def stop(self) -> None:
        """End all processes now."""
        for process in list(self.running):
            process.kill()


def pump(stream: IO[str], lines: "Queue[str]") -> None:
    """Hand on each line, and an empty one at the end."""
    with contextlib.suppress(ValueError):  # closed, since the process was ended
        for line in stream:
            lines.put(line)
    lines.put("")


def lanes(names: Sequence[str]) -> list[int | None]:
    """The cores on which processes run side by side; [None] is one process anywhere."""
    from ..suite.cases import CASES

    alone = any(CASES[name].device == "cuda" or CASES[name].model == "ddp" for name in names)
    if alone or shutil.which("taskset") is None or not hasattr(os, "sched_getaffinity"):
        return [None]
    cores = sorted(os.sched_getaffinity(0))[:LANES]
    return list(cores) if len(cores) > 1 else [None]
