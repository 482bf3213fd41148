"""Figures of track_, mem_ and peakmem_ benchmarks, and what base against base says of the machine."""

import random

import pytest
from scipy.stats import binom

from benchmarks.gate.against_itself import NAME, disagreeing, sentence, with_machine
from benchmarks.gate.figures import figure_row
from benchmarks.gate.report import Row, exit_code, overall
from benchmarks.gate.rule import ALPHA, FAILED, IMPROVED, PASS, REGRESSED, THRESHOLD, UNSTABLE


def pairs(*heads: float, base: float = 100.0, copies: tuple[float, ...] = (100.0, 100.0)) -> list[dict[str, float]]:
    """Return pairs of base with head, and of base with itself."""
    return [{"base": base, "head": head} for head in heads] + [{"base": base, "base_copy": copy} for copy in copies]


@pytest.mark.parametrize(
    ("found", "kind", "verdict"),
    [
        (pairs(100, 100, 100), "track", PASS),
        (pairs(101, 101, 101), "track", REGRESSED),
        (pairs(99, 99, 99), "track", IMPROVED),
        (pairs(101, 101, 101), "peakmemory", PASS),  # within 2 %
        (pairs(103, 103, 103), "peakmemory", REGRESSED),
        (pairs(103, 103, 103, copies=(102, 99)), "track", PASS),  # base differs from itself by as much
        (pairs(100, 103, 103), "track", UNSTABLE),  # the pairs do not agree
        (pairs(103, 103), "track", UNSTABLE),  # a pair is missing
        (pairs(103, 103, 103, copies=()), "track", UNSTABLE),  # the budget ended before base met itself
        (pairs(150, 150, 150, copies=(120, 100)), "track", UNSTABLE),  # a margin of 60 %, within which anything would pass
        (pairs(9, 9, 9, base=0, copies=(1, 0)), "track", UNSTABLE),
        (pairs(1, 1, 1, base=0, copies=(0, 0)), "track", REGRESSED),
        (pairs(-1, -1, -1, base=-2, copies=(-2, -2)), "track", REGRESSED),
    ],
)
def test_a_figure_counts_if_every_pair_saw_it_beyond_the_margin(found: list[dict[str, float]], kind: str, verdict: str) -> None:
    assert figure_row("name", found, kind, wanted=3).verdict == verdict


def test_fractions_are_shown() -> None:
    assert Row("name", "track", PASS, 0.25, 1234567.0).cells()[2:4] == ("0.25", "1,234,567")


ROWS = [Row("a", "time", PASS, change=0.0), Row("b", "time", REGRESSED, change=0.1), Row("c", "all", FAILED)]
SHIFTED = {"a": [0.05, 0.051, 0.049], "b": [0.05, 0.05, 0.051]}


def test_a_machine_on_which_base_differs_from_itself_makes_all_unstable() -> None:
    rows = with_machine(ROWS[:2], SHIFTED, THRESHOLD)
    assert {row.verdict for row in rows} == {UNSTABLE}
    assert (rows[0].case, "the machine is unstable" in rows[0].note) == (NAME, True)
    assert "would be REGRESSED" in rows[2].note
    assert exit_code(rows) == 3


def test_what_failed_stays_failed_on_an_unstable_machine() -> None:
    assert overall(with_machine(ROWS, SHIFTED, THRESHOLD)) == FAILED


def test_a_machine_on_which_base_equals_itself_changes_nothing() -> None:
    logs = {"a": [0.001, -0.002, 0.0], "b": [0.01, -0.01, 0.0]}
    assert with_machine(ROWS, logs, THRESHOLD) == ROWS
    assert sentence(logs).startswith("Base against base, in 3 pairs: ")


def test_a_shift_common_to_all_benchmarks_shows_though_none_shows_it_alone() -> None:
    noise = [0.02, -0.02, 0.0]
    logs = {f"case {number}": [0.05 + noise[(number + pair) % 3] for pair in range(3)] for number in range(9)}
    assert set(disagreeing(logs, THRESHOLD)) == {"all benchmarks"}


def test_one_pair_says_nothing() -> None:
    assert disagreeing({"a": [0.5]}, THRESHOLD) == {}
    assert sentence({}) == ""


def test_a_quiet_machine_is_seldom_blamed() -> None:
    """Independent normal noise of 4 %, five benchmarks, three pairs: sum(ALPHA) of runs at most; this test errs in 1e-4."""
    draw, runs = random.Random(1).gauss, 2000
    blamed = sum(
        bool(disagreeing({str(name): [draw(0, 0.04) for _ in range(3)] for name in range(5)}, THRESHOLD)) for _ in range(runs)
    )
    assert blamed <= binom.isf(1e-4, runs, sum(ALPHA))
