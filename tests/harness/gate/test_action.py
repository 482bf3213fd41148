"""The GitHub action, as far as it runs without GitHub: its shell steps, with commands that write down how they are called."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from gate.foreign_project import commit, git

from benchmarks.gate.__main__ import parser
from benchmarks.system.git import resolve

ROOT = Path(__file__).parents[3]
ACTION = (ROOT / "benchmarks" / "gate" / "action.yml").read_text()
DEFAULTS = {"base": "no-branch", "head": "", "project": ".", "set": "", "bench": "", "budget": "20m"}


def calls(folder: Path, **inputs: str) -> list[list[str]]:
    """Run both shell steps; return the words of each command that they call."""
    for name in ("python", "asv-gate"):
        stub = folder / name
        script = f'for word in {name} "$@"; do printf "%s\\n" "$word"; done; echo'
        stub.write_text(f'#!/bin/sh\n{{ {script}; }} >> "{folder}/called"\n')
        stub.chmod(0o755)
    variables = dict(re.findall(r"^        (\w+): \$\{\{ inputs\.(\w+) \}\}$", ACTION, re.M))
    values = DEFAULTS | inputs
    env = {name: values[field] for name, field in variables.items()}
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    install = re.findall(r"^    - run: (.+)$", ACTION, re.M)[0]
    compare = re.findall(r"^    - run: \|\n((?:        .+\n)+)", ACTION, re.M)[0]
    for script in (install, compare):
        env_of_step = {**os.environ, **env, "PATH": path, "GITHUB_ACTION_PATH": "/the action"}
        subprocess.run(["bash", "-e", "-o", "pipefail", "-c", script], env=env_of_step, check=True)
    return [text.split("\n") for text in (folder / "called").read_text().strip().split("\n\n")]


def test_it_installs_the_gate_and_compares(tmp_path: Path) -> None:
    install, compare = calls(tmp_path)
    assert install == ["python", "-m", "pip", "install", "/the action"]
    arguments = parser().parse_args(compare[1:])
    assert (arguments.base, arguments.head, arguments.project, arguments.bench) == ("no-branch", None, ".", None)
    assert (arguments.budget, arguments.junit, arguments.json) == (1200, "gate.xml", "gate.json")


def test_it_compares_with_where_the_branch_began(tmp_path: Path) -> None:
    """Else what the base branch gained since then would be a slowdown of the pull request."""
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "--quiet", "--initial-branch=main")
    for name in ("began", "base", "head"):
        git(repository, "checkout", "--quiet", "-b", name, *(["began"] if name == "head" else []))
        commit(repository, f"of-{name}")
    _, compare = calls(tmp_path, base="base", project=str(repository))
    assert parser().parse_args(compare[1:]).base == resolve("of-began", repository)


def test_inputs_are_words_and_never_code(tmp_path: Path) -> None:
    _, compare = calls(tmp_path, base="$(touch hacked)", head="v 2", bench="time_(a|b)")
    arguments = parser().parse_args(compare[1:])
    assert (arguments.base, arguments.head, arguments.bench) == ("$(touch hacked)", "v 2", ["time_(a|b)"])
    steps = ACTION.split("runs:")[1]
    assert all("${{" not in line or re.match(r"        \w+: ", line) for line in steps.splitlines()), "an input would be code"


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_every_input_is_declared_and_used(name: str) -> None:
    assert re.search(rf"^  {name}:$", ACTION, re.M)
    assert f"inputs.{name} }}}}" in ACTION


def test_the_example_workflow_in_the_docs_is_short_and_uses_it() -> None:
    page = (ROOT / "docs" / "gate.md").read_text()
    workflow = next(block for block in re.findall(r"```yaml\n(.*?)```", page, re.S) if "benchmarks/gate@" in block)
    assert len(workflow.splitlines()) <= 25
    given = set(re.findall(r"^          (\w+): ", workflow.split("benchmarks/gate@")[1], re.M))
    assert given <= set(DEFAULTS)
    assert "base" in given
