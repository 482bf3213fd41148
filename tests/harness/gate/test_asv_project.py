"""What is read of asv.conf.json, and which words name a requirement."""

import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from gate.foreign_project import git

from benchmarks import ROOT
from benchmarks.gate.__main__ import main
from benchmarks.gate.asv_project import INSTALL, Project, read_project, suite_alone
from benchmarks.gate.environments import (
    Builder,
    environment_of,
    is_requirement,
    stands_beside,
)
from benchmarks.gate.foreign import cores, installed_differences, repository_of, select
from benchmarks.gate.lockstep import LONGEST_ROUND, Plan
from benchmarks.gate.versions import Version
from benchmarks.system.errors import CannotMeasure
from benchmarks.system.git import GitError, UnknownRevision, resolve


def written(folder: Path, **more: Any) -> Path:
    """Write an asv.conf.json with a comment."""
    (folder / "asv.conf.json").write_text("// a comment\n" + json.dumps({"version": 1, "repo": ".", "project": "small"} | more))
    return folder


def test_asv_defaults_hold_where_nothing_is_set(tmp_path: Path) -> None:
    project = read_project(written(tmp_path), {})
    assert (project.name, project.suite, project.timeout, project.install_timeout) == ("small", "benchmarks", 60.0, 600.0)
    assert project.install == INSTALL
    assert project.python == sys.executable
    assert not project.requirements


MATRIX = {"req": {"numpy": ["1.26", "2.0"], "pip+six": []}, "env": {"FLAGS": ["a"]}, "env_nobuild": {"THREADS": ["1", "4"]}}


def test_the_first_combination_of_the_matrix_is_taken(tmp_path: Path) -> None:
    project = read_project(written(tmp_path, matrix=MATRIX, build_command="make"), {})
    assert project.requirements == {"numpy": "1.26", "pip+six": ""}
    assert (project.build_env, project.env) == ({"FLAGS": "a"}, {"FLAGS": "a", "THREADS": "1"})
    assert project.build == ["make"]


def test_another_combination_can_be_chosen(tmp_path: Path) -> None:
    project = read_project(written(tmp_path, matrix=MATRIX), {"numpy": "2.0", "THREADS": "4"})
    assert (project.requirements["numpy"], project.env["THREADS"]) == ("2.0", "4")


def test_a_combination_without_a_requirement_can_be_chosen(tmp_path: Path) -> None:
    matrix = {"req": {"numpy": ["1.26", None], "scipy": ["1.11"]}}
    assert read_project(written(tmp_path, matrix=matrix), {"numpy": "null"}).requirements == {"scipy": "1.11"}


def test_an_excluded_combination_is_none(tmp_path: Path) -> None:
    exclude = [{"req": {"numpy": "1.26"}}]
    assert read_project(written(tmp_path, matrix=MATRIX, exclude=exclude), {}).requirements["numpy"] == "2.0"


@pytest.mark.parametrize(
    ("more", "chosen", "message"),
    [
        ({"matrix": MATRIX}, {"nmupy": "null"}, "none of the 4 combinations of the matrix has nmupy=null"),
        ({"matrix": "foo"}, {}, "matrix is 'foo', but must map names to lists of values"),
        ({"matrix": {"req": "numpy"}}, {}, "req is 'numpy', but must map names to lists of values"),
        ({"pythons": 3.11}, {}, "pythons is 3.11, but must be a list of texts"),
        ({"project": 3}, {}, "project is 3, but must be a text"),
        ({"benchmark_dir": 7}, {}, "benchmark_dir is 7, but must be a text"),
        ({"matrix": MATRIX}, {"numpy": "9"}, "none of the 4 combinations of the matrix has numpy=9"),
        ({"pythons": ["2.5"]}, {}, "there is no Python 2.5 here"),
        ({"matrix": {"req": {}, "typo": {}}}, {}, "Unknown keys"),
        ({"repo": ""}, {}, "No repo specified"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, more: dict[str, Any], chosen: dict[str, str], message: str) -> None:
    with pytest.raises(CannotMeasure, match=message):
        read_project(written(tmp_path, **more), chosen)


def test_a_folder_without_configuration_is_said(tmp_path: Path) -> None:
    with pytest.raises(CannotMeasure, match="holds no asv"):
        read_project(tmp_path, {})
    (tmp_path / "asv.conf.json").write_text("{not json")
    with pytest.raises(CannotMeasure, match="is no configuration of asv"):
        read_project(tmp_path, {})


@pytest.mark.parametrize("text", ["packaging==24.0", "torch>=2", "a[b]~=1.0", "name @ file:///x.whl", "x!=3"])
def test_requirements(text: str) -> None:
    assert is_requirement(text)


@pytest.mark.parametrize("text", ["main", "v1.0", "HEAD~3", "main@{1}", "feature/x", "abc1234^", "missing.whl"])
def test_revisions(text: str) -> None:
    assert not is_requirement(text)


def test_both_sides_have_the_same_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And none that would make one environment see another."""
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    project = read_project(written(tmp_path, matrix=MATRIX), {})
    base, head = (Builder(project, tmp_path / side, float("inf"), Event()) for side in ("base", "head"))
    assert base.shared == head.shared == environment_of(project)
    assert "PYTHONPATH" not in base.shared
    assert {base.shared[name] for name in ("PYTHONHASHSEED", "OMP_NUM_THREADS", "LC_ALL")} == {"0", "1", "C.UTF-8"}


def case(name: str, **more: Any) -> dict[str, Any]:
    """Return a benchmark as the worker describes it."""
    return {"name": name, "type": "time", "unit": "seconds"} | more


def test_benchmarks_are_chosen_by_any_pattern() -> None:
    found = {"cases": [case("a.time_x(1)"), case("a.time_y"), case("b.time_z")], "lacking": {"b.time_no": "why"}, "failed": {}}
    cases, rows = select(found, ["time_x", "^b"])
    assert list(cases) == ["a.time_x(1)", "b.time_z"]
    assert [(row.case, row.verdict, row.note) for row in rows] == [("b.time_no", "INCOMPARABLE", "why")]


def test_memory_without_pympler_is_not_comparable_and_says_why() -> None:
    found = {"cases": [case("mem_x", type="not available", unit="it needs pympler")], "lacking": {}, "failed": {}}
    cases, (row,) = select(found, [""])
    assert not cases
    assert (row.verdict, row.note) == ("INCOMPARABLE", "it needs pympler")


def test_a_pattern_that_gives_nothing_is_said() -> None:
    with pytest.raises(CannotMeasure, match="no benchmark of the suite matches nothing"):
        select({"cases": [case("a")], "lacking": {"b": ""}, "failed": {}}, ["nothing"])


def test_what_cannot_be_done_is_said_before_anything_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    git(tmp_path, "init", "--quiet")
    written(tmp_path)
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "-m", "one")
    suite = f"--suite={tmp_path}"
    (tmp_path / "file").write_text("")
    for words, message in [
        (["HEAD", "--bench=("], "'(' is no regular expression"),
        (["HEAD", "--cores=0"], "'0' is no number of cores; give 1 or more"),
        (["HEAD", "--threshold=banana"], "'banana' is no fraction of a time"),
        (["HEAD", f"--json={tmp_path}"], f"--json={tmp_path} is a folder; give another file"),
        (["HEAD", f"--junit={tmp_path}/file/x"], f"/file/x cannot be written: {tmp_path}/file: Not a directory; give"),
        (["HEAD", "--json=/proc/x"], "--json=/proc/x cannot be written: /proc: "),
        (["HEAD", "--json=x", "--junit=x"], "--junit and --json name the same file, x; give another file"),
        (["a==1", suite], "HEAD is missing: give a second release beside a==1"),
        (["a==1", "HEAD", f"--project={tmp_path}"], "a==1 and HEAD differ in two things, a and small; change one at a time"),
        (["a==1", "b==1", f"--project={tmp_path}"], "a==1 and b==1 are releases of two packages; give two of one"),
        (["HEAD", "mian", f"--project={tmp_path}"], "'mian' names no commit"),
        (["a==1", "a==2", suite, "--set=numpy=1"], "--set picks from the matrix"),
        (["HEAD", f"--project={tmp_path}"], "benchmark_dir 'benchmarks' is not in head nor in"),
        (["HEAD", "HEAD", f"--project={tmp_path}"], "benchmark_dir 'benchmarks' is not in head nor in"),
    ]:
        try:
            code = main(["compare", *words])
        except SystemExit as stop:  # argparse
            code = int(str(stop.code))
        error = capsys.readouterr().err
        assert (code, message in error) == (2, True), error


def test_an_error_of_git_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownRevision, match="is no git repository; versions are taken from its history"):
        resolve("HEAD", tmp_path)
    git(tmp_path, "init", "--quiet")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own switch for this
    with pytest.raises(GitError, match=r"dubious ownership .*safe\.directory"):
        resolve("HEAD", tmp_path)


def test_an_unexpected_error_has_not_the_exit_code_of_a_slowdown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.gate.foreign.compare_versions", lambda arguments: 1 / 0)
    assert main(["compare", "HEAD"]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("repo", ["inner", "file://{folder}/inner"])
def test_versions_come_from_the_repository_that_the_configuration_names(tmp_path: Path, repo: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    git(inner, "init", "--quiet")
    git(inner, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "--allow-empty", "-m", "one")
    git(tmp_path, "init", "--quiet")
    project = read_project(written(tmp_path, repo=repo.format(folder=tmp_path)), {})
    found = repository_of(project, tmp_path / "temporary")
    assert resolve("HEAD", found) == resolve("HEAD", inner)


def test_a_url_of_the_own_repository_is_not_cloned(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "remote", "add", "upstream", "https://nowhere.invalid/x.git")
    project = read_project(written(tmp_path, repo="https://nowhere.invalid/x.git"), {})
    assert repository_of(project, tmp_path / "temporary") == tmp_path.resolve()


def test_programs_come_from_the_version_that_is_measured(tmp_path: Path) -> None:
    builder = Builder(read_project(written(tmp_path), {}), tmp_path / "base", float("inf"), Event())
    environment = builder.environment(Version("label", "commit", False, tmp_path, "digest"), None)
    assert environment.env["PATH"].split(os.pathsep)[0] == str(tmp_path / "base" / "env" / "bin")


def test_a_wheel_is_known_by_its_bytes_and_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    digests, installed = set(), []
    for text in ("one", "other"):
        Path("a-1-py3-none-any.whl").write_text(text)
        builder = Builder(read_project(written(tmp_path), {}), tmp_path / text, float("inf"), Event())
        monkeypatch.setattr(builder, "call", lambda words, trouble: installed.append(words[-1]))
        digests.add(builder.from_index("a-1-py3-none-any.whl").version.digest)
    assert len(digests) == 2
    assert set(installed) == {str(tmp_path / "a-1-py3-none-any.whl")}


def test_another_python_is_named_only_if_it_is_there(tmp_path: Path) -> None:
    with pytest.raises(CannotMeasure, match=r"install it$"):
        read_project(written(tmp_path, pythons=["2.5"]), {})
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    with pytest.raises(CannotMeasure, match=rf"or pick --set python={own}$"):
        read_project(written(tmp_path, pythons=["2.5", own]), {})


def calibrated(number: int, repeats: int, call: float) -> dict[str, float]:
    """Return what a side's calibration gives for a call of so many seconds."""
    seconds = number * repeats * call
    return {"number": number, "repeats": repeats, "seconds": seconds, "timed": seconds}


def test_a_side_that_is_very_much_slower_has_no_endless_rounds() -> None:
    plan = Plan.of([calibrated(10_000, 10, 5e-8), calibrated(1, 5, 1e-3)], 0.0)
    assert (plan.number, plan.seconds) == (1, pytest.approx(LONGEST_ROUND, rel=0.01))
    alike = Plan.of([calibrated(100, 10, 5e-6), calibrated(80, 10, 6e-6)], 0.0)
    assert (alike.number, alike.repeats, alike.seconds) == (80, 13, pytest.approx(80 * 13 * 6e-6))


def test_never_more_cores_than_there_are() -> None:
    there = os.sched_getaffinity(0)
    assert len(cores(10_000)) <= len(there)
    assert set(cores(None)) <= {*there, None}
    assert len(cores(1)) == 1


def test_differences_between_environments_are_named() -> None:
    def side(**installed: str) -> dict[str, Any]:
        return {"installed": installed}

    environment = {"base": side(numpy="1", same="1"), "head": side(numpy="2", same="1", new="3")}
    assert installed_differences(environment) == "new none → 3, numpy 1 → 2"


def test_the_suite_alone_is_a_project(tmp_path: Path) -> None:
    project: Project = suite_alone(tmp_path / "suite")
    assert (project.suite, dict(project.requirements)) == (str(tmp_path / "suite"), {})


@pytest.mark.parametrize(
    ("name", "label", "beside"),
    [
        ("small", "torch==2.0", True),
        ("small", "torch @ https://nowhere.invalid/small-1-py3-none-any.zip", True),
        ("My_package", "my.package[extra]==1.0", False),
        ("small", "main", False),
        ("small", None, False),
    ],
)
def test_only_a_release_of_another_package_has_the_project_beside_it(
    tmp_path: Path, name: str, label: str | None, beside: bool
) -> None:
    assert stands_beside(read_project(written(tmp_path, project=name), {}), label) is beside


def test_a_suite_alone_has_nothing_to_install_beside_a_release(tmp_path: Path) -> None:
    assert not stands_beside(suite_alone(tmp_path / "suite"), "torch==2.0")


@pytest.mark.parametrize("redirected", ["| head -0", ">&-"])
def test_a_closed_standard_output_has_not_the_exit_code_of_a_slowdown(tmp_path: Path, redirected: str) -> None:
    words = f"'{sys.executable}' -m benchmarks.gate compare a==1 b==1 --suite '{tmp_path}'"
    # Long enough that `head` has ended before anything is written.
    script = f"set -o pipefail; (sleep 1; {words} --cores 1) {redirected}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "standard output" in done.stderr
