"""A warning of this project fails a test, another one does not; each worker process reports its p-values."""

import subprocess
import sys
from pathlib import Path

import pytest
from own_warnings import own_lines

FOLDER = Path(__file__).parent

TESTS = """
import sys, types, warnings
import pytest
from taildropout import TailDropout

def foreign(name, message, category, stacklevel=1):
    module = types.ModuleType(name)
    exec("import warnings\\ndef warn(*args, **options): warnings.warn(*args, **options)", module.__dict__)
    module.warn(message, category, stacklevel=stacklevel)

def forgets_k():
    layer = TailDropout()
    layer.set_k(3)
    layer.eval()

def test_own_raised():
    forgets_k()

def test_own_expected():
    with pytest.warns(UserWarning, match="forgets k=3"):
        forgets_k()

def test_own_module():
    foreign("benchmarks.made_up", "slow", RuntimeWarning)

def test_own_name():
    foreign("torch.made_up", "taildropout should not do this", FutureWarning)

def test_own_attributed():
    warnings.warn_explicit("deprecated", DeprecationWarning, "layer.py", 1, module="taildropout.layer")

@pytest.mark.parametrize("category", [FutureWarning, RuntimeWarning, DeprecationWarning, UserWarning])
@pytest.mark.parametrize("name", ["torch.jit._script", "numpy.core", "torch._dynamo.guards"])
def test_foreign(name, category):
    foreign(name, "Guards may run slower on Python 3.13.0", category)
    foreign(name, "torch.jit.script is deprecated", category, stacklevel=2)
"""

LAW = """
@pytest.mark.parametrize("cell", range(6))
def test_cell(cell, family):
    family.judge(f"made-up cell {cell}", {"law": 0.5}, "a note")
"""


def run_tests(folder: Path, source: str, *options: str) -> str:
    """Return the output of pytest for the tests in `source`, with this project's settings."""
    (folder / "conftest.py").write_text((FOLDER / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "test_made_up.py").write_text(source, encoding="utf-8")
    config = FOLDER.parent / "pyproject.toml"
    code = (
        f"import sys; sys.path[:0] = {[str(FOLDER), str(FOLDER.parent)]!r}; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, "-c", str(config), "--rootdir", str(folder), *options, str(folder)]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("workers", ["-n0", pytest.param("-n2", marks=pytest.mark.slow)])
def test_own_warnings_fail_a_test_foreign_ones_do_not_and_the_p_values_of_every_process_are_reported(
    tmp_path: Path, workers: str
) -> None:
    output = run_tests(tmp_path, TESTS + LAW, workers)
    failed = {line.split()[1].partition("::")[2] for line in output.splitlines() if line.startswith("FAILED")}
    assert failed == {"test_own_raised", "test_own_module", "test_own_name", "test_own_attributed"}, output
    assert "4 failed, 19 passed" in output
    assert all(f"made-up cell {cell}" in output for cell in range(6)), output
    assert "6 p-values, the least 0.5" in output


def test_lines_of_torch_are_not_our_own() -> None:
    foreign = "[W1124 collection.cpp:1110] Warning: ROCTracer produced duplicate flow start (function operator())\n"
    foreign += "/home/me/my taildropout/.venv/lib/site-packages/torch/profiler.py:341: FutureWarning: with_modules\n"
    assert own_lines(foreign) == []
    own = [
        "File taildropout/layer.py, line 3",
        "Could not measure: no device",
        "Traceback (most recent call last):",
        "ValueError: k",
    ]
    assert own_lines(foreign + "\n".join(own)) == own
