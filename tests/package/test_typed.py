"""The types that users' type checkers see: a script with every public name passes mypy and pyright, both strict, and runs."""

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.torch_version import TorchVersion

import taildropout

SCRIPT = Path(__file__).with_name("typed_user.py")


# Where type checkers find the package if it is the source tree; one that is installed they find themselves.
SOURCE = [str(path) for path in [Path(taildropout.__file__).parents[1]] if path.name != "site-packages"]


def run(*words: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    (folder / "script.py").write_text(SCRIPT.read_text("utf-8"))
    environment = {**os.environ, "MYPYPATH": os.pathsep.join(SOURCE)}
    words = (sys.executable, "-m", *words)
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def test_the_script_has_every_public_name() -> None:
    text = SCRIPT.read_text("utf-8")
    assert not [name for name in [*taildropout.__all__, *taildropout.baselines.__all__] if name not in text]


def test_the_script_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(SCRIPT), run_name="__main__")
    parameters, *outputs = map(int, capsys.readouterr().out.split())
    assert parameters <= 4 * 8 + 8 + 8 * 2 + 2
    assert outputs == [6, 6]


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("mypy"), reason="mypy is not installed: make setup installs it")
def test_mypy_strict_finds_nothing(tmp_path: Path) -> None:
    cache = (
        Path(__file__).parents[2] / ".mypy_cache" / "user"
    )  # other options than those of `make lint`, which would make that one anew
    done = run(
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--no-error-summary",
        "--cache-dir",
        str(cache),
        "script.py",
        folder=tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.skipif(not importlib.util.find_spec("pyright"), reason="pyright is not installed: make setup installs it")
def test_pyright_strict_finds_nothing(tmp_path: Path) -> None:
    settings = {"typeCheckingMode": "strict", "include": ["script.py"], "extraPaths": SOURCE}
    if torch.__version__ < TorchVersion("2.13"):  # torch 2.8 leaves some of its own members without types
        settings["reportUnknownMemberType"] = False
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = run("pyright", "--pythonpath", sys.executable, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 errors, 0 warnings" in done.stdout
