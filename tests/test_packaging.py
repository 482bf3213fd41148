"""Built packages: the sdist is complete, a wheel's tag says if it has the C extension, version, changelog and tag agree."""

import importlib.metadata
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from packaging.version import Version

import taildropout
from taildropout import __main__ as about
from taildropout.selection import dispatch as selection

ROOT = Path(__file__).parents[1]
# The wheel's tests run in a copy without the package's source.
WHOLE = pytest.mark.skipif(
    not (ROOT / "taildropout" / "selection" / "_rows.c").exists(), reason="the package's source is not here"
)


def run(*words: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a copy of the files from which a wheel is built."""
    folder = tmp_path / "a new ü"
    shutil.copytree(ROOT / "taildropout", folder / "taildropout", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, folder)
    return folder


def wheel(source: Path, **environment: str) -> zipfile.ZipFile:
    """Build a wheel with pip and return it."""
    out = source.parent / "dist"
    shutil.rmtree(out, ignore_errors=True)
    words = ("-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(out), ".")
    run(sys.executable, *words, folder=source, **environment)
    (found,) = out.iterdir()
    return zipfile.ZipFile(found)


@WHOLE
@pytest.mark.history
def test_the_sdist_holds_all_that_git_holds(tmp_path: Path) -> None:
    tracked = set(run("git", "ls-files", "-z", folder=ROOT).split("\0")) - {""}
    for name in tracked:  # a copy of the files to commit, so that the build leaves nothing here
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tmp_path / "tree" / name)
    words = ("-c", "import setuptools.build_meta as build; print(build.build_sdist('.'))")
    archive = run(sys.executable, *words, folder=tmp_path / "tree").splitlines()[-1]
    with tarfile.open(tmp_path / "tree" / archive) as packed:
        held = {member.name.partition("/")[2] for member in packed.getmembers() if member.isfile()}
    assert tracked - held == set()
    extra = {name for name in held - tracked if not name.startswith("taildropout.egg-info/")}
    assert extra == {"PKG-INFO", "setup.cfg"}


@WHOLE
def test_a_wheel_is_for_one_platform_with_the_c_part_and_for_every_one_without(source: Path) -> None:
    if shutil.which("cc") or shutil.which("gcc"):
        made = wheel(source)
        assert re.search(r"-cp311-abi3-(?!any)\w+\.whl$", str(made.filename))
        assert "taildropout/selection/_rows.abi3.so" in made.namelist()
        assert list(source.glob("build/**/_rows*.so"))  # must not get into the next one
    made = wheel(source, CC="false", CXX="false")
    assert str(made.filename).endswith("-py3-none-any.whl")
    assert not [name for name in made.namelist() if name.endswith(".so")]
    text = next(made.read(name).decode() for name in made.namelist() if name.endswith("/WHEEL"))
    assert "Root-Is-Purelib: true" in text


def test_version_changelog_and_metadata_agree() -> None:
    version = Version(taildropout.__version__)
    assert importlib.metadata.version("taildropout") == str(version)
    newest = re.findall(r"^## v(\S+) \((.*)\)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)[0]
    assert newest[0] == version.base_version
    assert (newest[1] == "unreleased") is version.is_devrelease


@WHOLE
@pytest.mark.parametrize(
    ("version", "section", "tag", "complaint"),
    [
        ("1.2.3", "v1.2.3 (2030-01-02)", "v1.2.3", None),
        ("1.2.3.dev0", "v1.2.3 (unreleased)", "v1.2.3", "the tag is v1.2.3, the version 1.2.3.dev0"),
        ("1.2.3", "v1.2.3 (unreleased)", "v1.2.3", "has no section '## v1.2.3 (date)'"),
        ("1.2.3", "v1.2.3 (2030-01-02)", "v1.2.4", "tag v1.2.3, or set __version__"),
    ],
)
def test_a_tag_is_that_of_a_dated_version(tmp_path: Path, version: str, section: str, tag: str, complaint: str | None) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / "taildropout").mkdir()
    shutil.copy(ROOT / ".ci" / "wheel", tmp_path / ".ci")
    (tmp_path / "taildropout" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## {section}\n")
    words = ["bash", str(tmp_path / ".ci" / "wheel"), "check", tag]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == (complaint is not None)
    assert (complaint or "") in done.stdout


def test_what_is_installed_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "taildropout.__main__")  # which runpy warns of
    runpy.run_module("taildropout", run_name="__main__")
    told = dict(re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert told["taildropout"] == taildropout.__version__
    assert told["(1024, 512) on cpu"] == ("torch" if selection.why_no_rows else "rows in C")


def test_why_the_c_part_is_not_in_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_rows", None)
    monkeypatch.setattr(selection, "why_no_rows", "not in use: no such module")
    assert re.search(r"^rows in C +not in use: no such module$", about.report(), re.MULTILINE)
    assert re.search(r"\(1024, 512\) on cpu +torch$", about.report(), re.MULTILINE)


def test_why_the_triton_kernel_is_not_in_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GPU that Triton does not serve, the report must not say that the kernel is in use."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert about._triton_kernel() == "not in use: torch finds no CUDA device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(selection, "_kernels", {torch.device("cuda", 0): None})
    monkeypatch.setattr(about, "find_spec", lambda name: None)
    assert about._triton_kernel() == "not in use: Triton is not installed"
    monkeypatch.setattr(about, "find_spec", lambda name: name)
    assert about._triton_kernel().startswith("not in use: Triton does not work here")
    monkeypatch.setattr(selection, "_kernels", {torch.device("cuda", 0): selection})
    assert about._triton_kernel().startswith("in use on GPUs")


@WHOLE
def test_a_report_of_something_wrong_asks_for_it() -> None:
    assert "python -m taildropout" in (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug_report.yml").read_text("utf-8")
