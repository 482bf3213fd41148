"""Versions to compare: the working tree's, and those of a package without torch, which a process loads much sooner."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import workload
from benchmarks.gate.versions import Version, extract
from benchmarks.gate.workload import Injectable

NAME = "tally"
INIT = "from .work import total\n\n__all__ = ['total']\n"
# A loop of one line per number, and as many passes more as are injected for this many numbers.
WORK = """LOOPS = {}


def total(numbers):
    result = 0
    for number in numbers:
        result += number
    for _ in range(LOOPS.get(len(numbers), 0)):
        pass
    return result
"""
SLOWER = WORK.replace("    return result", "    for _ in range(len(numbers) // 10):\n        pass\n    return result")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """The version of the working tree, taken out and built once per module."""
    return extract(workload, None, tmp_path_factory.mktemp("gate") / "base")


@pytest.fixture(scope="module")
def pure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Injectable]:
    """A workload in a folder of its own: a package with two equal versions (`v1`, `v2`) and one that is 10 % slower (`v3`)."""
    folder = tmp_path_factory.mktemp("pure")
    package = folder / "repository" / NAME
    package.mkdir(parents=True)
    git(folder / "repository", "init", "--quiet")
    (package / "__init__.py").write_text(INIT)
    for tag, work in (("v1", WORK), ("v2", WORK + "# changed\n"), ("v3", SLOWER)):
        (package / "work.py").write_text(work)
        git(folder / "repository", "add", "--all")
        git(folder / "repository", "commit", "--quiet", "--message", tag)
        git(folder / "repository", "tag", tag)
    (folder / "package_name").write_text(NAME)
    name = f"pure_{NAME}_{abs(hash(folder))}"  # a worker process imports it by this name
    file = folder / f"{name}.py"
    file.write_text((Path(__file__).parent / "pure_workload.py").read_text())
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec
    assert spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, module)
        yield module


def git(folder: Path, *args: str) -> None:
    """Run git as a person whom it can name as an author."""
    person = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *person, *args], cwd=folder, check=True, capture_output=True)
