"""Two processes in lock step, one per version: each is told through a pipe when to run a round, and waits otherwise.

Both are pinned to the same core, so that they see the same neighbours, the same clock and the same caches. They take turns, the
order alternates from round to round, and only one of them runs at a time. The pair is the independent unit of rule.py: what
stays the same for all rounds of a pair, such as the placement of its memory, differs from pair to pair.
"""

import contextlib
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
from typing import IO, Any

from ..system.errors import CannotMeasure
from .environments import Environment
from .guarded import guarded
from .messages import BASE, BASE_COPY, HEAD
from .processes import Broken

WORKER = Path(__file__).with_name("asv_worker.py")
STARTING = 120.0  # seconds to start Python and to import the suite
ROUNDS, LEAST_ROUNDS = 41, 3  # of a benchmark in a pair
SECONDS = 1.0  # of rounds, after which there are no more than LEAST_ROUNDS
CALIBRATING = 5.0  # seconds that settling the rounds may take beside a benchmark's own timeout
PATIENCE = 0.2  # seconds between two looks whether a silent process still lives

Case = Mapping[str, Any]  # as asv_worker.combinations describes it


class CaseFailed(Exception):
    """A benchmark raised, or did what none must; the process can go on unless `fatal`."""

    def __init__(self, side: str, error: str, fatal: bool = False, lacking: bool = False) -> None:
        super().__init__(f"{side}: {error}")
        self.side, self.error, self.fatal, self.lacking = side, error, fatal, lacking


class BudgetSpent(Exception):
    """The budget ended while a process was at work."""


class Stopped(Exception):
    """The comparison is being stopped: its processes have been killed."""


@dataclass(frozen=True)
class Plan:
    """The calls of a round, the same on both sides and in every pair, and the seconds that a round takes."""

    number: int
    repeats: int
    seconds: float
    timed: float  # seconds of them that count
    preparing: float  # seconds, for both sides


@dataclass
class Surroundings:
    """What all processes of a comparison share."""

    folder: Path
    runner: Path  # holds copies of asv_worker.py and asv_runner, and nothing else that Python could import
    suite: Path
    timeout: float  # seconds of a benchmark that sets none
    deadline: float  # on the clock of time.monotonic
    stopping: threading.Event = field(default_factory=threading.Event)


class Worker:
    """One measuring process of one version."""

    def __init__(self, stack: ExitStack, shared: Surroundings, side: str, environment: Environment, core: int | None) -> None:
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
        words = [*pin, str(environment.python), str(shared.runner / WORKER.name), str(commands), str(shared.suite)]
        self.process = stack.enter_context(guarded(words, self.folder, environment.env, subprocess.PIPE, errors))
        assert self.process.stdout is not None
        self.answers: Queue[bytes] = Queue()
        threading.Thread(target=pump, args=(self.process.stdout, self.answers), daemon=True).start()

    def ask(self, seconds: float, what: str, /, **more: Any) -> dict[str, Any]:
        """Send a command and return its answer.

        CaseFailed says why there is none: an error, no answer after `seconds`, or a process that died.
        """
        os.write(self.commands, (json.dumps({"do": what, **more}) + "\n").encode())
        answer: dict[str, Any] = json.loads(self.line(seconds))
        if "forked" in answer:
            raise CaseFailed(self.side, "it forks, and the child process comes back from the call", fatal=True)
        if "error" in answer or "skipped" in answer:
            lacking = "skipped" in answer
            raise CaseFailed(self.side, answer["skipped" if lacking else "error"], lacking=lacking)
        return answer

    def line(self, seconds: float) -> bytes:
        """Return the next line of the process."""
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
                raise CaseFailed(self.side, f"it hangs: no result after {seconds:g} s, its timeout", fatal=True)

    def death(self) -> str:
        """Return how the process ended, and its last line on standard error."""
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            code = 0
        how = f"signal {code - 128}" if code > 128 else f"exit code {code}"
        last = self.stderr.read_text(errors="replace").strip().splitlines()[-1:]
        return ": ".join([how, *last])


class Pair:
    """Two processes on one core; `sides` maps the name of each to its version, the first being base."""

    def __init__(self, shared: Surroundings, sides: Mapping[str, Environment], core: int | None, caches: "Caches") -> None:
        self.shared, self.sides, self.core, self.caches = shared, sides, core, caches
        self.stack = ExitStack()
        self.workers: dict[str, Worker] = {}
        self.environment: dict[str, Any] = {}

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start both processes, unless they run."""
        for name, environment in self.sides.items():
            if name not in self.workers:
                worker = self.workers[name] = Worker(self.stack, self.shared, name, environment, self.core)
                try:
                    self.environment[name] = worker.ask(STARTING, "hello")
                except CaseFailed as failed:
                    raise Broken(f"a measuring process does not start, {failed}") from None

    def stop(self) -> None:
        """Kill both processes and what they have started."""
        self.workers.clear()
        self.stack.close()

    def prepare(self, case: Case, side: str, trial: bool = False) -> None:
        """Set a benchmark up on one side."""
        self.start()
        cache = self.caches.folder(case, side, self)
        self.ask(side, case, "importing", STARTING, case=dict(case))
        folder = str(self.workers[side].folder)
        self.ask(side, case, "prepare", case=dict(case), cache=cache, folder=folder, trial=trial)

    def prepare_all(self, case: Case) -> None:
        """Set a benchmark up on both sides."""
        for side in self.sides:
            self.prepare(case, side)

    def ask(self, side: str, case: Case, what: str, extra: float = 0.0, /, **more: Any) -> dict[str, Any]:
        """Send a command about a case to one side; after a fatal error, the pair has no processes.

        The case has the seconds of its timeout, and `extra` ones.
        """
        try:
            return self.workers[side].ask(extra + float(case["timeout"] or self.shared.timeout), what, **more)
        except CaseFailed as failed:
            if failed.fatal:
                self.stop()
            raise

    def trial(self, case: Case) -> "Plan | dict[str, CaseFailed]":
        """Prepare a benchmark for the first time, and settle its rounds; or return what failed on which side.

        The faster side needs more calls to fill a round, and both sides then make as many.
        """
        failed: dict[str, CaseFailed] = {}
        found = []
        started = time.monotonic()
        for side in self.sides:
            try:
                self.prepare(case, side, trial=True)
                if case["type"] == "time":
                    found.append(self.ask(side, case, "calibrate", CALIBRATING))
                self.ask(side, case, "release")
            except CaseFailed as error:
                failed[side] = error
        if failed:
            return failed
        if not found:
            return Plan(1, 1, 0.0, 0.0, time.monotonic() - started)
        number, repeats = (max(one[key] for one in found) for key in ("number", "repeats"))
        scales = [number * repeats / (one["number"] * one["repeats"]) for one in found]
        seconds, timed = (
            max(one[key] * scale for one, scale in zip(found, scales, strict=True)) for key in ("seconds", "timed")
        )
        return Plan(number, repeats, seconds, timed, time.monotonic() - started)

    def times(self, case: Case, plan: Plan, number: int) -> dict[str, list[float]]:
        """Return seconds per call and side, a figure per round; pair and round decide which side is first."""
        self.prepare_all(case)
        seconds: dict[str, list[float]] = {side: [] for side in self.sides}
        end = None
        for turn in range(ROUNDS + 1):
            for side in list(self.sides)[:: 1 if (turn + number) % 2 else -1]:
                took = self.ask(side, case, "round", number=plan.number, repeats=plan.repeats)["seconds"]
                if turn:  # the first round warms up
                    seconds[side].append(float(f"{took:.5g}"))
            end = end or time.monotonic() + SECONDS
            if turn >= LEAST_ROUNDS and time.monotonic() > end:
                break
        self.release(case)
        return seconds

    def figures(self, case: Case) -> dict[str, float]:
        """Return the figure of each side, in fresh processes where it is the memory of the whole process."""
        if case["type"] == "peakmemory":
            self.stop()
        self.prepare_all(case)
        found = {side: float(self.ask(side, case, "figure")["figure"]) for side in self.sides}
        self.release(case)
        return found

    def release(self, case: Case) -> None:
        """Tear the benchmark down on both sides."""
        for side in self.sides:
            self.ask(side, case, "release")


class Caches:
    """Where the setup_cache of a benchmark ran, once for each version, as asv does."""

    def __init__(self, folder: Path) -> None:
        self.parent = folder
        self.done: dict[tuple[str, str], str | CaseFailed] = {}
        self.lock = threading.Lock()

    def folder(self, case: Case, side: str, pair: Pair) -> str | None:
        """Return the folder of a case's cache on a side, None where the case has none; CaseFailed if making it failed."""
        if case["cache"] is None:
            return None
        version = BASE if side == BASE_COPY else side
        with self.lock:
            key = str(case["cache"]), version
            if key not in self.done:
                self.done[key] = self.make(case, side, pair)
            made = self.done[key]
        if isinstance(made, CaseFailed):
            raise CaseFailed(side, made.error, lacking=made.lacking)
        return made

    def make(self, case: Case, side: str, pair: Pair) -> str | CaseFailed:
        """Run the setup_cache in a process of its own."""
        folder = tempfile.mkdtemp(prefix="cache-", dir=self.parent)
        with ExitStack() as stack:
            worker = Worker(stack, pair.shared, side, pair.sides[side], pair.core)
            seconds = STARTING + float(case["cache_timeout"] or case["timeout"] or pair.shared.timeout)
            try:
                worker.ask(seconds, "cache", case=dict(case), folder=folder)
            except CaseFailed as failed:
                return CaseFailed(side, f"setup_cache: {failed.error}", lacking=failed.lacking)
        return folder


def discover(shared: Surroundings, head: Environment) -> dict[str, Any]:
    """Return the benchmarks of the suite in head's environment; CannotMeasure if there is no telling."""
    with ExitStack() as stack:
        worker = Worker(stack, shared, HEAD, head, None)
        try:
            return worker.ask(STARTING, "discover")
        except BudgetSpent:
            raise CannotMeasure("the budget was spent before the benchmarks were found; give more --budget") from None
        except CaseFailed as failed:
            raise CannotMeasure(f"the benchmarks of {shared.suite.name} cannot be found, {failed}") from None


def copy_runner(folder: Path) -> Path:
    """Copy the worker and asv_runner, and pympler where it is installed, to a folder from which both versions import them."""
    folder.mkdir()
    shutil.copy(WORKER, folder)
    for name in ("asv_runner", "pympler"):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin:
            shutil.copytree(Path(spec.origin).parent, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif name == "asv_runner":
            raise CannotMeasure(f"asv_runner runs the benchmarks, but {sys.executable} has none; pip install asv_runner")
    return folder


def pump(stream: IO[bytes], lines: "Queue[bytes]") -> None:
    """Put each line of a stream into a queue, and an empty one at the end."""
    with contextlib.suppress(ValueError):  # closed, since the process was ended
        for line in stream:
            lines.put(line)
    lines.put(b"")
