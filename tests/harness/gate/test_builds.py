"""What is said of a version that cannot be built."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
from gate.foreign_project import git
from gate.test_asv_project import written

from benchmarks.gate import environments
from benchmarks.gate.asv_project import read_project, suite_alone
from benchmarks.gate.environments import Builder, BuildFailed, build, check_out, environment_of, telling_lines
from benchmarks.system.git import changed

PIP = """$ python -m pip wheel .
  Building wheel for bp (pyproject.toml): finished with status 'error'
  error: subprocess-exited-with-error
  × Building wheel for bp (pyproject.toml) did not run successfully.
      bp.c:2:71: error: ‘undeclared_thing’ undeclared here (not in a function)
      error: command '/usr/bin/gcc' failed with exit code 1
  note: This error originates from a subprocess, and is likely not a problem with pip.
  ERROR: Failed building wheel for bp
error: failed-wheel-build-for-install
"""


def test_a_failed_build_is_told_by_the_lines_of_the_compiler() -> None:
    assert telling_lines(PIP) == [
        "bp.c:2:71: error: ‘undeclared_thing’ undeclared here (not in a function)",
        "error: command '/usr/bin/gcc' failed with exit code 1",
    ]
    inner = PIP.replace("      bp.c:2", "      [1 line of output]\n      no build\n      [end of output]\n      bp.c:2")
    assert telling_lines(inner) == ["no build"]
    assert telling_lines("$ make\none\ntwo\n\nthree\nno rule to make it") == ["two", "three", "no rule to make it"]


def test_a_working_tree_that_does_not_build_is_named(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    project = read_project(written(tmp_path, build_command=["python -c 'raise RuntimeError(7)'"]), {})
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "-m", "one")
    (tmp_path / "more").write_text("")
    with pytest.raises(BuildFailed, match=r"^working tree \(\w{8} with changes\) cannot be built: .*RuntimeError: 7$"):
        build(project, None, tmp_path / "head", tmp_path, float("inf"), Event())


def test_a_working_tree_keeps_its_links(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("text")
    for link, place in {"folder": "data", "one": "data/file", "nowhere": "missing"}.items():
        (tmp_path / link).symlink_to(place)
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "-m", "one")
    check_out(None, tmp_path / "version" / "src", tmp_path)
    sources = tmp_path / "version" / "src"
    assert {link: os.readlink(sources / link) for link in ("folder", "one", "nowhere")} == {
        "folder": "data",
        "one": "data/file",
        "nowhere": "missing",
    }
    assert not changed(["."], sources)


def test_submodules_are_fetched_within_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {"COUNT": "1", "KEY_0": "protocol.file.allow", "VALUE_0": "always"}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{variable}", value)
    who = "-c", "user.name=t", "-c", "user.email=t@localhost"
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    for folder in (inner, outer):
        folder.mkdir()
        git(folder, "init", "--quiet")
        git(folder, *who, "commit", "--quiet", "--allow-empty", "-m", "one")
    (inner / "file").write_text("")
    git(inner, "add", ".")
    git(inner, *who, "commit", "--quiet", "-m", "two")
    git(outer, "submodule", "--quiet", "add", str(inner), "part")
    git(outer, *who, "commit", "--quiet", "-m", "two")
    project = read_project(written(outer, build_command=["ls part/file"], install_command=["ls part/file"]), {})
    build(project, "HEAD", tmp_path / "base", outer, float("inf"), Event())
    with pytest.raises(BuildFailed, match="the budget was spent"):
        build(project, "HEAD", tmp_path / "late", outer, 0.0, Event())
    (inner / ".git").rename(tmp_path / "gone")
    with pytest.raises(BuildFailed, match=r"^the submodules of HEAD \(\w{8}\) cannot be fetched: git gave exit code"):
        build(project, "HEAD", tmp_path / "never", outer, float("inf"), Event())


def test_requirements_that_a_release_breaks_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "other 1 requires missing, which is not installed.\nsmall 1 has requirement my_dep>=2, but you have my-dep 1.\n"
    monkeypatch.setattr(environments, "run_logged", lambda *words: words[-1].write_text(said))
    builder = Builder(suite_alone(tmp_path), tmp_path, float("inf"), Event())
    assert builder.conflicts("My.Dep") == "small 1 has requirement my_dep>=2, but you have my-dep 1."
    assert builder.conflicts("numpy") == ""


def test_a_build_that_the_budget_ends_says_so(tmp_path: Path) -> None:
    project = suite_alone(tmp_path)
    builder = Builder(project, tmp_path, time.monotonic() + 1, Event())
    with pytest.raises(BuildFailed, match="the budget was spent before both versions were built; give more --budget"):
        builder.call([sys.executable, "-c", "import time; time.sleep(100)"], "cannot wait")
    builder = Builder(replace(project, install_timeout=1.0), tmp_path, float("inf"), Event())
    with pytest.raises(BuildFailed, match=r"cannot wait: it was not done after 1 s: .*, the install_timeout"):
        builder.call([sys.executable, "-c", "import time; time.sleep(100)"], "cannot wait")


def test_variables_that_move_an_installation_do_not_reach_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = suite_alone(tmp_path)
    for name in ("PIP_TARGET", "PIP_USER", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, "kept")
    assert {name: value for name, value in environment_of(project).items() if value == "kept"} == {"PIP_INDEX_URL": "kept"}
