"""The steps of a night. Each runs a command of this project in a process of its own, and kills it when its time is up."""

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
from ..system import machine, process_group
from . import law
from .state import VOID, Outcome

RESERVE = 0.15  # share of a comparison's time for extracting and building both versions, which --budget does not include


@dataclass(frozen=True)
class Steps:
    """The expensive parts of a night, which tests replace. The last argument of each step is its time in seconds.

    `measure` and `canary` take a commit, `gate` takes base and head, `law` takes a commit and two seeds (None: the law is not
    tested on this device). Each step may raise OutOfTime or CannotMeasure. `environment` returns the machine, the processor or
    GPU and the version of torch; its "machine" is asv's name of the machine.
    """

    environment: Callable[[], dict[str, str]]
    measure: Callable[[str, float], Outcome]
    canary: Callable[[str, float], Outcome]
    gate: Callable[[str, str, float], Outcome]
    law: Callable[[str, Sequence[int], float], Outcome] | None
    publish: Callable[[float], Outcome]


def real_steps(root: Path, device: str, cases: Sequence[str] = (), select: Sequence[str] = ()) -> Steps:
    """Return the steps for a device.

    Restrict measuring and comparing to `cases` unless that is empty, and the tests of the law by pytest's arguments `select`.
    """
    options = [arg for case in cases for arg in ("--case", case)] + ["--device", device]
    return Steps(
        environment=partial(environment, device),
        measure=partial(measure, root, options),
        canary=partial(canary, root, device),
        gate=partial(gate, root, options),
        law=partial(law.check, root, select=select) if device == "cpu" else None,
        publish=partial(publish, root),
    )


def environment(device: str) -> dict[str, str]:
    """Return the name of this machine, of its processor or GPU, and the version of torch: figures depend on them."""
    described = machine.describe(device)
    torch = f"torch {version('torch').partition('+')[0]}"  # the same for builds with and without CUDA
    return {"machine": machine.name(), "processor": described.get("gpu", described["cpu"]), "torch": torch}


def run_command(root: Path, seconds: float, *args: str) -> tuple[int, str]:
    """Run a command of this project; return its exit code and the last lines of its standard error. Raises OutOfTime."""
    return process_group.run([sys.executable, "-m", "benchmarks", *args], seconds, root)


def failure(name: str, code: int, stderr: str) -> Outcome:
    """Return the outcome of a command that failed: its error message as the line, and all of `stderr` as details."""
    lines = stderr.splitlines() or [f"exit code {code} without a message"]
    errors = [line for line in lines if line.startswith(("Could not", "Nothing")) or " failed on " in line]
    return Outcome(FAILED, f"{name}: {(errors or lines)[-1].strip()}", markdown=f"```\n{stderr}\n```")


def measure(root: Path, options: Sequence[str], commit: str, seconds: float) -> Outcome:
    """Measure the figures that a commit lacks; `options` are those of the command `run`. Raises OutOfTime."""
    code, stderr = run_command(root, seconds, "run", commit, *options)
    return Outcome(PASS, f"commit {commit[:8]} is measured") if code == 0 else failure(f"commit {commit[:8]}", code, stderr)


def canary(root: Path, device: str, commit: str, seconds: float) -> Outcome:
    """Check that the gate sees an injected slowdown. The verdict is VOID if it does not, or if the check itself failed.

    Raises OutOfTime.
    """
    with tempfile.TemporaryDirectory(prefix="taildropout-night-") as folder:
        file = Path(folder, "canary.json")
        code, stderr = run_command(root, seconds, "canary", commit, "--device", device, "--json", str(file))
        if code in (0, 1) and file.exists():
            return Outcome(VOID if code else PASS, json.loads(file.read_text())["line"])
    return replace(failure("canary", code, stderr), verdict=VOID)


def gate(root: Path, options: Sequence[str], base: str, head: str, seconds: float) -> Outcome:
    """Compare two commits with the gate; `options` are those of the command `compare`. Raises OutOfTime."""
    with tempfile.TemporaryDirectory(prefix="taildropout-night-") as folder:
        files = {kind: Path(folder, kind) for kind in ("json", "junit", "markdown")}
        outputs = [arg for kind, file in files.items() for arg in (f"--{kind}", str(file))]
        budget = f"{max(1, int((1 - RESERVE) * seconds))}s"
        code, stderr = run_command(root, seconds, "compare", base[:12], head[:12], *options, *outputs, "--budget", budget)
        if not files["json"].exists():
            return failure("compare", code, stderr)
        result = json.loads(files["json"].read_text())
        markdown, junit = files["markdown"].read_text(), files["junit"].read_text()
    stored = {key: value for key, value in result.items() if key not in ("processes", "environment", "seed")}
    verdict = FAILED if stored["verdict"] == INCOMPARABLE else stored["verdict"]
    line = stored["line"].removeprefix(f"{verdict}: ")
    return Outcome(verdict, line, slower(stored["rows"]), markdown, junit, shown={"verdict.json": stored})


def slower(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the cases that the gate's rows call slower, each with the signals that changed."""
    changes: dict[str, list[str]] = {}
    for row in rows:
        if row["verdict"] == REGRESSED:
            change = row["note"] if row["change"] is None else f"{row['change']:+.1%}"
            changes.setdefault(row["case"], []).append(f"{row['signal']} {change}")
    return {case: ", ".join(signals) for case, signals in changes.items()}


def publish(root: Path, seconds: float) -> Outcome:
    """Publish the pages of the dashboard to .asv/html. Raises OutOfTime."""
    code, stderr = run_command(root, seconds, "dashboard")
    return Outcome(PASS, "in .asv/html") if code == 0 else failure("dashboard", code, stderr)
