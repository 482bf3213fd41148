"""This project as a workload of the gate: TailDropout's versions, with the suite's cases. See gate/workload.py."""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from . import ROOT
from .gate.workload import Amounts, Run, Slowdown, Traits
from .suite import cases as suite
from .suite import compilation, measure
from .suite.loading import PACKAGE
from .suite.loading import load as load

repository = ROOT
package = PACKAGE
sources: Sequence[str] = (PACKAGE, "pyproject.toml", "README.md", "LICENSE")
records = ROOT / "benchmarks" / "records" / "gate"
package_counts: Mapping[str, Mapping[str, Callable[[Any], float]]] = {
    "compiler": {name.replace("_", " "): count for name, count in compilation.COUNTS.items()}
}

BUILD = "from setuptools import setup; setup()"
# Elements of a case whose instructions can be counted. Below, chance alone changes the count by percents; above, valgrind,
# some fifty times as slow, takes minutes.
COUNTABLE = range(1 << 15, (1 << 20) + 1)
COMPILING, WARMING_UP = 4.0, 0.2  # seconds to prepare a case for both versions, with most of inductor's work cached


def cases() -> Mapping[str, Traits]:
    """Return the traits of all cases of the suite."""
    return {name: traits(case) for name, case in suite.CASES.items()}


def traits(case: suite.Case) -> Traits:
    """Return the traits of a case."""
    eager = case.mode == "eager"
    return Traits(
        exclusive=case.device == "cuda" or case.model == "ddp",
        instructions=case.model == "layer" and case.device == "cpu" and eager and case.numel in COUNTABLE,
        profiled=eager and case.model not in ("ddp", "data_parallel"),  # others run it in threads or processes of their own
        seconds=WARMING_UP if eager else COMPILING,
    )


def build(folder: Path) -> str:
    """Build the C code of the version in `folder` in place, by the version's own pyproject.toml.

    Return an empty text, or a note if there is no C code afterwards: the version then runs plain torch.
    """
    if (folder / "pyproject.toml").exists():
        command = [sys.executable, "-c", BUILD, "--quiet", "build_ext", "--inplace"]
        subprocess.run(command, cwd=folder, capture_output=True, check=False)
    if any(file.suffix in (".so", ".pyd") for file in (folder / PACKAGE).rglob("*")):
        return ""
    return "no C code (that version has none, or there is no compiler here): it runs plain torch"


def environment() -> Mapping[str, Any]:
    """Return torch's version, the CPU's vector instructions that it uses, and the GPU with its clock."""
    values: dict[str, Any] = {"torch": torch.__version__, "vectors": torch.backends.cpu.get_cpu_capability()}
    if torch.cuda.is_available():
        values["gpu"] = torch.cuda.get_device_name()
        try:
            values["gpu_clock_mhz"] = torch.cuda.clock_rate()
        except Exception as error:  # needs a library of its own, and is only a note
            values["gpu_clock_mhz"] = f"unknown: {type(error).__name__}"
    return values


def prepare(case: str, version: ModuleType) -> Run:
    """Prepare a case on one thread; see `suite.cases.make`."""
    return suite.make(replace(suite.CASES[case], threads=1), version)


def check(case: str, runs: Mapping[str, Run]) -> None:
    """Raise WrongResult if a layer's case draws no random numbers and the outputs of its sides differ."""
    if suite.CASES[case].direction not in ("eval", "set_k") or suite.CASES[case].model != "layer":
        return
    first, *others = (run() for run in runs.values())
    if not all(torch.equal(first, other) for other in others):
        raise suite.WrongResult(f"the outputs of {' and '.join(runs)} differ, though the case draws no random numbers")


def rounds(case: str, runs: Mapping[str, Run], seconds: float, seed: int) -> Mapping[str, Sequence[float]]:
    """Return the seconds per call of each side, one figure per round, on the case's device."""
    return measure.interleave(runs, seconds, suite.CASES[case].device, seed)


def counts(case: str, runs: Mapping[str, Run]) -> Mapping[str, Mapping[str, float]]:
    """Return, by side, the bytes that an eager training case of the layer saves for backward, and on a GPU the launches."""
    known = suite.CASES[case]
    counted: dict[str, dict[str, float]] = {}
    if known.direction == "train" and known.mode == "eager" and known.model == "layer":
        counted["bytes saved"] = {side: measure.saved_bytes(run) for side, run in runs.items()}
    if known.device == "cuda":
        counted["launches"] = {side: measure.launches(run) for side, run in runs.items()}
    return counted


# ---- Slowdowns that calibration and the canary inject
#
#   python    more bytecode before each call
#   work      selecting some more elements, as the layer does
#   traffic   a copy of some memory: few instructions, many bytes
#
# Each kind is injected in a case where such a slowdown is likely. The layer selects the slowdown by the number of elements and
# the dtype of its input alone, so that each case can have its own. A call of a slowdown allocates nothing: one small block of
# memory more makes large tensors lie elsewhere, which alone changes the time of a call by some ten percent.

first_amounts: Mapping[str, int] = {"python": 200, "work": 20_000, "traffic": 200_000}  # passes of a loop, elements, bytes
slowdowns: Mapping[str, Slowdown] = {
    "8x16-f32-train": Slowdown("python", 0.05),
    "1024x512-f32-train": Slowdown("work", 0.05),
    "1024x512-bf16-train": Slowdown("traffic", 0.05),
}
more_instructions: Mapping[str, Slowdown] = {
    "128x256-f32-train": Slowdown("python", 0.01),
    "1024x512-f32-train": Slowdown("python", 0.01),
}
# On a GPU a call that moves less than some megabytes takes as long as the host needs to launch it.
CANARY = {
    "cpu": {"8x16-f32-train": "python", "1024x512-bf16-train": "traffic"},
    "cuda": {"cuda-8x16-f32-fwd": "python", "cuda-1024x512-f32-train": "python"},
}

INJECTED = """
import functools

import torch

INJECTED = {injected!r}


def injected(kind, amount):
    if kind == "python":
        def run():
            for _ in range(amount):
                pass
    elif kind == "work":
        keep, zero = torch.arange(amount) % 2 == 0, torch.zeros(())
        source, target = torch.ones(amount), torch.ones(amount)
        run = functools.partial(torch.where, keep, source, zero, out=target)
    else:
        run = functools.partial(torch.ones(amount, dtype=torch.uint8).copy_, torch.ones(amount, dtype=torch.uint8))
    return run


RUNS = {{key: [injected(*one) for one in amounts] for key, amounts in INJECTED.items()}}


def slow(layer):
    forward = layer.forward

    @functools.wraps(forward)
    def slower(self, input):
        for run in RUNS.get((input.numel(), input.dtype), ()):
            run()
        return forward(self, input)

    layer.forward = slower
"""


def inject(folder: Path, amounts: Amounts) -> None:
    """Make the layer of the version in `folder` slower for inputs of the named cases, by the given kind and amount each."""
    table: dict[tuple[int, torch.dtype], list[tuple[str, int]]] = {}
    for name, (kind, amount) in amounts.items():
        case = suite.CASES[name]
        table.setdefault((case.numel, suite.DTYPES[case.dtype]), []).append((kind, amount))
    (folder / PACKAGE / "injected.py").write_text(INJECTED.format(injected=table))
    with open(folder / PACKAGE / "__init__.py", "a") as file:
        file.write("\nfrom .injected import slow as _slow\n\n_slow(TailDropout)\n")
