"""The report: the worst first, one exit code, JUnit."""

import io
import math
from collections.abc import Sequence
from xml.etree import ElementTree

import pytest
from rich.console import Console

from benchmarks.gate import report as gate_report
from benchmarks.gate import signals
from benchmarks.gate.messages import Times
from benchmarks.gate.report import Row
from benchmarks.gate.rule import FAILED, IMPROVED, INCOMPARABLE, PASS, REGRESSED, UNSTABLE

ROWS = [
    Row("quick", "time", PASS, 1e-5, 1.001e-5, 0.001, -0.01, 0.012, 0.8, 6),
    Row("slow", "time", REGRESSED, 1e-3, 1.06e-3, 0.06, 0.05, 0.07, 1e-9, 6, "second batch +6.1%"),
    Row("slower", "instructions", REGRESSED, 1000, 1100, 0.1),
    Row("noisy", "time", UNSTABLE, 1e-3, 1e-3, 0.0, -0.2, 0.2, 0.9, 24, "not settled after 24 processes"),
    Row("new", "all", INCOMPARABLE, note="not measured in base: NotAvailable"),
]


def test_the_report_is_worst_first_and_marks_what_is_not_shown() -> None:
    text = gate_report.markdown(ROWS, "head against base", gate_report.line(ROWS, "base", "head"))
    order = [text.index(f"| {name} |") for name in ("slower", "slow", "noisy", "new", "quick", "geometric mean")]
    assert order == sorted(order)
    assert "+0.10% ~" in text
    assert "REGRESSED: head is slower: slower instructions +10.0%, slow time +6.0%" in text
    assert gate_report.geometric_mean(ROWS, "time") == pytest.approx((1.001 * 1.06) ** (1 / 3) - 1)


class Replayed:
    """A comparison with times of base and head in six processes, which differ more from each other than head does from base."""

    def __init__(self) -> None:
        self.failures: dict[str, str] = {}
        self.lacking: dict[str, dict[str, str]] = {}
        base, head = [1.0, 1.0, 1.0, 1.1, 1.2, 1.5], [1.0, 1.02, 1.02, 1.1, 1.22, 3.0]
        self.left = [Times("case", {"base": [one], "head": [other]}) for one, other in zip(base, head, strict=True)]
        self.taken: list[Times] = []

    def draw(self, names: Sequence[str], count: int) -> dict[str, list[float]] | None:
        """Return the next log-ratios; the time is up when there is none."""
        now, self.left = self.left[:count], self.left[count:]
        self.taken += now
        if not now:
            return None
        return {name: [math.log(times.seconds["head"][0] / times.seconds["base"][0]) for times in now] for name in names}

    def times_of(self, name: str) -> Sequence[Times]:
        """Return what was taken."""
        return self.taken


def test_base_head_and_change_agree() -> None:
    """The median of head, 1.06, would say +1.0 %."""
    (row,) = signals.time_rows(Replayed(), ["case"], 0.025)
    assert row.change == pytest.approx(0.014, abs=0.001)
    assert row.base == 1.05
    assert row.head == pytest.approx(row.base * (1 + row.change))


def test_the_line_names_all_that_is_no_pass() -> None:
    broken = [Row(name, "all", FAILED, note="head: it hangs") for name in "abcde"]
    assert gate_report.line(ROWS + broken, "base", "head") == (
        "REGRESSED: head is slower: slower instructions +10.0%, slow time +6.0%. Also FAILED: a, b, c and 2 more. "
        "Also UNSTABLE: noisy time +0.0%. head against base, 4 figures compared."
    )
    assert gate_report.line([*broken[:2], ROWS[0]], "base", "head") == (
        "FAILED: not everything could be measured: a, b. head against base, 1 figure compared."
    )


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([PASS, IMPROVED], 0),
        ([PASS, INCOMPARABLE], 0),
        ([INCOMPARABLE], 2),
        ([], 2),
        ([PASS, UNSTABLE], 3),
        ([UNSTABLE, FAILED], 2),
        ([FAILED, REGRESSED, UNSTABLE], 1),
    ],
)
def test_the_exit_code_is_that_of_the_worst(verdicts: list[str], code: int) -> None:
    assert gate_report.exit_code([Row("case", "time", verdict) for verdict in verdicts]) == code


def test_junit_holds_failures_and_errors() -> None:
    suite = ElementTree.fromstring(gate_report.junit(ROWS, "title"))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("5", "2", "1")
    assert [case.get("name") for case in suite if case.find("failure") is not None] == ["slower", "slow"]


def test_junit_is_xml_whatever_an_error_says() -> None:
    suite = ElementTree.fromstring(gate_report.junit([Row("a", "all", FAILED, note="\x1b[31mno\x00 <ö>")], "title"))
    assert [error.get("message") for error in suite.iter("error")] == ["FAILED   [31mno <ö>"]


def test_a_long_name_takes_no_verdict_away() -> None:
    rows = [
        Row(f"module.time_it({'a, ' * 70}b)", "time", REGRESSED, 1e-3, 1.06e-3, 0.06, 0.05, 0.07, 1e-9, 6, "second batch +6%")
    ]
    shown = io.StringIO()
    Console(width=120, file=shown).print(gate_report.render(rows, "a title"))
    for text in ("REGRESSED", "+6.00%", "1.06 ms", "second batch"):
        assert text in shown.getvalue()


def test_markdown_shows_every_text_as_it_is() -> None:
    row = Row("par.O.x(<class 'float'>, __u__, *s*, a|b, `c`, [d](e))", "all", FAILED, note="two\nlines \x1b[31m & more_so\0")
    text = gate_report.markdown([row], "<b>", "FAILED: __init__.time_x")
    assert "\n| par.O.x(&lt;class 'float'&gt;, \\_\\_u\\_\\_, \\*s\\*, a\\|b, \\`c\\`, \\[d](e)) |" in text
    assert "| two lines \\[31m &amp; more_so |\n" in text
    assert "### &lt;b&gt;" in text
