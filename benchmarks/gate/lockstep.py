"""Two processes in lock step, one per version: each waits for the command to run a round.

Both are pinned to the same core, so that they see the same neighbours, the same clock and the same caches. They take turns, the
order alternates from round to round, and only one of them runs at a time. The pair is the independent unit of rule.py: what
stays the same for all rounds of a pair, such as the placement of its memory, differs from pair to pair.
"""

import math
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .asv_process import STARTING, Case, CaseFailed, Context, Worker
from .environments import Environment
from .messages import BASE, BASE_COPY
from .processes import Broken

T = TypeVar("T")

ROUNDS, LEAST_ROUNDS = 41, 3  # of a benchmark in a pair
SECONDS = 1.0  # of rounds, after which no round begins unless there are fewer than LEAST_ROUNDS
LONGEST_ROUND = 0.3  # most seconds of a round with its set-ups, which may take longer than the calls
CALIBRATING = 5.0  # seconds that calibrating may take beyond a benchmark's own timeout


@dataclass(frozen=True)
class Plan:
    """The calls of a round, the same on both sides and in every pair, and their duration on the slower side."""

    number: int  # calls of a sample
    repeats: int  # samples of a round
    seconds: float  # of a round
    timed: float  # seconds of a round that the timer counts
    preparing: float  # seconds to prepare and calibrate both sides

    @classmethod
    def of(cls, calibrated: Sequence[Mapping[str, float]], preparing: float) -> "Plan":
        """Return the plan for what asv_worker.Process.calibrate gave for each side; nothing for a figure.

        The faster side needs more calls to fill a round, and both sides make as many, if the slower one's do not last too long.
        """
        if not calibrated:
            return cls(1, 1, 0.0, 0.0, preparing)
        number = int(min(one["number"] for one in calibrated))  # samples stay short on the slower side
        samples = [one["number"] * one["repeats"] / number for one in calibrated]  # of this number of calls
        pairs = list(zip(calibrated, samples, strict=True))
        slowest = max(1e-9, *(one["seconds"] / count for one, count in pairs))
        repeats = max(1, min(math.ceil(max(samples)), int(LONGEST_ROUND / slowest)))
        seconds, timed = (max(one[key] / count * repeats for one, count in pairs) for key in ("seconds", "timed"))
        return cls(number, repeats, seconds, timed, preparing)


class Pair:
    """Two processes on one core (None: any); `sides` maps the side of each to its environment, base first.

    For `placement` see Worker; both processes have the same.
    """

    def __init__(
        self, shared: Context, sides: Mapping[str, Environment], core: int | None, caches: "Caches", placement: int = 0
    ) -> None:
        self.shared, self.sides, self.core, self.caches, self.placement = shared, sides, core, caches, placement
        self.stack = ExitStack()
        self.workers: dict[str, Worker] = {}
        self.prepared: set[str] = set()  # names of the benchmarks that these processes have run
        self.environment: dict[str, Any] = {}  # side -> what asv_worker.Process.hello tells

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the processes that are not running. Raises Broken if one does not answer."""
        for name, environment in self.sides.items():
            if name not in self.workers:
                worker = self.workers[name] = Worker(self.stack, self.shared, name, environment, self.core, self.placement)
                try:
                    self.environment[name] = worker.ask(STARTING, "hello")
                except CaseFailed as failed:
                    raise Broken(f"a measuring process does not start, {failed}") from None

    def stop(self) -> None:
        """Kill both processes and what they have started."""
        self.workers.clear()
        self.prepared.clear()
        self.stack.close()

    def prepare(self, case: Case, side: str, trial: bool = False) -> None:
        """Set up a benchmark on one side; as a `trial`, also call it once."""
        self.start()
        self.import_module(case, side)
        self.prepared.add(case["name"])
        cache = self.caches.folder(case, side, self)
        folder = str(self.workers[side].folder)
        self.ask(side, case, "prepare", case=dict(case), cache=cache, folder=folder, trial=trial)

    def import_module(self, case: Case, side: str) -> None:
        """Import the module of a benchmark on one side; where that hung or killed a process, no other tries it again."""
        where, others = (side, case["module"]), bool(self.prepared)
        if where in self.shared.fatal_imports:
            raise self.shared.fatal_imports[where]
        try:
            self.workers[side].ask(STARTING, "importing", case=dict(case))
        except CaseFailed as failed:
            if not failed.fatal:
                raise
            self.stop()
            told = CaseFailed(side, f"its module cannot be imported: {failed.error}", fatal=True, hung=failed.hung)
            if failed.hung or not others:  # else what ran before may have killed the process
                self.shared.fatal_imports[where] = told
            raise told from None

    def prepare_all(self, case: Case) -> None:
        """Set up a benchmark on both sides."""
        for side in self.sides:
            self.prepare(case, side)

    def ask(self, side: str, case: Case, what: str, extra: float = 0.0, /, **more: Any) -> dict[str, Any]:
        """Send a command about a case to one side and return its answer, within the case's timeout and `extra` seconds.

        Raises CaseFailed; if that is fatal, both processes have been killed.
        """
        try:
            return self.workers[side].ask(extra + float(case["timeout"] or self.shared.timeout), what, **more)
        except CaseFailed as failed:
            if failed.fatal:
                self.stop()
            raise

    def again_alone(self, case: Case, measure: Callable[[], T]) -> T:
        """Return what `measure` returns; if it fails where other benchmarks ran before, call it again in fresh processes.

        Those may have left a signal, a limit or a replaced function behind.
        """
        others = bool(self.prepared - {case["name"]})
        try:
            return measure()
        except CaseFailed as failed:
            if not others or failed.lacking or failed.hung:
                raise
        self.stop()
        return measure()

    def trial(self, case: Case) -> "Plan | dict[str, CaseFailed]":
        """Run a benchmark for the first time; return the plan of its rounds or, by side, the errors."""
        others = bool(self.prepared - {case["name"]})
        outcome = self.try_once(case)
        if others and isinstance(outcome, dict) and not any(failed.lacking or failed.hung for failed in outcome.values()):
            self.stop()  # as in `again_alone`
            outcome = self.try_once(case)
        return outcome

    def try_once(self, case: Case) -> "Plan | dict[str, CaseFailed]":
        """Compute `trial` in the processes as they are."""
        failed: dict[str, CaseFailed] = {}
        found: list[dict[str, float]] = []
        started = time.monotonic()
        for side in self.sides:
            try:
                self.prepare(case, side, trial=True)
                if case["type"] == "time":
                    found.append(self.ask(side, case, "calibrate", CALIBRATING, longest=LONGEST_ROUND))
                else:
                    self.ask(side, case, "figure")
                self.ask(side, case, "release")
            except CaseFailed as error:
                failed[side] = error
        if failed:
            return failed
        return Plan.of(found, time.monotonic() - started)

    def times(self, case: Case, plan: Plan, number: int) -> dict[str, list[float]]:
        """Return the seconds per call of each side, one figure per round.

        The side that is first alternates from round to round; `number`, that of the pair, decides the first round.
        """
        return self.again_alone(case, lambda: self.rounds(case, plan, number))

    def rounds(self, case: Case, plan: Plan, number: int) -> dict[str, list[float]]:
        """Compute `times` in the processes as they are."""
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
        """Return the figure of each side; for a peakmem_ benchmark from fresh processes, whose memory it is."""
        if case["type"] == "peakmemory":
            self.stop()
        return self.again_alone(case, lambda: self.figures_once(case))

    def figures_once(self, case: Case) -> dict[str, float]:
        """Compute `figures` in the processes as they are."""
        self.prepare_all(case)
        found = {side: float(self.ask(side, case, "figure")["figure"]) for side in self.sides}
        self.release(case)
        return found

    def release(self, case: Case) -> None:
        """Tear down the benchmark on both sides."""
        for side in self.sides:
            self.ask(side, case, "release")


class Caches:
    """The folders in which each setup_cache ran: once per version, as asv does."""

    def __init__(self, folder: Path) -> None:
        self.parent = folder
        self.done: dict[tuple[str, str], str | CaseFailed] = {}
        self.lock = threading.Lock()

    def folder(self, case: Case, side: str, pair: Pair) -> str | None:
        """Return the folder of a case's cache on a side, made if needed; None if the case has no setup_cache.

        Raises CaseFailed if the setup_cache failed.
        """
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
        """Run the setup_cache in a process of its own; return its folder, or its error."""
        folder = tempfile.mkdtemp(prefix="cache-", dir=self.parent)
        with ExitStack() as stack:
            worker = Worker(stack, pair.shared, side, pair.sides[side], pair.core)
            seconds = float(case["cache_timeout"] or case["timeout"] or pair.shared.timeout)
            try:
                worker.ask(STARTING, "importing", case=dict(case))
                worker.ask(seconds, "cache", case=dict(case), folder=folder)
            except CaseFailed as failed:
                return CaseFailed(side, f"setup_cache: {failed.error}", lacking=failed.lacking)
        return folder
