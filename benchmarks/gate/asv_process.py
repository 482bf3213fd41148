"""Start, command and end the measuring processes in lock step. Each of them runs asv_worker.py."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from ..system.errors import CannotMeasure
from .environments import Environment
from .guarded import guarded
from .messages import HEAD
from .processes import pump

WORKER = Path(__file__).with_name("asv_worker.py")
COPIED = WORKER, Path(__file__).with_name("asv_suite.py")
STARTING = 120.0  # seconds to start Python and to import the suite
PATIENCE = 0.2  # seconds between two checks whether a silent process still lives

Case = Mapping[str, Any]  # a dictionary that asv_suite.combinations makes


class CaseFailed(Exception):
    """A benchmark raised an exception or, if `lacking`, was skipped. If `fatal`, it forked, hung or killed its process.

    `hung` says which of the three.
    """

    def __init__(self, side: str, error: str, fatal: bool = False, lacking: bool = False, hung: bool = False) -> None:
        super().__init__(f"{side}: {error}")
        self.side, self.error, self.fatal, self.lacking, self.hung = side, error, fatal, lacking, hung


class BudgetSpent(Exception):
    """The time of the budget ended while a process was measuring."""


class Stopped(Exception):
    """The comparison is being stopped: its processes have been killed."""


@dataclass
class Context:
    """The folders, limits and stop signal that all processes of a comparison share."""

    folder: Path  # for temporary files
    runner: Path  # holds copies of COPIED and asv_runner, and nothing else that Python could import
    suite: Path
    timeout: float  # seconds of a benchmark that sets none
    deadline: float  # on the clock of time.monotonic
    stopping: threading.Event = field(default_factory=threading.Event)
    fatal_imports: dict[tuple[str, str], CaseFailed] = field(default_factory=dict)  # (side, module) -> what it ended with
    processor: dict[str, float] = field(default_factory=dict)  # seconds of it that each process had used at its last answer


class Worker:
    """One measuring process of one version, on `core` if that is given; it runs until `stack` is closed.

    `placement` seeds where objects lie in memory; 0 leaves that alone.
    """

    def __init__(
        self, stack: ExitStack, shared: Context, side: str, environment: Environment, core: int | None, placement: int = 0
    ) -> None:
        self.side, self.shared = side, shared
        self.folder = Path(tempfile.mkdtemp(prefix=f"{side}-", dir=shared.folder))
        stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        commands = self.folder / "commands"
        os.mkfifo(commands)
        # Opened for reading too, so that opening does not wait for the process and writing never meets a closed pipe.
        self.commands = os.open(commands, os.O_RDWR)
        stack.callback(os.close, self.commands)
        self.stderr = self.folder / "stderr"
        errors = stack.enter_context(self.stderr.open("wb"))
        pin = [] if core is None else ["taskset", "--cpu-list", str(core)]
        program = [str(environment.python), str(shared.runner / WORKER.name)]
        words = [*pin, *program, str(commands), str(shared.suite), str(placement)]
        self.process = stack.enter_context(guarded(words, self.folder, environment.env, subprocess.PIPE, errors))
        assert self.process.stdout is not None
        self.answers: Queue[bytes] = Queue()
        threading.Thread(target=pump, args=(self.process.stdout, self.answers, b""), daemon=True).start()

    def ask(self, seconds: float, what: str, /, **more: Any) -> dict[str, Any]:
        """Send the command `what` with the arguments `more` and return its answer.

        Raises CaseFailed if the command failed, the process died, or `seconds` passed without an answer; BudgetSpent; Stopped.
        """
        os.write(self.commands, (json.dumps({"do": what, **more}) + "\n").encode())
        answer: dict[str, Any] = json.loads(self.line(seconds))
        # A process that is killed together with its parent is missing in the system's account of our child processes.
        self.shared.processor[self.folder.name] = float(answer.pop("processor"))
        if "forked" in answer:
            raise CaseFailed(self.side, "it forks, and the child process returns from the call", fatal=True)
        if "error" in answer or "skipped" in answer:
            lacking = "skipped" in answer
            raise CaseFailed(self.side, answer["skipped" if lacking else "error"], lacking=lacking)
        return answer

    def line(self, seconds: float) -> bytes:
        """Return the next line that the process writes; for the errors see `ask`."""
        end = time.monotonic() + seconds
        while True:
            line: bytes | None
            try:
                line = self.answers.get(timeout=max(0.0, min(PATIENCE, end - time.monotonic())))
            except Empty:
                line = b"" if self.process.poll() is not None else None
            if self.shared.stopping.is_set():
                raise Stopped
            if line is None and time.monotonic() > self.shared.deadline:
                raise BudgetSpent
            if line == b"":
                raise CaseFailed(self.side, f"its process died ({self.death()})", fatal=True)
            if line is not None:
                return line
            if time.monotonic() > end:
                raise CaseFailed(self.side, f"it hangs: no result after {seconds:g} s", fatal=True, hung=True)

    def death(self) -> str:
        """Return the signal or exit code that ended the process, and its last line on standard error."""
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            code = 0
        how = f"signal {code - 128}" if code > 128 else f"exit code {code}"
        last = self.stderr.read_text(errors="replace").strip().splitlines()[-1:]
        return ": ".join([how, *last])


def discover(shared: Context, head: Environment) -> dict[str, Any]:
    """Return what asv_suite.discover finds in head's environment; a module that cannot be imported is among the `failed`.

    Raises CannotMeasure if the process fails otherwise or the budget is spent.
    """
    failed: dict[str, str] = {}  # module -> why it cannot be imported
    fatal: list[str] = []  # the modules that hang or kill the process
    while True:
        with ExitStack() as stack:
            worker = Worker(stack, shared, HEAD, head, None)
            name = ""
            try:
                for name in worker.ask(STARTING, "modules", without=fatal)["modules"]:
                    try:
                        worker.ask(STARTING, "import_module", name=name)
                    except CaseFailed as error:
                        failed[name] = f"it cannot be imported: {error.error}"
                        if error.fatal:
                            raise
                name = ""
                found = worker.ask(STARTING, "discover")
            except BudgetSpent:
                at = f"; importing {name} took the last of it" if name else ""
                raise CannotMeasure(f"the budget was spent before the benchmarks were found{at}; give more --budget") from None
            except CaseFailed as error:
                if not name:
                    raise CannotMeasure(f"the benchmarks of {shared.suite.name} cannot be found, {error}") from None
                fatal.append(name)
                continue
        found["failed"].update({name.partition(".")[2] or name: why for name, why in failed.items()})
        return found


def copy_runner(folder: Path) -> Path:
    """Copy the worker's files, asv_runner and, if installed, pympler to a new folder, from which both versions import them.

    Return the folder. Raises CannotMeasure if asv_runner is not installed.
    """
    folder.mkdir()
    for file in COPIED:
        shutil.copy(file, folder)
    for name in ("asv_runner", "pympler"):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin:
            shutil.copytree(Path(spec.origin).parent, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif name == "asv_runner":
            raise CannotMeasure(f"asv_runner runs the benchmarks, but {sys.executable} has none; pip install asv_runner")
    return folder
