"""Measures two versions side by side in fresh processes: time, instructions, exact counts.

Each process loads both versions, head and base first in turn, and measures every open case. Two processes run at a time
where there are two cores, each held to its own.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from queue import Queue
from typing import Any

from ..system import machine
from .processes import Broken, Processes, lanes
from .revisions import Version
from .rule import log_ratio

SECONDS = 1.0  # of rounds for a case in a process; small cases have their rounds sooner

Findings = list[dict[str, Any]]


@dataclass
class Gate:
    """Two versions and all that was measured of them. `folder` holds what the processes leave; `seed` orders the rounds."""

    base: Version
    head: Version
    folder: Path
    seed: int = 0
    deadline: float = float("inf")  # on time.monotonic's clock
    begins: Callable[[str, int], None] = lambda what, processes: None  # told when processes start, and when each ends
    ends: Callable[[], None] = lambda: None
    raw: Findings = field(default_factory=list)  # every process with its rounds
    failures: dict[str, str] = field(default_factory=dict)  # case → why it could not be measured
    lacking: dict[str, dict[str, str]] = field(default_factory=dict)  # case → the sides that lack it, and why
    environment: dict[str, Any] = field(default_factory=dict)
    per_process: float = 0.0  # seconds per process of the last draw

    def __post_init__(self) -> None:
        self.processes = Processes(self.folder)

    def draw(self, names: Sequence[str], processes: int) -> dict[str, list[float]] | None:
        """So many fresh processes: a log-ratio per case and process; None if they would end after the deadline."""
        started = time.monotonic()
        if started + processes * self.per_process > self.deadline:
            return None
        self.begins(f"time of {len(names)} case(s)", processes)
        first = sum(each["what"] == "time" for each in self.raw)
        cores: Queue[int | None] = Queue()
        for core in lanes(names):
            cores.put(core)

        def one(number: int) -> Findings:
            core = cores.get()
            try:
                return self.process("time", names, number, core)
            finally:
                cores.put(core)
                self.ends()

        with ThreadPoolExecutor(cores.qsize()) as pool:
            futures = [pool.submit(one, number) for number in range(first, first + processes)]
            try:
                done = [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.processes.stop()
                raise
        self.per_process = (time.monotonic() - started) / processes
        found: dict[str, list[float]] = {name: [] for name in names}
        for finding in (finding for findings in done for finding in findings if "head" in finding):
            found[finding["case"]].append(log_ratio(finding["base"], finding["head"]))
        return found

    def out_of_time(self) -> bool:
        """Whether the budget is spent."""
        return time.monotonic() > self.deadline

    def process(
        self, what: str, names: Sequence[str], number: int, core: int | None = None, twin: bool = False,
        prefix: Sequence[str] = (), **more: Any,
    ) -> Findings:  # fmt: skip
        """What one process finds, kept in `raw` too. After a case that hangs the others get their turn in another one."""
        sides = [("base", self.base), ("head", self.head)][:: -1 if number % 2 else 1]
        sides += [("twin", self.twin())] if twin else []
        task = {"what": what, "cases": list(names), "sides": [(side, str(version.folder)) for side, version in sides]}
        task |= {"seconds": SECONDS, "seed": self.seed + number, "graphs": what == "counts", **more}
        ticks, findings = stolen(), []
        while True:
            heard = [self.heard(finding) for finding in self.processes.findings(task, core, prefix)]
            findings += [finding for finding in heard if "case" in finding]
            told = {finding["case"] for finding in findings}
            task |= {"cases": [name for name in names if name not in told], "graphs": False}
            if not (task["cases"] and heard[-1].get("hangs")):
                break
        state = {"load": os.getloadavg()[0], "stolen_ticks": stolen() - ticks}
        self.raw.append({"what": what, "number": number, "first": sides[0][0], "core": core, **state, "found": findings})
        return findings

    def heard(self, finding: dict[str, Any]) -> dict[str, Any]:
        """Note what a finding says of a case that cannot be measured; Broken for a version that cannot be loaded."""
        if "broken" in finding:
            version = self.head if finding["broken"] == "head" else self.base
            raise Broken(f"{finding['broken']}, {version}, cannot be imported: {finding['error']}")
        self.environment.update(finding.get("environment", {}))
        if "fails" in finding:
            self.failures[finding["case"]] = f"{finding['fails']}: {finding['error']}"
        elif "lacks" in finding:
            self.lacking.setdefault(finding["case"], {})[finding["lacks"]] = finding["error"]
        return finding

    def instructions(self, names: Sequence[str], number: int) -> Findings:
        """Instructions per call of base, head and a second copy of base (`counter` says how)."""
        self.begins("instructions", 1)
        tool, output = [], ""
        if counter() == "callgrind":
            # A folder of its own: a count must never be read from what an earlier process left.
            place = tempfile.mkdtemp(prefix="callgrind-", dir=self.folder)
            output = f"{place}/counts"
            tool = [
                "valgrind",
                f"--vgdb-prefix={place}/vgdb",
                "--quiet",
                "--tool=callgrind",
                "--instr-atstart=no",
                "--collect-atstart=no",
            ]
            tool.append(f"--callgrind-out-file={output}")
        found = self.process("instructions", names, number, twin=True, prefix=tool, callgrind=output)
        self.ends()
        return found

    def counts(self, names: Sequence[str]) -> Findings:
        """Exact counts of both sides."""
        self.begins("exact counts", 1)
        found = self.process("counts", names, 0)
        self.ends()
        return found

    def twin(self) -> Version:
        """A second copy of base, whose difference from base is noise."""
        folder = self.folder / "twin"
        if not folder.exists():
            shutil.copytree(self.base.folder, folder)
        return replace(self.base, folder=folder)

    def notes(self) -> dict[str, Any]:
        """What can explain a figure: environment, versions, how busy the machine was."""
        return self.environment | {"machine": machine.describe(), "load": os.getloadavg(), "governor": governor()}


@cache
def counter() -> str | None:
    """What counts instructions here: the processor, else valgrind's callgrind, else nothing (None)."""
    # A private name of torch, so guarded: where it is gone, the exit code says so too.
    code = "import torch; c = torch._C._instruction_counter; h = c.start(); raise SystemExit(h < 0 or c.end(h) <= 0)"
    if subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0:
        return "hardware counter"
    return "callgrind" if shutil.which("valgrind") and shutil.which("callgrind_control") else None


def governor() -> str:
    """How the first core's clock is steered, where the system tells."""
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return "unknown"


def stolen() -> int:
    """Ticks that the host has given to others since the start; 0 where the system does not tell."""
    try:
        return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])
    except (OSError, IndexError, ValueError):
        return 0
