"""Compare two versions of a foreign project: pairs of processes in lock step, side by side on several cores.

For every two pairs of base and head, there is one pair of base and base, in which any change is noise.
"""

import math
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..system import machine
from ..system.units import counted
from .asv_process import BudgetSpent, Case, CaseFailed, Context
from .environments import Environment
from .estimate import Duration
from .guarded import kill_all
from .lockstep import LEAST_ROUNDS, ROUNDS, SECONDS, Caches, Pair, Plan
from .messages import BASE, BASE_COPY, BOTH, HEAD, Times
from .rule import LOOKS, log_ratio
from .side_by_side import T, side_by_side

PER_AGAINST_ITSELF = 2  # pairs of base and head for each pair of base and base, in a draw
FIGURE_PAIRS = 3  # of a track_, mem_ or peakmem_ benchmark
START = 1.0  # seconds to start the processes of a pair
SPARE = 1.2  # a draw begins only if this many times its expected duration is left


@dataclass(frozen=True)
class MeasuredPair:
    """The times that one pair measured, and the conditions under which it ran."""

    number: int
    against_itself: bool
    core: int | None
    load: float
    stolen_ticks: int
    megahertz: float | None
    times: list[Times] = field(default_factory=list)


@dataclass
class PairComparison:
    """Two versions of a project, and all their measurements."""

    shared: Context
    base: Environment
    head: Environment
    cases: Mapping[str, Case]
    cores: Sequence[int | None]
    seed: int = 0
    on_start: Callable[[str, int], None] = lambda what, processes: None  # called before `processes` pairs start
    on_end: Callable[[], None] = lambda: None  # called when each of them ends
    failures: dict[str, str] = field(default_factory=dict)  # case -> why it could not be measured
    lacking: dict[str, dict[str, str]] = field(default_factory=dict)  # case -> side that lacks it -> why
    plans: dict[str, Plan] = field(default_factory=dict)
    pairs: list[MeasuredPair] = field(default_factory=list)
    figures: dict[str, list[dict[str, float]]] = field(default_factory=dict)  # case -> figures of both sides, one per pair
    environment: dict[str, Any] = field(default_factory=dict)
    slowness: float = 1.0  # duration of the last draw over its planned duration

    def __post_init__(self) -> None:
        self.caches = Caches(self.shared.folder)
        self.lock = threading.Lock()

    def try_all(self) -> None:
        """Run each benchmark once on each side; store a plan of its rounds, or why it cannot be measured."""
        groups = [list(self.cases)[start :: len(self.cores)] for start in range(len(self.cores))]
        self.on_start(f"{counted(len(self.cases), 'benchmark')}, a first time", sum(map(bool, groups)))
        self.run([partial(self.try_group, group) for group in groups if group])

    def try_group(self, names: Sequence[str], core: int | None) -> None:
        """Try some benchmarks in one pair, until the budget is spent."""
        with self.pair(False, core) as pair:
            for name in names:
                if self.out_of_time():
                    return
                try:
                    outcome = pair.trial(self.cases[name])
                except BudgetSpent:
                    return
                if isinstance(outcome, Plan):
                    self.plans[name] = outcome
                else:
                    self.note_trial(name, outcome)
                self.environment.update(pair.environment)

    def note_trial(self, name: str, failed: Mapping[str, CaseFailed]) -> None:
        """Store why a benchmark cannot be measured: as lacking if it is new in head, or skipped, else as a failure.

        It counts as new in head if base alone failed, and as skipped if every side that failed skips it.
        """
        errors = {side: error.error for side, error in failed.items()}
        if all(error.lacking for error in failed.values()) or set(failed) == {BASE}:
            self.lacking[name] = errors
        else:
            alike = len(errors) > 1 and len(set(errors.values())) == 1
            told = {BOTH: errors[HEAD]} if alike else errors
            self.failures[name] = "; ".join(f"{side}: {error}" for side, error in told.items())

    def draw(self, names: Sequence[str], count: int) -> dict[str, list[float]] | None:
        """Measure the time in `count` fresh pairs, and base against base in half as many: a log-ratio per case and pair.

        The last benchmarks are left out if there is no time for them. Return None if there is time for none, or if the pairs
        ended after the deadline.
        """
        names = [name for name in names if name in self.plans]
        extra = math.ceil(count / PER_AGAINST_ITSELF) if names else 0
        kinds = [False] * count + [True] * extra
        random.Random(self.seed + len(self.pairs)).shuffle(kinds)
        started = time.monotonic()
        while SPARE * self.slowness * (planned := self.seconds(names, len(kinds))) > self.shared.deadline - started:
            if len(names) <= 1:
                return None
            names.pop()
        first = len(self.pairs)
        self.on_start(f"time of {counted(len(self.measurable(names)), 'benchmark')}", len(kinds))
        jobs = [partial(self.time_pair, names, first + index, kind) for index, kind in enumerate(kinds)]
        try:
            drawn = self.run(jobs)
        except BudgetSpent:
            return None
        self.slowness = (time.monotonic() - started) / planned
        ratios: dict[str, list[float]] = {name: [] for name in names}
        for times in (times for pair in drawn if not pair.against_itself for times in pair.times):
            ratios[times.case].append(log_ratio(times.seconds[BASE], times.seconds[HEAD]))
        return ratios

    def time_pair(self, names: Sequence[str], number: int, against_itself: bool, core: int | None) -> MeasuredPair:
        """Measure the time of benchmarks in one pair, in a random order of its own. Raises BudgetSpent."""
        order = random.Random(self.seed + number).sample(list(names), len(names))
        ticks, found = machine.stolen_ticks(), list[Times]()
        with self.pair(against_itself, core, 1 + self.seed + number) as pair:
            for name in order:
                if self.out_of_time():
                    raise BudgetSpent
                if name in self.failures or name in self.lacking:  # found out by a pair beside this one
                    continue
                try:
                    found.append(Times(name, pair.times(self.cases[name], self.plans[name], number)))
                except CaseFailed as failed:
                    self.failures[name] = str(failed).replace(BASE_COPY, BASE, 1)
        stolen = machine.stolen_ticks() - ticks
        measured = MeasuredPair(number, against_itself, core, os.getloadavg()[0], stolen, megahertz(core), found)
        with self.lock:
            self.pairs.append(measured)
        return measured

    def take_figures(self, names: Sequence[str]) -> None:
        """Measure the figures of track_, mem_ and peakmem_ benchmarks: 3 pairs of base and head, 2 of base and base."""
        kinds = [False] * FIGURE_PAIRS + [True] * (FIGURE_PAIRS - 1) if names else []
        if names:
            self.on_start(f"figures of {counted(len(names), 'benchmark')}", len(kinds))
        self.run([partial(self.figure_pair, names, kind) for kind in kinds])

    def figure_pair(self, names: Sequence[str], against_itself: bool, core: int | None) -> None:
        """Measure and store the figures of benchmarks in one pair, until the budget is spent."""
        with self.pair(against_itself, core) as pair:
            for name in names:
                if self.out_of_time():
                    return
                try:
                    found = pair.figures(self.cases[name])
                except BudgetSpent:
                    return
                except CaseFailed as failed:
                    if failed.lacking:
                        self.lacking.setdefault(name, {})[failed.side.replace(BASE_COPY, BASE)] = failed.error
                    else:
                        self.failures[name] = str(failed).replace(BASE_COPY, BASE, 1)
                else:
                    with self.lock:
                        self.figures.setdefault(name, []).append(found)

    def pair(self, against_itself: bool, core: int | None, placement: int = 0) -> Pair:
        """Return a pair of base and head, or of base and base; for `placement` see Worker."""
        sides = {BASE: self.base, BASE_COPY: self.base} if against_itself else {BASE: self.base, HEAD: self.head}
        return Pair(self.shared, sides, core, self.caches, placement)

    def run(self, jobs: Sequence[Callable[[int | None], T]]) -> list[T]:
        """Run jobs, each on a core of its own; see side_by_side.py. After BudgetSpent, the running ones end by themselves."""
        return side_by_side(jobs, self.cores, self.on_end, self.stop, patient=BudgetSpent)

    def stop(self) -> None:
        """Kill all processes now."""
        self.shared.stopping.set()
        kill_all()

    def seconds(self, names: Sequence[str], pairs: int) -> float:
        """Return the planned seconds of `pairs` pairs that each measure the benchmarks `names`."""
        per_pair = START + sum(measuring(self.plans[name]) for name in self.measurable(names))
        return math.ceil(pairs / len(self.cores)) * per_pair

    def duration(self, names: Sequence[str], figures: Sequence[str]) -> Duration:
        """Return the planned duration of a comparison; `names` are benchmarks of time, `figures` all others."""
        share = 1 + 1 / PER_AGAINST_ITSELF
        others = self.seconds(figures, 2 * FIGURE_PAIRS - 1) if figures else 0.0
        times = [self.seconds(names, math.ceil(share * count)) if names else 0.0 for count in (LOOKS[0], 2 * LOOKS[-1])]
        return Duration(times[0] + others, times[1] + others)

    def measurable(self, names: Sequence[str]) -> list[str]:
        """Return the benchmarks with a plan that have not failed so far and that neither side lacks."""
        return [name for name in names if name in self.plans and name not in self.failures and name not in self.lacking]

    def out_of_time(self) -> bool:
        """Return True if the budget is spent."""
        return time.monotonic() > self.shared.deadline

    def times_of(self, name: str) -> list[Times]:
        """Return the rounds of a benchmark, one `Times` per pair of base and head."""
        return [times for pair in self.pairs if not pair.against_itself for times in pair.times if times.case == name]

    def against_itself(self) -> dict[str, list[float]]:
        """Return, by benchmark, the log-ratio of each pair of base and base."""
        logs: dict[str, list[float]] = {}
        for times in (times for pair in self.pairs if pair.against_itself for times in pair.times):
            logs.setdefault(times.case, []).append(log_ratio(times.seconds[BASE], times.seconds[BASE_COPY]))
        return logs

    def details(self) -> dict[str, Any]:
        """Return all measurements, with the environments and the machine, as `--json` writes them."""
        conditions = {"machine": machine.describe(), "load": os.getloadavg(), "governor": machine.governor()}
        pairs = [asdict(pair) for pair in sorted(self.pairs, key=lambda pair: pair.number)]
        plans = {name: asdict(plan) for name, plan in self.plans.items()}
        return {
            "environment": {**self.environment, **conditions},
            "seed": self.seed,
            "plans": plans,
            "pairs": pairs,
            "figures": self.figures,
        }


def measuring(plan: Plan) -> float:
    """Return the planned seconds of a benchmark in a pair: setting up, and its rounds."""
    if plan.seconds == 0.0:
        return plan.preparing
    turn = 2 * plan.seconds
    return plan.preparing / 2 + turn + min(ROUNDS * turn, max(LEAST_ROUNDS * turn, SECONDS))


def megahertz(core: int | None) -> float | None:
    """Return the current clock of a core (None: the first) in MHz; None if the system does not tell."""
    file = Path(f"/sys/devices/system/cpu/cpu{core or 0}/cpufreq/scaling_cur_freq")
    try:
        return int(file.read_text()) / 1000
    except (OSError, ValueError):
        return None
