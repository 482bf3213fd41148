"""The gate, installed alone: one command, without torch and without this repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WITHOUT_TORCH = """
import sys
sys.modules.update(torch=None, taildropout=None, benchmarks=None)  # importing them fails
from asv_gate.gate.__main__ import main
main(["compare", "--help"])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that nothing is left in the repository."""
    folder = tmp_path_factory.mktemp("alone")
    for part in ("gate", "system"):
        for file in (ROOT / "benchmarks" / part).rglob("*"):
            if file.suffix in (".py", ".toml") and "__pycache__" not in file.parts:
                copy = folder / "benchmarks" / file.relative_to(ROOT / "benchmarks")
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())
    words = [
        "wheel",
        "-q",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(folder / "benchmarks/gate"),
    ]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, cwd=folder)
    return next(folder.glob("*.whl"))


def test_it_holds_gate_and_system_and_one_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        points = next(archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
        metadata = next(archive.read(name).decode() for name in names if name.endswith("METADATA"))
    for part in ("gate", "system"):
        sources = {f"asv_gate/{part}/{path.name}" for path in (ROOT / "benchmarks" / part).glob("*.py")}
        assert sources <= names
    assert points.split() == ["[console_scripts]", "asv-gate", "=", "asv_gate.gate.__main__:main"]
    assert "torch" not in metadata


def test_it_runs_without_torch_and_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", WITHOUT_TORCH], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "BASE" in done.stdout
