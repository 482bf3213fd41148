"""The working tree's version, taken out and built once per module."""

import pytest

from benchmarks import workload
from benchmarks.gate.versions import Version, extract


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """The version of the working tree."""
    return extract(workload, None, tmp_path_factory.mktemp("gate") / "base")
