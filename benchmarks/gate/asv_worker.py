"""Run benchmarks of an asv suite in one process of a pair, a round at a time, on the gate's commands.

`asv_worker.py COMMANDS SUITE PLACEMENT` runs in the environment of one version and under any Python from 3.8. So it is started
as a file, and imports the standard library and asv_suite.py alone, with asv_runner, both from the folder of this file: the same
on both sides. COMMANDS is a named pipe from which it reads a line of JSON per command. The answers go to standard output. Text
that benchmarks print goes to a file instead, so that it cannot be taken for an answer. PLACEMENT seeds where objects lie in
memory; 0 leaves that alone.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import pickle
import random
import select
import shutil
import statistics
import sys
import tempfile
from time import monotonic, perf_counter, process_time, sleep  # a benchmark may replace those of the module
from typing import Any

import asv_suite  # type: ignore[import-not-found]
from asv_suite import brief

ROUND = 0.005  # least seconds of a round
SAMPLE = 0.0005  # seconds of a sample, of which a round has several: shorter than a time slice of the scheduler
CALIBRATION = 1.0  # seconds after which calibration stops searching and takes the last number of calls
POOL = 16384  # bytes of a pool, from which Python takes objects of one size
SMALL = 512  # bytes of the largest object that lies in a pool
PAGE = 4096  # bytes


def main(commands: str, suite: str, placement: str = "0") -> None:
    """Answer commands until the pipe is closed."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 1)
    process = Process(suite, answers, random.Random(int(placement)) if int(placement) else None)
    with open(commands) as lines:
        for line in lines:
            process.answer(json.loads(line))


class Process:
    """Carry out the gate's commands, a method for each, on a suite and on the benchmark that is prepared."""

    def __init__(self, suite: str, answers: Any, chance: random.Random | None = None) -> None:
        self.suite, self.answers, self.pid, self.chance = suite, answers, os.getpid(), chance
        self.printed = os.dup(1)  # where benchmarks print; one of them may close its standard output
        self.between_objects: list[Any] = []  # what move_objects keeps
        self.move_objects()  # those of the modules
        self.benchmark: Any = None
        self.name = ""
        self.forks = 0  # during the current command
        self.returned, self.returning = os.pipe()  # a forked child in which the call returns writes to it
        os.register_at_fork(after_in_parent=self.count_fork)

    def count_fork(self) -> None:
        """Note that this process forked."""
        self.forks += 1

    def move_objects(self) -> None:
        """Use and free random amounts of memory of every size, so that new objects lie elsewhere.

        A call may be some percent faster or slower where its objects lie, which depends on all that was allocated before it, so
        that an import more moves it. If every pair has its own placement, that is not taken for the versions' difference.
        """
        if self.chance is not None:
            below, header = self.chance.randrange, sys.getsizeof(b"")
            sizes = [size for size in range(16, SMALL + 1, 16) for _ in range(below(2 * POOL // size))]
            made = [object() if size == 16 else 1.0 * size if size == 32 else bytes(size - header) for size in sizes]
            made += [bytes(below(8 * PAGE)) for _ in range(16)]
            self.chance.shuffle(made)
            self.between_objects = made[::2]
            del made  # the places of the others are the next to be used

    def answer(self, command: dict[str, Any]) -> None:
        """Carry out one command and write the answer: the method's result, `skipped`, `error` or `forked`."""
        what = command.pop("do")
        try:
            answer = getattr(self, what)(**command)
        except NotImplementedError as error:  # asv's word for "skip"
            answer = {"skipped": str(error).strip().partition("\n")[0] or "the suite skips it"}
        except BaseException as error:  # sys.exit() of a benchmark must not end the others
            answer = {"error": brief(error)}
        if os.getpid() != self.pid:  # the benchmark forked, and this is the child, in which the call returned
            os.write(self.returning, b"1")
            os._exit(0)
        if "error" in answer or "skipped" in answer:
            with contextlib.suppress(BaseException):  # it has failed already, and the next must not meet its teardown
                self.release()
        self.reply({"forked": self.name} if self.child_returned() else answer)
        self.forks = 0

    def child_returned(self) -> bool:
        """Return True if the call returned in a child too. After a fork, wait until no child is left, half a second at most."""
        end = monotonic() + (0.5 if self.forks else 0.0)
        while True:
            alone = monotonic() >= end or not children()
            if select.select([self.returned], [], [], 0)[0]:
                os.read(self.returned, 1)
                return True
            if alone:
                return False
            sleep(0.001)

    def reply(self, answer: dict[str, Any]) -> None:
        """Write an answer, and the seconds of processor time so far."""
        line = json.dumps(dict(answer, processor=round(process_time(), 3))) + "\n"
        os.write(self.answers.fileno(), line.encode())

    def hello(self) -> dict[str, Any]:
        """Return the version of Python and of each installed package."""
        from importlib.metadata import distributions

        installed = {str(one.metadata["Name"]): one.version for one in distributions() if one.metadata["Name"]}
        return {"python": sys.version.split()[0], "installed": installed}

    def modules(self, without: list[str]) -> dict[str, Any]:
        """Return the names of the suite's modules but those in `without`, which are never imported."""
        return {"modules": asv_suite.modules(self.suite, without)}

    def import_module(self, name: str) -> dict[str, Any]:
        """Import a module of the suite."""
        asv_suite.import_module(name)
        return {}

    def discover(self) -> dict[str, Any]:
        """Find the benchmarks of the suite; see asv_suite.discover."""
        found: dict[str, Any] = asv_suite.discover(self.suite)
        return found

    def cache(self, case: dict[str, Any], folder: str) -> dict[str, Any]:
        """Run the setup_cache of a benchmark in `folder`, and pickle its result there, as asv does."""
        os.chdir(folder)
        with open("cache.pickle", "wb") as file:
            pickle.dump(self.load(case).do_setup_cache(), file)
        return {}

    def importing(self, case: dict[str, Any]) -> dict[str, Any]:
        """Import the module of a benchmark in a command of its own, since the benchmark's timeout excludes the import."""
        self.load(case)
        return {}

    def load(self, case: dict[str, Any]) -> Any:
        """Return the benchmark of a case, with its parameters set."""
        self.name = case["name"]
        index = case["index"]
        name = case["benchmark"] if index is None else f"{case['benchmark']}-{index}"
        return asv_suite.load(self.suite, name)

    def prepare(self, case: dict[str, Any], cache: str | None, folder: str, trial: bool) -> dict[str, Any]:
        """Set up a benchmark in `folder`/work: a copy of `cache`, the folder in which its setup_cache ran, or empty.

        As a `trial`, also call a time_ benchmark once, so that its errors show. Raises ValueError if it prints, since printing
        would be part of its time.
        """
        self.release()
        self.open_stdout()
        self.move_objects()
        work = os.path.join(folder, "work")
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(cache, work) if cache else os.mkdir(work)
        os.chdir(work)
        benchmark = self.load(case)
        if cache:
            with open("cache.pickle", "rb") as file:
                benchmark.set_cache(pickle.load(file))
        self.benchmark = benchmark
        self.set_up()
        if trial and benchmark.type == "time":
            before = self.printed_bytes()
            benchmark.func(*benchmark._build_params())
            if self.printed_bytes() > before and os.getpid() == self.pid:
                raise ValueError("it prints to standard output, which would be part of its time; print in setup, or not at all")
            benchmark.do_teardown()
            self.set_up()
        gc.collect()
        return {}

    def open_stdout(self) -> None:
        """Open standard output again, if a benchmark closed it."""
        os.dup2(self.printed, 1)
        if sys.stdout is None or sys.stdout.closed:
            sys.stdout = os.fdopen(1, "w", closefd=False)

    def printed_bytes(self) -> int:
        """Return the number of bytes that were printed to standard output so far."""
        if not sys.stdout.closed:
            sys.stdout.flush()
        return os.fstat(self.printed).st_size

    def set_up(self) -> None:
        """Run the setup. Raises NotImplementedError if the setup or skip_params skips the benchmark."""
        benchmark, self.benchmark = self.benchmark, None  # as in asv, there is no teardown after a setup that failed
        if benchmark.do_setup():
            raise NotImplementedError("setup or skip_params skips it")
        benchmark._redo_setup_next = False  # the setup that asv_runner's timer asks for first has just been run
        self.benchmark = benchmark

    def calibrate(self, longest: float) -> dict[str, Any]:
        """Return how a round is made: `repeats` samples of `number` calls, its `timed` seconds, and its `seconds` in all.

        A round takes at most `longest` seconds, unless one call does.

        If the suite sets a `number`, it is kept.
        """
        timer, fixed = self.timer()
        number, started = fixed or 1, perf_counter()
        while True:
            samples, took = self.samples(timer, number, 1)
            late = took >= longest or perf_counter() - started > CALIBRATION
            if fixed or samples[0] >= SAMPLE or late:
                break
            number = max(number + 1, int(number * min(10.0, 1.2 * SAMPLE / max(samples[0], 1e-9), longest / took)))
        wanted = math.ceil(ROUND / max(samples[0], 1e-9))
        repeats = max(1, min(wanted, int(longest / max(took, 1e-9))))
        return {"number": number, "repeats": repeats, "timed": samples[0] * repeats, "seconds": took * repeats}

    def timer(self) -> tuple[Any, int]:
        """Return asv_runner's own timer of the prepared benchmark, and the `number` that the suite sets, or 0."""
        benchmark = self.benchmark
        params = benchmark._build_params()
        isolated = benchmark._setups and getattr(benchmark, "_setup_isolates_timed_calls", False)
        if isolated:  # the setup runs before every call, and the calls alone are timed
            return benchmark._get_interleaved_timer(*params), benchmark.number
        return benchmark._get_timer(*params), benchmark.number

    def samples(self, timer: Any, number: int, repeats: int) -> tuple[list[float], float]:
        """Return the timed seconds of each of `repeats` samples of `number` calls, and the seconds that all samples took.

        Raises ValueError if a timeraw_ benchmark prints.
        """
        started, counted = perf_counter(), []
        for _ in range(repeats):
            try:
                counted.append(timer.timeit(number))
            except ValueError as error:  # asv_runner's own, for more than the time on the standard output of its process
                if "could not convert string to float" not in str(error):
                    raise
                raise ValueError("its code prints to standard output, from which asv reads the time") from None
            if os.getpid() != self.pid:
                break
        return counted, perf_counter() - started

    def round(self, number: int, repeats: int) -> dict[str, Any]:
        """Run a round; return the seconds per call, as the median of its samples, of which an interrupt hits few.

        Raises ValueError if the timer gives no time above 0.
        """
        counted = statistics.median(self.samples(self.timer()[0], number, repeats)[0])
        if not counted > 0 or not math.isfinite(counted):
            raise ValueError(f"its timer counted {counted!r} s for {number} call(s)")
        return {"seconds": counted / number}

    def figure(self) -> dict[str, Any]:
        """Return the figure of a track_, mem_ or peakmem_ benchmark. Raises NotImplementedError if it is no finite number."""
        value = self.benchmark.do_run()
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            try:
                value = float(value)
            except (TypeError, ValueError):
                raise NotImplementedError(f"its figure is no number (type: {type(value).__name__})") from None
        if not math.isfinite(value):
            raise NotImplementedError(f"its figure, {value!r}, is not finite")
        return {"figure": value}

    def release(self) -> dict[str, Any]:
        """Tear down the benchmark that is prepared, if any."""
        benchmark, self.benchmark = self.benchmark, None
        if benchmark is not None:
            benchmark.do_teardown()
        return {}


def children() -> bool:
    """Return True if this process has a child that runs, or ended and was not waited for."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
