"""One thread, a fixed seed for every test, and the report of the statistical tests.

TAILDROPOUT_SEED=<int> in the environment gives every test fresh random numbers.
"""

import os
import shutil
import zlib

import pytest
import torch
from hypothesis import settings

SEED = int(os.environ.get("TAILDROPOUT_SEED", "0"))

torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """Every test starts from a seed of its own, which neither its order nor another test changes."""
    torch.manual_seed(zlib.crc32(f"{SEED} {request.node.path.name} {request.node.name}".encode()))


@pytest.fixture
def compiler() -> None:
    """Skip where torch.compile has no C++ compiler to call."""
    if not shutil.which(os.environ.get("CXX", "g++")) and not shutil.which("clang++"):
        pytest.skip("torch.compile needs a C++ compiler: install g++, or set CXX")
