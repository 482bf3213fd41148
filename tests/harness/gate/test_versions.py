"""Versions are taken out of git as they were, or from the working tree, and an unknown one is named."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import ROOT, workload
from benchmarks.gate.versions import Version, extract
from benchmarks.suite.loading import PACKAGE, load
from benchmarks.system.git import UnknownRevision

pytestmark = pytest.mark.history


def test_a_version_is_taken_out_as_it_was_and_loaded_beside_others(tmp_path: Path, base: Version) -> None:
    head = extract(workload, "HEAD", tmp_path / "head")
    tracked = subprocess.run(
        ["git", "show", "HEAD:taildropout/__init__.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (head.folder / PACKAGE / "__init__.py").read_text() == tracked.stdout
    assert (base.folder / PACKAGE / "layer.py").read_text() == (ROOT / PACKAGE / "layer.py").read_text()
    module = load(head.folder, "taildropout_seen_by_a_test")
    assert module.TailDropout.__module__ == "taildropout_seen_by_a_test.layer"
    with pytest.raises(ImportError, match="cannot be loaded as"):
        load(head.folder, "taildropout_seen_by_a_test")
    for name in [name for name in sys.modules if name.startswith("taildropout_seen_by_a_test")]:
        del sys.modules[name]


@pytest.mark.parametrize("revision", ["no-such-branch", "HEAD:README.md", "--help", ""])
def test_an_unknown_revision_is_named(tmp_path: Path, revision: str) -> None:
    if revision == "":
        revision = " "
    with pytest.raises(UnknownRevision, match="names no commit"):
        extract(workload, revision, tmp_path / "version")


def test_a_commit_without_the_package_is_named(tmp_path: Path) -> None:
    first = subprocess.run(["git", "rev-list", "--max-parents=0", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    if (
        subprocess.run(["git", "cat-file", "-e", f"{first.stdout.split()[0]}:taildropout"], cwd=ROOT, check=False).returncode
        == 0
    ):
        pytest.skip("the first commit holds the package")
    with pytest.raises(UnknownRevision, match="holds no package"):
        extract(workload, first.stdout.split()[0], tmp_path / "version")
