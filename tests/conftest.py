"""One thread, a fixed seed for every test, and the report of the statistical tests.

TAILDROPOUT_SEED=<int> in the environment gives every test fresh random numbers.
"""

import os
import shutil
import zlib

import pytest
import torch
from checks import ALPHA, SIZE, Family, holm
from hypothesis import settings

SEED = int(os.environ.get("TAILDROPOUT_SEED", "0"))

FAMILY = pytest.StashKey[Family]()

torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """Every test starts from a seed of its own, which neither its order nor another test changes."""
    torch.manual_seed(zlib.crc32(f"{SEED} {request.node.path.name} {request.node.name}".encode()))


@pytest.fixture
def compiler() -> None:
    """Forget what was compiled, which counts towards a limit; skip where torch.compile has no C++ compiler to call."""
    from benchmarks.suite.cases import quote_library_path

    if not shutil.which(os.environ.get("CXX", "g++")) and not shutil.which("clang++"):
        pytest.skip("torch.compile needs a C++ compiler: install g++, or set CXX")
    quote_library_path()
    torch._dynamo.reset()


@pytest.fixture(scope="session")
def family(pytestconfig: pytest.Config) -> Family:
    """The family in which all statistical cells of a run are judged."""
    return pytestconfig.stash.setdefault(FAMILY, Family())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """A line per statistical cell, and Holm's verdict."""
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
