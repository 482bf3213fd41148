"""The seam: the gate measures a workload without torch, and imports nothing of this project but `system`."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ROOT
from benchmarks import workload as ours
from benchmarks.gate import calibration, injection
from benchmarks.gate.canary import judge_canary, unseen
from benchmarks.gate.comparing import compare
from benchmarks.gate.measuring import Comparison
from benchmarks.gate.processes import Broken
from benchmarks.gate.report import Row
from benchmarks.gate.rule import INCOMPARABLE, PASS, REGRESSED, THRESHOLD
from benchmarks.gate.versions import extract
from benchmarks.gate.workload import Injectable, Slowdown

GATE = ROOT / "benchmarks" / "gate"


def compared(pure: Injectable, head: str, folder: Path) -> dict[tuple[str, str], Row]:
    """Compare `v1` with a head by all signals."""
    comparison = Comparison(pure, extract(pure, "v1", folder / "base"), extract(pure, head, folder / "head"), folder)
    return {(row.case, row.signal): row for row in compare(comparison, list(pure.cases()), THRESHOLD)}


def test_a_tenth_more_is_found_in_any_package(pure: Injectable, tmp_path: Path) -> None:
    rows = compared(pure, "v3", tmp_path)
    for case in ("small", "large"):
        row = rows[case, "time"]
        assert row.verdict == REGRESSED
        assert row.change == pytest.approx(0.10, abs=0.01)
    assert rows["large", "result"].verdict == PASS
    assert rows["names", "public"].base == 1
    assert rows["missing", "all"].verdict == INCOMPARABLE
    assert rows["missing", "all"].note.startswith("not measured in base and head")


def test_equal_versions_pass_in_any_package(pure: Injectable, tmp_path: Path) -> None:
    rows = compared(pure, "v2", tmp_path)
    assert {row.verdict for row in rows.values()} == {PASS, INCOMPARABLE}
    assert {case for case, _ in rows} == {"small", "large", "missing", "names"}


def test_the_canary_sees_what_is_injected_into_any_package(pure: Injectable, tmp_path: Path) -> None:
    said: list[str] = []
    rows = judge_canary(pure, {"large": Slowdown("loop", 0.10)}, "v1", tmp_path, said.append)
    assert [row.verdict for row in rows] == [REGRESSED]
    assert unseen(rows) == []
    assert 2 <= len(said) <= injection.TUNING_STEPS
    amounts = {line.split(" is ")[0] for line in said[-2:]}
    assert len(amounts) == 1  # the amount that was injected was measured twice


def test_an_amount_must_have_the_wanted_effect_twice_in_a_row(
    pure: Injectable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The second effect is right by chance; so would be the amount that the line through the points gives after it.
    # Then two effects in a row are right one by one, but 12 % too large on average.
    effects = iter([0.50, 0.06, 0.02, 0.02, 0.051, 0.062, 0.05, 0.045])
    monkeypatch.setattr(injection.Comparison, "draw", lambda self, cases, count: {name: [next(effects)] for name in cases})
    said: list[str] = []
    version = extract(pure, "v1", tmp_path / "base")
    amounts = injection.tune(pure, version, tmp_path / "tuning", {"large": Slowdown("loop", 0.05)}, said.append)
    assert len(said) == 8
    assert said[-1] == f"large: loop {amounts['large'][1]} is +4.50%, wanted +5.00%"

    monkeypatch.setattr(injection.Comparison, "draw", lambda self, cases, count: {name: [0.02] for name in cases})
    with pytest.raises(Broken, match="no amount slows large by the wanted effect twice in a row; is the machine too busy"):
        injection.tune(pure, version, tmp_path / "never", {"large": Slowdown("loop", 0.05)}, said.append)


def test_any_package_can_be_calibrated(pure: Injectable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "WANTED", {"same": 1, "slower": 1})
    ticks = iter([False, False, True])
    monkeypatch.setattr(calibration, "out_of_time", lambda end: next(ticks))
    record: dict[str, Any] = {"version": 1, "trials": [], "instructions": {}}
    calibration.accumulate(pure, record, tmp_path / "record.json", 0.0, lambda text: None)
    assert [trial["asked"] for trial in record["trials"]] == ["same", "slower"]
    verdicts = [trial["cases"]["large"]["verdict"] for trial in record["trials"]]
    assert verdicts == [PASS, REGRESSED]


def imported(file: Path) -> set[str]:
    """Return what a file of the gate imports, functions included: names of packages, and `..name` for its neighbours."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level > 1:
            modules = [node.module] if node.module else [name.name for name in node.names]
            names |= {"." * node.level + module.partition(".")[0] for module in modules}
    return names


def test_the_gate_imports_the_standard_library_scipy_rich_and_system() -> None:
    allowed = {*sys.stdlib_module_names, "scipy", "rich", "..system"}
    beyond = {file.name: names for file in GATE.glob("*.py") if (names := imported(file) - allowed)}
    # torch counts instructions where it is installed; asv reads a foreign project, and its runner the project's benchmarks.
    assert beyond == {
        "asv_project.py": {"asv"},
        "asv_suite.py": {"asv_runner"},
        "asv_worker.py": {"asv_suite"},
        "counters.py": {"torch"},
        "environments.py": {"asv"},
    }


def test_what_the_gate_imports_is_seen_inside_functions_too(tmp_path: Path) -> None:
    file = tmp_path / "leak.py"
    file.write_text("def f():\n    from ..suite import cases\n    import torch.nn\n    from taildropout import rate\n")
    assert imported(file) == {"..suite", "torch", "taildropout"}


def test_importing_the_gate_imports_neither_torch_nor_the_project() -> None:
    stems = {file.stem for file in GATE.glob("*.py")} - {"__init__", "__main__", "asv_worker"}  # the last is only a program
    modules = sorted(f"benchmarks.gate.{stem}" for stem in stems)
    code = f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
    code += "print(*sorted(n for n in sys.modules if n.startswith(('torch', 'taildropout', 'benchmarks'))))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    there = set(done.stdout.split())
    assert set(modules) <= there
    assert {name.split(".")[1] for name in there if name.startswith("benchmarks.")} == {"gate", "system"}
    assert not [name for name in there if not name.startswith("benchmarks")]


def test_our_own_workload_names_cases_that_exist() -> None:
    known = ours.cases()
    canary = {case: kind for device in ours.CANARY.values() for case, kind in device.items()}
    slowdowns = [*ours.slowdowns.items(), *ours.more_instructions.items()]
    injected = [*canary.items(), *((case, slowdown.kind) for case, slowdown in slowdowns)]
    assert {case for case, _ in injected} <= set(known)
    assert {kind for _, kind in injected} == set(ours.first_amounts)
    assert all(known[case].instructions for case in ours.more_instructions)
