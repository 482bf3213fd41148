"""Measuring processes: what cannot be measured is named, and the other cases are measured.

The package has no torch, which takes a process seconds to import, except where its operators are the subject.
"""

from pathlib import Path

import pytest
from gate.edits import SMALL, edited

from benchmarks import workload
from benchmarks.gate import messages, processes, report, signals
from benchmarks.gate.measuring import Comparison
from benchmarks.gate.processes import Broken
from benchmarks.gate.report import Row
from benchmarks.gate.rule import FAILED, INCOMPARABLE
from benchmarks.gate.versions import Version, extract
from benchmarks.gate.workload import Injectable

pytestmark = pytest.mark.history
RESULT = "    result = 0\n"  # the first line of the package's function


@pytest.fixture(scope="module")
def first(pure: Injectable, tmp_path_factory: pytest.TempPathFactory) -> Version:
    """The first version of the package without torch."""
    return extract(pure, "v1", tmp_path_factory.mktemp("first") / "base")


def against(pure: Injectable, first: Version, folder: Path, file: str, old: str = "", new: str = "") -> Comparison:
    """Compare the first version with one in which a piece of text is replaced, or some appended."""
    return Comparison(pure, first, edited(first, folder / "head", file, old, new, pure.package), folder)


def test_operators_under_a_fixed_name_are_refused(tmp_path: Path, base: Version) -> None:
    source = (
        "\nimport torch\n@torch.library.custom_op('taildropout::injected', mutates_args=())\n"
        "def injected(x: torch.Tensor) -> torch.Tensor:\n    return x.clone()\n"
    )
    head = edited(base, tmp_path / "head", "__init__.py", new=source)
    with pytest.raises(Broken, match=r"head.* cannot be imported: ImportError: .*not under its import name"):
        Comparison(workload, base, head, tmp_path).draw([SMALL], 1)


def test_a_head_that_cannot_be_imported_is_named(tmp_path: Path, pure: Injectable, first: Version) -> None:
    with pytest.raises(Broken, match="cannot be imported: RuntimeError: injected"):
        against(pure, first, tmp_path, "__init__.py", new="\nraise RuntimeError('injected')\n").draw(["small"], 1)


def test_a_process_that_dies_is_named(tmp_path: Path, pure: Injectable, first: Version) -> None:
    dies = "\nimport os, sys; sys.stderr.write('so it ends'); os._exit(9)\n"
    with pytest.raises(Broken, match=r"died at small \(exit code 9\): so it ends"):
        against(pure, first, tmp_path, "__init__.py", new=dies).draw(["small"], 1)


def test_what_the_package_prints_is_no_finding(tmp_path: Path, pure: Injectable, first: Version) -> None:
    prints = f"\nprint({messages.encode(messages.Done())!r})\n"
    drawn = against(pure, first, tmp_path, "__init__.py", new=prints).draw(["small"], 2)
    assert drawn is not None
    assert len(drawn["small"]) == 2


@pytest.mark.parametrize(
    ("inserted", "expected"),
    [
        ("raise RuntimeError('injected')", "head: RuntimeError: injected"),
        ("return 1", "head: ValueError: the total is 1, not 124750"),
        pytest.param("import time; time.sleep(60)", "both: it hangs: no result after 5 s", marks=pytest.mark.slow),
    ],
)
def test_a_case_that_raises_is_wrong_or_hangs_fails_and_the_others_are_measured(
    tmp_path: Path, pure: Injectable, first: Version, monkeypatch: pytest.MonkeyPatch, inserted: str, expected: str
) -> None:
    if "hangs" in expected:
        monkeypatch.setattr(processes, "SILENCE", 5.0)
    only = f"    if len(numbers) == 500:\n        {inserted}\n"
    comparison = against(pure, first, tmp_path, "work.py", RESULT, only + RESULT)
    found = comparison.time_process(["large", "small"], 0)
    assert expected in comparison.failures["large"]
    assert [message.case for message in found if isinstance(message, messages.Times)] == ["small"]
    assert signals.lack_rows(comparison, ["large", "small"]) == [Row("large", "all", FAILED, note=comparison.failures["large"])]


def test_what_one_side_lacks_cannot_be_compared(tmp_path: Path, pure: Injectable, first: Version) -> None:
    comparison = against(pure, first, tmp_path, "__init__.py", new="\ndel total\n")
    comparison.draw(["small"], 1)
    rows = signals.lack_rows(comparison, ["small"])
    assert [row.verdict for row in rows] == [FAILED]
    assert "not measured in head" in rows[0].note
    assert report.exit_code(rows) == 2
    comparison = Comparison(pure, comparison.head, first, tmp_path)
    assert comparison.draw(["small"], 1) == {"small": []}
    assert [row.verdict for row in signals.lack_rows(comparison, ["small"])] == [INCOMPARABLE]
