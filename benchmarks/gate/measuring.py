"""Measure two versions side by side in fresh processes: time, instructions, exact counts.

Each process loads both versions, every second one head first, and measures every undecided case. Two processes run at a time
if there are two cores, each pinned to its own.
"""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from ..system import machine
from ..system.units import counted
from . import counters
from .messages import (
    BASE,
    BASE_COPY,
    COUNTS,
    HEAD,
    INSTRUCTIONS,
    TIME,
    CaseMessage,
    Counts,
    Environment,
    Failure,
    Instructions,
    Lacking,
    Message,
    NotImportable,
    Task,
    Times,
)  # fmt: skip
from .processes import Broken, Processes, cores_for
from .rule import log_ratio
from .side_by_side import side_by_side
from .versions import Version
from .workload import Workload

SECONDS = 1.0  # of rounds per case and process; fast cases reach the largest number of rounds sooner


@dataclass(frozen=True)
class Measured:
    """The results of one process, and the conditions under which it ran."""

    signal: str
    number: int  # odd: head was loaded first
    first: str  # the side that was loaded first
    core: int | None
    load: float
    stolen_ticks: int
    messages: list[CaseMessage]

    def as_json(self) -> dict[str, Any]:
        """Return the process as `--json` writes it: the figures of a case are keyed by side, beside its name."""
        found = []
        for message in self.messages:
            fields = asdict(message)
            inner = fields.pop("seconds", {}) if isinstance(message, Times) else {}
            inner = fields.pop("counts") if isinstance(message, Instructions) else inner
            found.append(fields | inner)
        process = {key: value for key, value in vars(self).items() if key not in ("signal", "messages")}
        return {"what": self.signal, **process, "found": found}


@dataclass
class Comparison:
    """Two versions of a workload, and all their measurements.

    `folder` is for the files that the processes write; `seed` orders the calls within a round; `deadline` is on the clock of
    time.monotonic.
    """

    workload: Workload
    base: Version
    head: Version
    folder: Path
    seed: int = 0
    deadline: float = float("inf")
    on_start: Callable[[str, int], None] = lambda what, processes: None  # called before `processes` processes start
    on_end: Callable[[], None] = lambda: None  # called when each of them ends
    processes: list[Measured] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)  # case -> why it could not be measured
    lacking: dict[str, dict[str, str]] = field(default_factory=dict)  # case -> side that lacks it -> why
    environment: dict[str, Any] = field(default_factory=dict)
    seconds_per_process: float = 0.0  # in the last draw

    def __post_init__(self) -> None:
        self.runner = Processes(self.folder)

    def draw(self, names: Sequence[str], count: int) -> dict[str, list[float]] | None:
        """Measure the time in `count` fresh processes: a log-ratio per case and process.

        Return None if the processes would end after the deadline, or were ended by it.
        """
        started = time.monotonic()
        if started + count * self.seconds_per_process > self.deadline:
            return None
        first = sum(process.signal == TIME for process in self.processes)
        self.on_start(f"time of {counted(len(names), 'case')}", count)
        jobs = [partial(self.time_process, names, number) for number in range(first, first + count)]
        drawn = side_by_side(jobs, cores_for(self.workload, names), self.on_end, self.runner.stop)
        self.seconds_per_process = (time.monotonic() - started) / count
        ratios: dict[str, list[float]] = {name: [] for name in names}
        for message in (message for messages in drawn for message in messages):
            if isinstance(message, Times):
                ratios[message.case].append(log_ratio(message.seconds[BASE], message.seconds[HEAD]))
        if self.out_of_time() and any(len(ratios[name]) < count for name in self.measurable(names)):
            return None
        return ratios

    def time_process(self, names: Sequence[str], number: int, core: int | None = None) -> list[CaseMessage]:
        """Measure the time of each case in one process, which ends at the deadline."""
        return self.run_process(self.task(TIME, names, number), number, core, until=self.deadline)

    def count_instructions(self, names: Sequence[str], number: int, until: float = float("inf")) -> dict[str, Instructions]:
        """Count instructions of base, head and a copy of base, with the cases divided among one process per core.

        An odd `number` loads head before base. The processes end at `until`, on the clock of time.monotonic; the result lacks
        the cases that are not done by then.
        """
        cores = cores_for(self.workload, names)[: len(names)]
        groups = [names[start :: len(cores)] for start in range(len(cores))]
        self.base_copy()  # made before two processes want it
        self.on_start("instructions", len(groups))
        jobs = [partial(self.instruction_process, group, number, until=until) for group in groups]
        drawn = side_by_side(jobs, cores, self.on_end, self.runner.stop)
        return {message.case: message for messages in drawn for message in messages if isinstance(message, Instructions)}

    def instruction_process(
        self, names: Sequence[str], number: int, core: int | None = None, until: float = float("inf")
    ) -> list[CaseMessage]:
        """Count the instructions of each case in one process, by the processor or by callgrind."""
        prefix, output = counters.valgrind(self.folder) if counters.available() == counters.CALLGRIND else ([], "")
        task = replace(self.task(INSTRUCTIONS, names, number, self.base_copy()), callgrind=output)
        return self.run_process(task, number, core, prefix, until)

    def exact_counts(self, names: Sequence[str]) -> list[Counts]:
        """Return the exact counts of both sides, for each case and for the whole package, that are taken by the deadline."""
        self.on_start("exact counts", 1)
        task = replace(self.task(COUNTS, names, 0), whole_package=True)
        messages = self.run_process(task, 0, until=self.deadline)
        self.on_end()
        return [message for message in messages if isinstance(message, Counts)]

    def task(self, signal: str, names: Sequence[str], number: int, copy: Version | None = None) -> Task:
        """Return the task of a process, which loads head first if `number` is odd, and `copy` of base, if given, last."""
        sides = [[BASE, str(self.base.folder)], [HEAD, str(self.head.folder)]][:: -1 if number % 2 else 1]
        sides += [[BASE_COPY, str(copy.folder)]] if copy else []
        name = self.workload.__name__
        path = str(Path(import_module(name).__file__ or "").resolve().parents[name.count(".")])
        return Task(name, path, signal, list(names), sides, SECONDS, self.seed + number)

    def run_process(
        self, task: Task, number: int, core: int | None = None, prefix: Sequence[str] = (), until: float = float("inf")
    ) -> list[CaseMessage]:
        """Run a task in a process, add its results to `processes` and return them.

        If a case hangs, another process measures the remaining cases.
        """
        ticks, found = machine.stolen_ticks(), list[CaseMessage]()
        names = task.cases
        while True:
            messages = [self.record_finding(message) for message in self.runner.findings(task, core, prefix, until)]
            found += [message for message in messages if isinstance(message, CaseMessage)]
            reported = {message.case for message in found}
            task = replace(task, cases=[name for name in names if name not in reported], whole_package=False)
            last = messages[-1] if messages else None
            if not (task.cases and isinstance(last, Failure) and last.hangs):
                break
        stolen = machine.stolen_ticks() - ticks
        self.processes.append(Measured(task.signal, number, task.sides[0][0], core, os.getloadavg()[0], stolen, found))
        return found

    def record_finding(self, message: Message) -> Message:
        """Store the environment, or a case that cannot be measured; return the message.

        Raises Broken if a version cannot be loaded.
        """
        if isinstance(message, NotImportable):
            version = self.head if message.side == HEAD else self.base
            raise Broken(f"{message.side}, {version}, cannot be imported: {message.error}")
        if isinstance(message, Environment):
            self.environment.update(message.values)
        elif isinstance(message, Failure):
            self.failures[message.case] = f"{message.side}: {message.error}"
        elif isinstance(message, Lacking):
            self.lacking.setdefault(message.case, {})[message.side] = message.error
        return message

    def measurable(self, names: Sequence[str]) -> list[str]:
        """Return the cases that have not failed so far and that neither side lacks."""
        return [name for name in names if name not in self.failures and name not in self.lacking]

    def out_of_time(self) -> bool:
        """Return True if the budget is spent."""
        return time.monotonic() > self.deadline

    def times_of(self, name: str) -> list[Times]:
        """Return the rounds of a case, one `Times` per process."""
        return [message for process in self.processes for message in process.messages
                if isinstance(message, Times) and message.case == name]  # fmt: skip

    def base_copy(self) -> Version:
        """Return a second copy of base, whose difference from base is noise."""
        folder = self.folder / BASE_COPY
        if not folder.exists():
            shutil.copytree(self.base.folder, folder)
        return replace(self.base, folder=folder)

    def notes(self) -> dict[str, Any]:
        """Return the conditions that can explain a figure: environment, machine, load and frequency governor."""
        conditions = {"machine": machine.describe(), "load": os.getloadavg(), "governor": machine.governor()}
        return self.environment | conditions
