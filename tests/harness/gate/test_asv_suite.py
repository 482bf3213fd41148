"""How the benchmarks of a suite are found, and what a suite that misbehaves costs the others."""

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gate import asv_process, lockstep
from benchmarks.gate.asv_process import Context, copy_runner, discover
from benchmarks.gate.asv_project import suite_alone
from benchmarks.gate.asv_suite import brief
from benchmarks.gate.environments import Environment, environment_of
from benchmarks.gate.pairs import PairComparison
from benchmarks.gate.versions import Version
from benchmarks.system.errors import CannotMeasure


def this_environment(suite: Path) -> Environment:
    """Return the environment in which this test runs."""
    version = Version("head", "0" * 40, False, suite, "")
    return Environment(version, Path(sys.executable), environment_of(suite_alone(suite)), None)


def test_a_module_that_hangs_or_dies_takes_no_other_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = tmp_path / "suite"
    (suite / "inner").mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "a_good": "def time_a(): pass",
        "b_hangs": "import time\ntime.sleep(100)",
        "c_dies": "import os\nos._exit(3)",
        "d_good": "def time_d(): pass",
        "e_raises": "1 / 0",
        "inner/__init__": "import os\nos._exit(4)",
        "inner/never": "1 / 0",
    }.items():
        (suite / f"{name}.py").write_text(text)
    monkeypatch.setattr(asv_process, "STARTING", 3.0)
    head = this_environment(suite)
    found = discover(Context(tmp_path, copy_runner(tmp_path / "runner"), suite, 5.0, float("inf")), head)
    assert [case["name"] for case in found["cases"]] == ["a_good.time_a", "d_good.time_d"]
    begin = "it cannot be imported: "
    assert found["failed"] == {
        "b_hangs": f"{begin}it hangs: no result after 3 s",
        "c_dies": f"{begin}its process died (exit code 3)",
        "e_raises": f"{begin}ZeroDivisionError: division by zero",
        "inner": f"{begin}its process died (exit code 4)",
    }
    context = Context(tmp_path, tmp_path / "runner", suite, 5.0, time.monotonic() + 3)
    with pytest.raises(CannotMeasure, match=r"budget was spent .*; importing suite\.b_hangs took the last of it; give more"):
        discover(context, head)


def test_a_module_that_hangs_in_base_alone_is_imported_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / "__init__.py").write_text("")
    hang = "    open(os.environ['HANG'], 'a').write('x')\n    time.sleep(100)\n"
    cached = "class C:\n    def setup_cache(self): return 1\n    def time_c(self, cache): pass\n"
    (suite / "b.py").write_text(
        f"import os, time\nif 'HANG' in os.environ:\n{hang}def time_a(): pass\ndef time_b(): pass\n{cached}"
    )
    monkeypatch.setattr(lockstep, "STARTING", 3.0)
    shared = Context(tmp_path, copy_runner(tmp_path / "runner"), suite, 60.0, float("inf"))
    head = this_environment(suite)
    base = replace(head, env={**head.env, "HANG": str(tmp_path / "imports")})
    comparison = PairComparison(shared, base, head, {one["name"]: one for one in discover(shared, head)["cases"]}, [None])
    comparison.try_all()
    why = {"base": "its module cannot be imported: it hangs: no result after 3 s"}
    assert comparison.lacking == dict.fromkeys(("b.C.time_c", "b.time_a", "b.time_b"), why)
    assert (tmp_path / "imports").read_text() == "x"


def test_a_benchmark_whose_file_its_name_does_not_tell_needs_no_other_module(tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    (suite / "sub").mkdir(parents=True)
    (suite / "__init__.py").write_text("")
    (suite / "broken.py").write_text("1 / 0")
    (suite / "sub" / "__init__.py").write_text("def time_a(): pass\n")
    shared = Context(tmp_path, copy_runner(tmp_path / "runner"), suite, 60.0, float("inf"))
    head = this_environment(suite)
    comparison = PairComparison(shared, head, head, {one["name"]: one for one in discover(shared, head)["cases"]}, [None])
    comparison.try_all()
    assert (sorted(comparison.plans), comparison.failures) == (["sub.time_a"], {})


def test_a_set_up_of_a_cache_that_hangs_has_its_own_timeout(tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / "__init__.py").write_text("")
    text = "import time\nclass A:\n    def setup_cache(self):\n        time.sleep(100)\n    def time_a(self, cache): pass\n"
    (suite / "b.py").write_text(text + "    setup_cache.timeout = 1.5\n")
    shared = Context(tmp_path, copy_runner(tmp_path / "runner"), suite, 60.0, float("inf"))
    head = this_environment(suite)
    comparison = PairComparison(shared, head, head, {one["name"]: one for one in discover(shared, head)["cases"]}, [None])
    comparison.try_all()
    assert comparison.failures == {"b.A.time_a": "both: setup_cache: it hangs: no result after 1.5 s"}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "MemoryError"),
        (ValueError("one\ntwo"), "ValueError: one"),
        (RuntimeError("Subprocess failed: Traceback (most recent call last):\n  File\nSyntaxError: invalid syntax\n"),
         "RuntimeError: SyntaxError: invalid syntax"),
    ],
)  # fmt: skip
def test_an_error_is_told_by_its_type_and_one_line(error: Exception, text: str) -> None:
    assert brief(error) == text


def test_a_benchmark_that_closes_standard_output_fails_no_other(tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / "__init__.py").write_text("")
    closes = "def time_a(): sys.stdout.close()\ndef time_b(): os.close(1)\n"
    skips = "def time_d(): raise NotImplementedError('not on this machine')\ndef timeraw_f(): return 'print(1)'\n"
    (suite / "b.py").write_text(f"import os, sys\n{closes}def time_c(): pass\n{skips}def time_e(): print('x')\n")
    head = this_environment(suite)
    shared = Context(tmp_path, copy_runner(tmp_path / "runner"), suite, 60.0, float("inf"))
    comparison = PairComparison(shared, head, head, {one["name"]: one for one in discover(shared, head)["cases"]}, [None])
    comparison.try_all()
    assert "b.time_c" in comparison.plans
    assert comparison.lacking == {"b.time_d": dict.fromkeys(("base", "head"), "not on this machine")}
    assert list(comparison.failures) == ["b.time_b", "b.timeraw_f", "b.time_e"]  # the second call cannot close it again
    assert "it prints to standard output" in comparison.failures["b.time_e"]
    assert "its code prints to standard output" in comparison.failures["b.timeraw_f"]
