"""Two real nights: nothing is faked, but there is one case only, and fewer tests of the law."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nightly.nights import CASE, git

from benchmarks.gate.rule import PASS, UNSTABLE
from benchmarks.nightly.state import VOID, parse

PROJECT = Path(__file__).parents[3]
COPIED = ("asv.conf.json", "pyproject.toml", "package.json", "package-lock.json", "README.md", "LICENSE", ".gitignore")
NIGHT = f"""import sys
from benchmarks import ROOT
from benchmarks.commands import nightly
from benchmarks.nightly.job import Job
from benchmarks.nightly.steps import real_steps
steps = real_steps(ROOT, "cpu", ["{CASE}"], ["-k", "exponential-0.5-64-"])
sys.exit(nightly.run(Job(ROOT, "cpu", 1500.0, steps, issues=False)))"""


@pytest.mark.night
@pytest.mark.timeout(3600)
def test_two_real_nights_on_one_case(tmp_path: Path) -> None:
    """Both commits change only a comment, so the second night compares equal versions."""
    root, remote = tmp_path / "project", tmp_path / "remote.git"
    for folder in ("taildropout", "benchmarks", "tests"):
        shutil.copytree(PROJECT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in COPIED:
        shutil.copy(PROJECT / name, root / name)
    git(tmp_path, "init", "--quiet", "--bare", str(remote))
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "remote", "add", "origin", str(remote))
    commits: list[str] = []
    for _ in range(2):
        with open(root / "taildropout" / "layer.py", "a") as file:
            file.write("# changed\n")
        git(root, "add", "--all")
        git(root, "commit", "--quiet", "-m", "change")
        commits.append(git(root, "rev-parse", "HEAD"))
        env = {key: value for key, value in os.environ.items() if not key.startswith("GITHUB_")}
        code = subprocess.run(
            [sys.executable, "-c", NIGHT], cwd=root, env=env | {"PYTHONPATH": str(root)}, check=False
        ).returncode
        state = parse(git(remote, "show", "asv-results:cpu/state.json"))
        (series,) = state.series.values()
        assert series.measured == commits
        assert state.steps["law"].verdict == PASS
        assert "seed" in json.loads((root / ".asv" / "law.json").read_text())
        if len(commits) == 1:
            assert code == 0
            assert (root / ".asv" / "html" / "overview.html").exists()
    # On a busy machine the gate may see nothing for certain: that is no pass, and no fault of the job.
    canary, last = state.steps["canary"].verdict, state.steps.get("last")
    assert canary in (PASS, VOID)
    if canary == VOID:
        assert code == 2
    else:
        assert last is not None
        assert code == {PASS: 0, UNSTABLE: 3}[last.verdict]
    assert state.judged == commits[code == 0]
