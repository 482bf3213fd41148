"""How many calls a sample has, and a round how many samples, for calls and set-ups of known duration."""

from typing import Any

import pytest

from benchmarks.gate.asv_worker import LONGEST_ROUND, ROUND, SAMPLE, Process


class Simulated(Process):
    """A process whose benchmark has durations in seconds instead of calls."""

    def __init__(self, call: float, setup: float, fixed: int = 0, isolated: bool = False) -> None:
        self.call, self.setup, self.fixed, self.each = call, setup, fixed, isolated

    def timer(self) -> tuple[Any, int]:
        return None, self.fixed

    def isolated(self) -> bool:
        return self.each

    def samples(self, timer: Any, number: int, repeats: int) -> tuple[list[float], float]:
        setups = number if self.each else 1
        return [self.call * number] * repeats, (self.call * number + self.setup * setups) * repeats


def test_a_round_of_calls_without_a_setup_has_many_short_samples() -> None:
    found = Simulated(call=40e-6, setup=0.0).calibrate()
    assert SAMPLE <= found["number"] * 40e-6 < 2 * SAMPLE
    assert found["timed"] >= ROUND
    assert found["repeats"] > 5


@pytest.mark.parametrize("setup", [1e-3, 6e-3, 0.1])
def test_a_sample_lasts_as_long_as_its_setup_but_no_longer_than_a_round(setup: float) -> None:
    found = Simulated(call=80e-6, setup=setup).calibrate()
    sample = found["number"] * 80e-6
    assert min(ROUND, setup) <= sample < 1.5 * min(ROUND, setup)
    assert found["timed"] >= ROUND
    assert found["seconds"] <= 3 * ROUND + setup  # nine set-ups without this


@pytest.mark.parametrize("setup", [0.0, 6e-3])
def test_the_number_of_the_suite_is_kept(setup: float) -> None:
    found = Simulated(call=80e-6, setup=setup, fixed=3).calibrate()
    assert found["number"] == 3
    assert found["seconds"] <= LONGEST_ROUND


def test_a_setup_before_each_call_is_spared_by_no_sample() -> None:
    found = Simulated(call=80e-6, setup=6e-3, isolated=True).calibrate()
    assert found["number"] * 80e-6 < 2 * SAMPLE
    assert found["seconds"] <= LONGEST_ROUND
