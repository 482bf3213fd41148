"""Use one thread and pinned costs, seed every test, make this project's warnings errors, and report the statistical tests.

TAILDROPOUT_SEED=<int> in the environment gives every test other random numbers.
"""

import gc
import os
import shutil
import sys
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from checks import ALPHA, SIZE, Family, holm
from hypothesis import settings
from own_warnings import OwnWarning, mark_own_warnings
from torch import Tensor

import taildropout

SEED = int(os.environ.get("TAILDROPOUT_SEED", "0"))

FAMILY = pytest.StashKey[Family]()

# Tests run in one process per core, so each process, and each command that a test starts, uses one thread.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# TailMLP would measure this machine, which may be busy, and choose its way by the result.
os.environ.setdefault("TAILDROPOUT_MLP_COSTS", "0,4e7,50,120,380,2,.08")
mark_own_warnings()
taildropout.dropping._warned_of_columns = True  # this warning comes once per process; its tests reset it
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    """Make this project's own warnings errors; pytest restores the filters after each test."""
    warnings.simplefilter("error", OwnWarning)
    return (yield)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests of git's versions in an unpacked sdist or another copy without the history."""
    if item.get_closest_marker("history") and not (item.config.rootpath / ".git").exists():
        pytest.skip("versions come from git, and this is a copy without it")


def pytest_collection_finish() -> None:
    """Keep the million objects that imports and collection made out of every later garbage collection, to save its time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """Seed each test by its file, its name and SEED, and use one thread, so that neither order nor other tests change it."""
    torch.set_num_threads(1)
    torch.manual_seed(zlib.crc32(f"{SEED} {request.node.path.name} {request.node.name}".encode()))


@pytest.fixture
def compiler() -> None:
    """Reset dynamo, whose compilations count towards a limit; skip if torch.compile finds no C++ compiler."""
    from benchmarks.suite.cases import quote_library_path

    if not shutil.which(os.environ.get("CXX", "g++")) and not shutil.which("clang++"):
        pytest.skip("torch.compile needs a C++ compiler: install g++, or set CXX")
    quote_library_path()
    torch._dynamo.reset()


CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="session")
def interpreted() -> Iterator[ModuleType]:
    """Yield a second copy of the package whose kernel runs in Triton's interpreter, chosen when a kernel is defined."""
    from benchmarks.suite.loading import load

    pytest.importorskip("triton", reason="needs Triton: pip install triton, on Linux")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        package = load(Path(taildropout.__file__).parents[1], "taildropout_interpreted")
        __import__("taildropout_interpreted.selection.triton_kernel")
    yield package
    for name in [each for each in sys.modules if each.partition(".")[0] == "taildropout_interpreted"]:
        del sys.modules[name]


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=CUDA)])
def place(request: pytest.FixtureRequest) -> SimpleNamespace:
    """Return a package, its kernels, and the device on which they run."""
    if request.param == "cuda":
        from taildropout.selection import triton_kernel as kernels

        return SimpleNamespace(package=taildropout, kernels=kernels, device="cuda")
    package = request.getfixturevalue("interpreted")
    return SimpleNamespace(package=package, kernels=package.selection.triton_kernel, device="cpu")


@pytest.fixture
def launches(place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make inputs of every size use the kernel, as on a GPU; return a list with "new" or "in place" per launch."""
    made: list[str] = []
    launch = place.kernels.launch

    def counted(input: Tensor, output: Tensor, *rest: object) -> None:
        made.append("in place" if input is output else "new")
        launch(input, output, *rest)

    selection = place.package.selection.dispatch
    assert selection._kernels_on(torch.empty(0, device=place.device).device) is place.kernels
    monkeypatch.setattr(selection, "_on_gpu", lambda tensor: True)
    monkeypatch.setattr(selection, "FUSED_FROM", 1)
    monkeypatch.setattr(selection, "SAVE_ONLY_K_FROM", 0)
    monkeypatch.setattr(place.kernels, "launch", counted)
    return made


@pytest.fixture(scope="session")
def family(pytestconfig: pytest.Config) -> Family:
    """Return the family in which all statistical tests of a run are judged."""
    return pytestconfig.stash.setdefault(FAMILY, Family())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the p-values of a worker process to the process that prints the report."""
    family, output = session.config.stash.get(FAMILY, None), getattr(session.config, "workeroutput", None)
    if family is not None and output is not None:
        output["family"] = {"p_values": family.p_values, "lines": family.lines}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect the p-values of a worker process."""
    found = getattr(node, "workeroutput", {}).get("family")
    if found:
        family = node.config.stash.setdefault(FAMILY, Family())
        family.p_values |= found["p_values"]
        family.lines += found["lines"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print a line per statistical test, and Holm's verdict."""
    family = config.stash.get(FAMILY, None)
    if family is None or not family.lines:
        return
    terminalreporter.section(f"the law of K: p-values per cell, seed {SEED}")
    for line in family.lines:
        terminalreporter.line(line)
    rejected = holm(family.p_values, ALPHA, SIZE)
    terminalreporter.line(
        f"{len(family.p_values)} p-values, the least {min(family.p_values.values()):.2g}; Holm at a family-wise rate of "
        f"{ALPHA} rejects {', '.join(rejected) or 'none'}"
    )
