"""The table of versions: how a run is read, when it is not repeated, and that the workflow tests the same versions."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]

REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_a" name="test_one"/>
<testcase classname="tests.test_a" name="test_two"><failure message="1 != 2"/></testcase>
<testcase classname="tests.test_a" name="test_three"><error message="no fixture"/></testcase>
<testcase classname="tests.test_a" name="test_four"><skipped message="needs a | GPU"/></testcase>
<testcase classname="tests.test_a" name="test_five"><skipped message="needs a | GPU"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def matrix(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Load the script as a module."""
    script = ROOT / ".ci" / "matrix.py"
    spec = importlib.util.spec_from_file_location("matrix_of_versions", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def made(matrix: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, ...]]:
    """Replace `make` by a function that writes a report; return the list of its calls."""
    calls: list[tuple[str, ...]] = []

    def make(*words: str) -> int:
        calls.append(words)
        if words[0] == "environment":
            program = tmp_path / "oldest" / "bin" / "python"
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text("#!/bin/sh\necho 3.11.7 2.8.0\n")
            program.chmod(0o755)
        else:
            Path(words[2].removeprefix("REPORT=")).write_text(
                REPORT if len(calls) == 2 else REPORT.replace("failure", "x").replace("error", "x")
            )
        return 0

    monkeypatch.setattr(matrix, "make", make)
    monkeypatch.setattr(matrix, "source", lambda: "of now")
    return calls


def test_a_report_is_counted_and_each_reason_told(matrix: ModuleType, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    result = matrix.read(report, matrix.Result("oldest", "3.11.7", "2.8.0", False, "source"))
    assert (result.passed, result.failed, result.skipped) == (1, 2, 2)
    assert result.failures == ["tests.test_a::test_two", "tests.test_a::test_three"]
    text = matrix.table([result], ["3.14"])
    assert "| oldest | 3.11.7 | 2.8.0 | 1 | 2 | 2 | source | 2 × needs a \\| GPU |" in text
    assert "Not tried: Python 3.14 (not installed)" in text


def test_what_failed_runs_again_and_what_passed_on_this_source_does_not(
    matrix: ModuleType, made: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run() -> Any:
        return matrix.run("oldest", sys.executable, "2.8.0", tmp_path, False)

    assert (run().failed, len(made)) == (2, 2)
    assert (run().failed, len(made)) == (0, 4)
    assert (run().failed, len(made)) == (0, 4)
    monkeypatch.setattr(matrix, "source", lambda: "changed")
    run()
    assert len(made) == 6


def test_a_table_of_one_version_keeps_the_last_results_of_the_others(
    matrix: ModuleType, made: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table, earlier = tmp_path / "table.md", matrix.Result("newest", "3.11.7", "2.14.1", False, "earlier", passed=7)
    (tmp_path / "newest.json").write_text(json.dumps(asdict(earlier)))
    monkeypatch.setattr(matrix, "source", lambda: "now")
    monkeypatch.setattr(sys, "argv", ["matrix.py", "--only", "oldest", "--home", str(tmp_path), "--write", str(table)])
    matrix.main()
    rows = [line.split(" | ") for line in table.read_text().splitlines() if line.startswith(("| oldest", "| newest"))]
    assert [(row[0], row[6]) for row in rows] == [("| oldest", "now"), ("| newest", "earlier")]


def test_an_environment_that_cannot_be_made_ends_the_run(
    matrix: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(matrix, "make", lambda *words: 2)
    with pytest.raises(SystemExit, match="oldest: the environment could not be made"):
        matrix.run("oldest", sys.executable, "2.8.0", tmp_path, False)


def test_a_name_that_is_not_there_is_an_error_that_lists_those_that_are(
    matrix: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["matrix.py", "--only", "eldest"])
    with pytest.raises(SystemExit):
        matrix.main()
    assert "--only eldest: there are oldest, pinned, newest" in capsys.readouterr().err


def test_the_tests_of_the_package_are_those_of_no_other_part(matrix: ModuleType) -> None:
    folder = ROOT / matrix.PACKAGE_TESTS
    names = {path.name for path in folder.rglob("test_*.py")}
    assert {"test_layer.py", "test_law.py", "test_mlp.py", "test_widths.py", "test_pruning.py", "test_compile.py"} <= names
    assert not {path for path in folder.rglob("test_*.py") if "import benchmarks" in path.read_text("utf-8")}


def test_the_tests_of_the_package_do_not_replace_the_whole(
    matrix: ModuleType, made: list[tuple[str, ...]], tmp_path: Path
) -> None:
    """CI runs only the package's tests in the environments of `make matrix`, and must not replace the full results."""
    for package_only in (False, True):
        while matrix.run("oldest", sys.executable, "2.8.0", tmp_path, package_only).failed:
            pass
    done = len(made)
    assert not matrix.run("oldest", sys.executable, "2.8.0", tmp_path, False).package_only
    assert matrix.run("oldest", sys.executable, "2.8.0", tmp_path, True).package_only
    assert len(made) == done


def test_what_a_result_belongs_to_is_every_file_but_the_table(
    matrix: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(matrix, "ROOT", tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "guide.md").write_text("One")
    before = matrix.source()
    (tmp_path / "docs" / "compatibility.md").write_text("A table")
    assert matrix.source() == before
    (tmp_path / "docs" / "guide.md").write_text("Two")
    assert matrix.source() != before


@pytest.fixture
def jobs() -> dict[str, Any]:
    """Return the jobs of the workflow that runs the tests."""
    found: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8"))["jobs"]
    return found


def test_the_workflow_tries_the_versions_of_the_table(matrix: ModuleType, jobs: dict[str, Any]) -> None:
    from taildropout import _torch

    assert matrix.oldest() == f"{_torch.OLDEST}.0"
    tried = [(each["python"], each["torch"]) for each in jobs["versions"]["strategy"]["matrix"]["include"]]
    setup = next(step for step in jobs["ci"]["steps"] if "setup-python" in step.get("uses", ""))
    base = setup["with"]["python-version"]  # whose pinned torch `.ci/run` tests
    table = [(base, matrix.oldest()), (base, "newest"), *((each, "pinned") for each in matrix.PYTHONS if each != base)]
    assert base in matrix.PYTHONS
    assert [each for each in table if each not in tried] == []
    beyond = [each for each in tried if each not in table]
    assert {python for python, _ in beyond} <= {*matrix.PYTHONS}
    assert {torch for _, torch in beyond} <= {"newest", "nightly"}


def test_the_workflow_takes_builds_for_cpus(jobs: dict[str, Any]) -> None:
    """Each job uses the index in the repository's variable TORCH_INDEX; pip ignores an empty value."""
    for name, job in jobs.items():
        assert any("vars.TORCH_INDEX" in value for value in job["env"].values()), name
    environment = {**os.environ, "TORCH_INDEX": "https://example.org/cpu"}
    words = ["make", "-n", "environment", "TORCH=2.8.0"]
    shown = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, env=environment).stdout
    assert re.search(r'--extra-index-url "https://example\.org/cpu"[\s\\]+torch==2\.8\.0', shown)
