"""asv's results are read as figures and rows, those of November 2026 too."""

from pathlib import Path

import pytest

from benchmarks.results import stored
from benchmarks.results.stored import BrokenResult, Entry, Figure

TODAY = Path(__file__).parent / "today"
COMMIT, MACHINE = "714501d2a203547112bb501dc75c137b230bfb05", "amd-epyc-2-cores"
CASE = "8x16-f32-train"
TIME, RATIO = "speed.Small.time_step", "speed.Ratio.track_over_copy"


def read(folder: Path) -> dict[Entry, Figure]:
    return stored.read(COMMIT, "here", stored.entries(folder), folder)


def test_entries_are_the_product_of_the_parameters(results: Path) -> None:
    entries = stored.entries(results)
    assert len(entries) == 3 * 2 + 3 + 1
    assert str(Entry(TIME, (f"'{CASE}'", "'copy'"))) == f"{TIME}('{CASE}', 'copy')"
    assert str(Entry("process.Peak.peakmem_step")) == "process.Peak.peakmem_step"


def test_results_of_asv_are_read(results: Path) -> None:
    found = read(results)
    assert found[Entry(RATIO, (f"'{CASE}'",))] == Figure(2.0, 1.9, 2.1)
    assert found[Entry("process.Peak.peakmem_step")].value == 600e6
    assert not found[Entry(RATIO, ("'cuda-8x16-f32-fwd'",))].measured
    assert Entry(RATIO, ("'8x16-f32-eval'",)) not in found


def test_a_folder_of_results_of_november_2026_still_loads() -> None:
    folder = TODAY / "results"
    found = stored.read(COMMIT, MACHINE, stored.entries(folder), folder)
    (row,) = stored.rows(found, [CASE])
    assert row.ratio == {
        "nn.Dropout": pytest.approx((0.9931673549673099, 0.9600, 1.02), rel=0.01),
        "copy": pytest.approx((1.6759514680770236, 1.6400, 1.73), rel=0.01),
    }
    assert set(row.seconds) == {"TailDropout", "nn.Dropout", "copy"}
    assert found[Entry("history.Pinned.track_over_pinned", (f"'{CASE}'",))].value == pytest.approx(1.00556, rel=1e-4)


def test_a_figure_of_an_older_version_of_its_benchmark_is_not_read(results: Path) -> None:
    versions = dict.fromkeys(stored.entries(results), "2")
    assert stored.read(COMMIT, "here", versions, results) == {}
    assert stored.read("f" * 40, "here", stored.entries(results), results) == {}


def test_a_missing_list_of_benchmarks_is_reported_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(BrokenResult, match=r"benchmarks\.json is missing; .*: python -m benchmarks run"):
        stored.entries(tmp_path)


def test_rows_distinguish_measured_from_failed_from_not_available(results: Path) -> None:
    found = read(results)
    measured, absent, failed = stored.rows(found, [CASE, "cuda-8x16-f32-fwd", "8x16-f32-eval"], stored.entries(results))
    assert measured.seconds == {"TailDropout": 2e-6, "copy": 1e-6}
    assert measured.ratio == {"copy": (2.0, 1.9, 2.1)}
    assert absent.note == "n/a"
    assert set(absent.cells()[1:]) == {"n/a"}
    assert failed.note == "failed"
    assert failed.cells()[1] == "failed"
