"""The steps of a night as they are: each a command of this project in a process of its own, ended when its time is up."""

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..gate.rule import FAILED, INCOMPARABLE, PASS, REGRESSED
from ..system import machine
from ..system import process_group as leash
from . import law
from .state import VOID, Outcome

RESERVE = 0.15  # of a comparison's time, for what the gate does not count: taking out both versions and building them


@dataclass(frozen=True)
class Steps:
    """What a night does. Each takes what it works on and the seconds it has, may raise leash.OutOfTime, and can be replaced.

    `measure` and `canary` take a commit, `gate` a base and a head, `law` a commit and two seeds (None: not on this device).
    `environment` tells what makes a series of its own; its "machine" is what asv calls it.
    """

    environment: Callable[[], dict[str, str]]
    measure: Callable[[str, float], Outcome]
    canary: Callable[[str, float], Outcome]
    gate: Callable[[str, str, float], Outcome]
    law: Callable[[str, Sequence[int], float], Outcome] | None
    publish: Callable[[float], Outcome]


def real(root: Path, device: str, cases: Sequence[str] = (), select: Sequence[str] = ()) -> Steps:
    """The steps for a device; only some cases, and of the tests of the law only those that pytest's words `select`."""
    chosen = [word for case in cases for word in ("--case", case)]
    return Steps(
        environment=partial(environment, device),
        measure=partial(measure, root, [*chosen, "--device", device]),
        canary=partial(canary, root, device),
        gate=partial(gate, root, [*chosen, "--device", device]),
        law=partial(law.check, root, select=select) if device == "cpu" else None,
        publish=partial(publish, root),
    )


def environment(device: str) -> dict[str, str]:
    """What figures depend on beside the code."""
    here = machine.describe(device)
    torch = f"torch {version('torch').partition('+')[0]}"  # the same with CUDA and without it
    return {"machine": machine.name(), "processor": here.get("gpu", here["cpu"]), "torch": torch}


def command(root: Path, seconds: float, *words: str) -> tuple[int, str]:
    """Run one of this project's commands."""
    return leash.run([sys.executable, "-m", "benchmarks", *words], seconds, root)


def failure(name: str, code: int, said: str) -> Outcome:
    """What a command that failed said: its verdict in the line, the rest below."""
    lines = said.splitlines() or [f"it ended with {code} and said nothing"]
    told = [line for line in lines if line.startswith(("Could not", "Nothing")) or " failed on " in line]
    return Outcome(FAILED, f"{name}: {(told or lines)[-1].strip()}", markdown=f"```\n{said}\n```")


def measure(root: Path, options: Sequence[str], commit: str, seconds: float) -> Outcome:
    """A commit's figures, by asv; what it has already is not measured again."""
    code, said = command(root, seconds, "run", commit, *options)
    return Outcome(PASS, f"commit {commit[:8]} is measured") if code == 0 else failure(f"commit {commit[:8]}", code, said)


def canary(root: Path, device: str, commit: str, seconds: float) -> Outcome:
    """Whether the gate sees a slowdown that is planted."""
    with tempfile.TemporaryDirectory(prefix="taildropout-night-") as folder:
        file = Path(folder, "canary.json")
        code, said = command(root, seconds, "canary", commit, "--device", device, "--json", str(file))
        if code in (0, 1) and file.exists():
            return Outcome(VOID if code else PASS, json.loads(file.read_text())["line"])
    return replace(failure("canary", code, said), verdict=VOID)


def gate(root: Path, options: Sequence[str], base: str, head: str, seconds: float) -> Outcome:
    """Whether a commit is slower than another."""
    with tempfile.TemporaryDirectory(prefix="taildropout-night-") as folder:
        files = {kind: Path(folder, kind) for kind in ("json", "junit", "markdown")}
        words = [word for kind, file in files.items() for word in (f"--{kind}", str(file))]
        budget = f"{max(1, int((1 - RESERVE) * seconds))}s"
        code, said = command(root, seconds, "compare", base[:12], head[:12], *options, *words, "--budget", budget)
        if not files["json"].exists():
            return failure("compare", code, said)
        found = json.loads(files["json"].read_text())
        markdown, junit = files["markdown"].read_text(), files["junit"].read_text()
    stored = {key: value for key, value in found.items() if key not in ("processes", "environment", "seed")}
    verdict = FAILED if stored["verdict"] == INCOMPARABLE else stored["verdict"]
    line = stored["line"].removeprefix(f"{verdict}: ")
    return Outcome(verdict, line, slower(stored["rows"]), markdown, junit, shown={"verdict.json": stored})


def slower(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The cases that have become slower, each with its signals."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["verdict"] == REGRESSED:
            change = row["note"] if row["change"] is None else f"{row['change']:+.1%}"
            found.setdefault(row["case"], []).append(f"{row['signal']} {change}")
    return {case: ", ".join(signals) for case, signals in found.items()}


def publish(root: Path, seconds: float) -> Outcome:
    """The pages."""
    code, said = command(root, seconds, "dashboard")
    return Outcome(PASS, "in .asv/html") if code == 0 else failure("dashboard", code, said)
