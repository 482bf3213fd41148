"""The statistical tests of a night: failures are repeated on a second seed, and only failures on both seeds count."""

from pathlib import Path

import pytest

from benchmarks.gate.rule import FAILED, PASS
from benchmarks.nightly import law
from benchmarks.nightly.github_issues import LAW_TESTS
from benchmarks.nightly.state import REJECTED, Outcome
from benchmarks.system.errors import CannotMeasure

ROOT = Path(__file__).parents[3]
TESTS = """import os
seed = os.environ["TAILDROPOUT_SEED"]
def test_right(): pass
def test_chance(): assert seed != "1", "by chance"
def test_wrong(): assert not os.path.exists("wrong"), f"p=0 on seed {seed}"
def test_holm(): assert seed != "1"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with four tests of the law, of which some fail on the seed 1."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # loading the plugins takes longer than these tests
    (tmp_path / LAW_TESTS).parent.mkdir(parents=True)
    (tmp_path / LAW_TESTS).write_text(TESTS)
    return tmp_path


def test_the_tests_of_the_law_are_there() -> None:
    text = (ROOT / LAW_TESTS).read_text()
    assert f"def {law.FAMILY_TEST}(" in text


def test_the_law_holds_if_all_tests_pass(project: Path) -> None:
    outcome = law.check(project, "abc", (3, 4), 300)
    assert (outcome.verdict, outcome.line) == (PASS, "4 tests with up to 1e+07 draws, seed 3")
    stored = outcome.shown["law.json"]
    assert stored.pop("date").endswith("+00:00")
    assert stored == {"version": 1, "seed": 3, "draws": 10**7, "checks": 4, "rejected": [], "commit": "abc"}


def test_a_failure_on_one_seed_only_is_chance(project: Path) -> None:
    outcome = law.check(project, "abc", (1, 2), 300)
    assert (outcome.verdict, outcome.shown["law.json"]["rejected"]) == (PASS, [])
    assert outcome.line.endswith("1 failed, and 0 of them on seed 2 too")


def test_a_failure_on_both_seeds_is_rejected(project: Path) -> None:
    (project / "wrong").touch()
    outcome = law.check(project, "abc", (1, 2), 300)
    assert (outcome.verdict, outcome.shown["law.json"]["rejected"]) == (REJECTED, ["test_wrong"])
    assert "p=0 on seed 1" in outcome.markdown
    assert "2 failed, and 1 of them on seed 2 too" in outcome.line


@pytest.mark.parametrize("text", ["import nothing_of_this_name", "", "raise SystemExit"])
def test_tests_that_cannot_run_give_no_verdict(project: Path, text: str) -> None:
    (project / LAW_TESTS).write_text(text)
    with pytest.raises(CannotMeasure, match="pytest could not run"):
        law.check(project, "abc", (1, 2), 300)


def test_a_run_in_which_all_tests_are_skipped_fails(project: Path) -> None:
    (project / LAW_TESTS).write_text("import pytest\ndef test_a(): pytest.skip('no compiler')")
    assert law.check(project, "abc", (1, 2), 300) == Outcome(FAILED, "no statistical test ran")
