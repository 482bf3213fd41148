"""Measuring processes: what cannot be measured is named, and the other cases are measured."""

from pathlib import Path

import pytest
from gate.edits import SMALL, edited, forward_line

from benchmarks import workload
from benchmarks.gate import messages, processes, report, signals
from benchmarks.gate.measuring import Comparison
from benchmarks.gate.processes import Broken
from benchmarks.gate.report import Row
from benchmarks.gate.rule import FAILED, INCOMPARABLE
from benchmarks.gate.versions import Version

pytestmark = pytest.mark.history


def test_operators_under_a_fixed_name_are_refused(tmp_path: Path, base: Version) -> None:
    source = (
        "\nimport torch\n@torch.library.custom_op('taildropout::injected', mutates_args=())\n"
        "def injected(x: torch.Tensor) -> torch.Tensor:\n    return x.clone()\n"
    )
    head = edited(base, tmp_path / "head", "__init__.py", new=source)
    with pytest.raises(Broken, match=r"head.* cannot be imported: ImportError: .*not under its import name"):
        Comparison(workload, base, head, tmp_path).draw([SMALL], 1)


def test_a_head_that_cannot_be_imported_is_named(tmp_path: Path, base: Version) -> None:
    head = edited(base, tmp_path / "head", "__init__.py", new="\nraise RuntimeError('injected')\n")
    with pytest.raises(Broken, match="cannot be imported: RuntimeError: injected"):
        Comparison(workload, base, head, tmp_path).draw([SMALL], 1)


def test_a_process_that_dies_is_named(tmp_path: Path, base: Version) -> None:
    head = edited(base, tmp_path / "head", "__init__.py", new="\nimport os, sys; sys.stderr.write('so it ends'); os._exit(9)\n")
    with pytest.raises(Broken, match=r"died at 8x16-f32-fwd \(exit code 9\): so it ends"):
        Comparison(workload, base, head, tmp_path).draw([SMALL], 1)


def test_what_the_package_prints_is_no_finding(tmp_path: Path, base: Version) -> None:
    head = edited(base, tmp_path / "head", "__init__.py", new=f"\nprint({messages.encode(messages.Done())!r})\n")
    drawn = Comparison(workload, base, head, tmp_path).draw([SMALL], 2)
    assert drawn is not None
    assert len(drawn[SMALL]) == 2


@pytest.mark.parametrize(
    ("inserted", "expected"),
    [
        ("        raise RuntimeError('injected')\n", "head: RuntimeError: injected"),
        ("        return input.clone()\n", "head: WrongResult"),
        pytest.param(
            "        import time; time.sleep(60)\n", "both: it hangs: no result after 20 s", marks=pytest.mark.slow
        ),  # most of the 20 s are for a busy machine to import torch in
    ],
)
def test_a_case_that_raises_is_wrong_or_hangs_fails_and_the_others_are_measured(
    tmp_path: Path, base: Version, monkeypatch: pytest.MonkeyPatch, inserted: str, expected: str
) -> None:
    line = forward_line(base)
    if "hangs" in expected:
        monkeypatch.setattr(processes, "SILENCE", 20.0)
    only = "        if input.numel() == 128 and input.requires_grad:\n    " + inserted
    comparison = Comparison(workload, base, edited(base, tmp_path / "head", old=line, new=line + only), tmp_path)
    found = comparison.time_process(["8x16-f32-train", SMALL], 0)
    assert expected in comparison.failures["8x16-f32-train"]
    assert [message.case for message in found if isinstance(message, messages.Times)] == [SMALL]
    assert signals.lack_rows(comparison, ["8x16-f32-train", SMALL]) == [
        Row("8x16-f32-train", "all", FAILED, note=comparison.failures["8x16-f32-train"])
    ]


def test_what_one_side_lacks_cannot_be_compared(tmp_path: Path, base: Version) -> None:
    older = edited(base, tmp_path / "older", "__init__.py", new="\ndel TailDropout\n")
    comparison = Comparison(workload, older, base, tmp_path)
    assert comparison.draw([SMALL], 1) == {SMALL: []}
    assert [row.verdict for row in signals.lack_rows(comparison, [SMALL])] == [INCOMPARABLE]
    comparison = Comparison(workload, base, older, tmp_path)
    comparison.draw([SMALL], 1)
    rows = signals.lack_rows(comparison, [SMALL])
    assert [row.verdict for row in rows] == [FAILED]
    assert "not measured in head" in rows[0].note
    assert report.exit_code(rows) == 2
