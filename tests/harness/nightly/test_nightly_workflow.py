"""The workflow that starts the nightly job, and the pinning of every workflow's actions."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import __main__ as command

ROOT = Path(__file__).parents[3]
WORKFLOWS = ROOT / ".github" / "workflows"


@pytest.fixture(scope="module")
def workflow() -> dict[Any, Any]:
    """The content of nightly.yml."""
    content: dict[Any, Any] = yaml.safe_load((WORKFLOWS / "nightly.yml").read_text())
    return content


def test_every_action_is_pinned_by_commit_with_its_version_beside_it() -> None:
    for file in WORKFLOWS.glob("*.yml"):
        used = re.findall(r"uses: (.*)", file.read_text())
        assert used
        assert not [action for action in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)]


def test_the_job_may_write_results_and_issues_and_uses_no_secret(workflow: dict[Any, Any]) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert job["permissions"] == {"contents": "write", "issues": "write"}
    assert "secrets" not in (WORKFLOWS / "nightly.yml").read_text()
    assert job["env"]["GH_TOKEN"] == "${{ github.token }}"


def test_the_job_runs_by_schedule_and_by_hand_and_one_at_a_time(workflow: dict[Any, Any]) -> None:
    assert set(workflow[True]) == {"schedule", "workflow_dispatch"}  # YAML reads the key `on` as true
    assert workflow["concurrency"]["cancel-in-progress"] is False
    (job,) = workflow["jobs"].values()
    assert "CUDA_RUNNER" in job["runs-on"]
    assert '["cpu", "cuda"]' in job["strategy"]["matrix"]["device"]


def test_the_steps_are_commands_that_exist_and_leave_time_to_report(workflow: dict[Any, Any]) -> None:
    (job,) = workflow["jobs"].values()
    runs = {step["run"].split()[0]: step for step in job["steps"] if "run" in step}
    assert set(runs) == {"sudo", "make", ".venv/bin/python", "python3"}
    night = runs[".venv/bin/python"]
    args = night["run"].replace('"$DEVICE"', "cpu").replace('"$BUDGET"', "5h").split()
    assert command.parser("nightly").parse_args(args[3:]).issues
    assert runs["make"]["run"] == "make setup"
    assert re.search(r"^setup:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert runs["python3"]["run"] == 'python3 -m benchmarks.nightly.github_issues "$DEVICE"'
    assert runs["python3"]["if"] == "failure() && steps.night.outputs.reported != 'true'"
    assert night["id"] == "night"
    budget = command.parser("nightly").parse_args(["nightly", "--budget", night["env"]["BUDGET"].split("'")[1]]).budget
    assert budget < 60 * night["timeout-minutes"] < 60 * job["timeout-minutes"] < 6 * 3600
    expressions = re.findall(r"\$\{\{.*?\}\}", night["run"])
    assert expressions == [], "an expression in a shell line can inject commands; pass it in the environment"
