"""The gate's rule: its intervals hold the truth as often as they say, and it errs no more often than declared."""

import json
import math
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from scipy import stats

from benchmarks.gate import error_rates, rule
from benchmarks.gate.rule import (
    ALPHA,
    FAILED,
    IMPROVED,
    LOOKS,
    PASS,
    REGRESSED,
    THRESHOLD,
    UNSTABLE,
    Draw,
    decide,
    estimate,
    holm,
)

CASES = "8x16-f32-train", "1024x512-f32-train"  # whose rounds are recorded


def processes(effects: Mapping[str, float], deviation: float = 0.007, seed: int = 0, heavy: bool = False) -> Draw:
    """Return a source of processes, normal around the log of each effect; `heavy`: one in ten has five times the deviation."""
    chance = random.Random(seed)

    def one(effect: float) -> float:
        wide = 5 if heavy and chance.random() < 0.1 else 1
        return math.log1p(effect) + chance.gauss(0, deviation * wide)

    return lambda names, count: {name: [one(effects[name]) for _ in range(count)] for name in names}


def test_the_interval_of_a_few_processes_is_that_of_student() -> None:
    chance = random.Random(1)
    sample = [chance.gauss(0.02, 0.01) for _ in range(5)]
    found, test = estimate(sample), stats.ttest_1samp(sample, 0)
    low, high = test.confidence_interval(0.95)
    assert found.p == pytest.approx(float(test.pvalue), rel=1e-12)
    assert math.log1p(found.low) == pytest.approx(low)
    assert math.log1p(found.high) == pytest.approx(high)
    assert found.change == pytest.approx(math.expm1(statistics.fmean(sample)))


@pytest.mark.parametrize("size", [6, 11, 12, 24, 48])
def test_a_p_value_is_that_of_scipy_for_trimmed_means_and_belongs_to_the_interval(size: int) -> None:
    chance = random.Random(size)
    sample = [chance.gauss(0.02, 0.01) for _ in range(size)]
    found, share = estimate(sample), size // 6 / size
    zeros = [0.0] * size  # against which Yuen's test of two samples is that of one
    assert found.p == pytest.approx(stats.ttest_ind(sample, zeros, equal_var=False, trim=share).pvalue)
    assert math.log1p(found.change) == pytest.approx(stats.trim_mean(sample, share))
    for end in (found.low, found.high):  # a truth at an end of the interval has a p-value of 5 %
        assert estimate([value - math.log1p(end) for value in sample]).p == pytest.approx(1 - rule.CONFIDENCE)


@pytest.mark.parametrize("size", LOOKS)
def test_a_sixth_of_the_processes_may_be_far_off_in_each_direction(size: int) -> None:
    chance = random.Random(size)
    sample = [math.log1p(0.05) + chance.gauss(0, 0.005) for _ in range(size)]
    few = size // 6
    spoiled = [*sorted(sample)[few : size - few], *[3.0] * few, *[-3.0] * few]
    assert estimate(spoiled).change == pytest.approx(estimate(sample).change, rel=1e-12)
    assert estimate(sample).change == pytest.approx(0.05, abs=0.01)


@pytest.mark.slow
def test_the_levels_of_the_looks_are_1_percent_together_on_normal_noise() -> None:
    """40 000 samples of each size; beyond 4 standard errors above 1 %, 3e-5."""
    trials, chance = 40_000, random.Random(7)
    spent = 0.0
    for size, alpha in zip(LOOKS, ALPHA, strict=True):
        spent += sum(estimate([chance.gauss(0, 1) for _ in range(size)]).p <= alpha for _ in range(trials)) / trials
    assert 0.005 < spent < 0.01 + 4 * math.sqrt(0.01 / trials)


@pytest.mark.parametrize("size", LOOKS)
def test_an_interval_holds_the_truth_as_often_as_it_says(size: int) -> None:
    """94 % at six processes, 95 % at many; 4000 samples: beyond 4 standard errors of a binomial, 6e-5."""
    trials, chance = 4000, random.Random(size)
    held = 0
    for _ in range(trials):
        found = estimate([0.03 + chance.gauss(0, 0.01) for _ in range(size)])
        held += found.low <= math.expm1(0.03) <= found.high
    margin = 4 * math.sqrt(0.05 * 0.95 / trials)
    assert rule.CONFIDENCE - 0.01 - margin < held / trials < rule.CONFIDENCE + margin


def test_processes_that_agree_exactly_leave_no_doubt() -> None:
    assert estimate([0.1] * 6).p == 0
    assert estimate([0.0] * 6).p == 1
    with pytest.raises(ValueError, match="2 processes or more, but 1 came"):
        estimate([0.1])


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    assert holm({"a": 0.01, "b": 0.02, "c": 0.5}) == pytest.approx({"a": 0.03, "b": 0.04, "c": 0.5})
    assert holm({"a": 0.4, "b": 0.4, "c": 0.01}) == pytest.approx({"a": 0.8, "b": 0.8, "c": 0.03})
    assert holm({}) == {}


def test_equal_versions_are_suspected_no_more_often_than_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch alone, any of 5 cases: at most 1 %; 2000 trials, 5 standard errors (3e-7)."""
    suspected: list[bool] = []
    monkeypatch.setattr(rule, "confirm", lambda first, draw, threshold: suspected.append(bool(first)) or {})
    effects, trials = dict.fromkeys("abcde", 0.0), 2000
    for seed in range(trials):
        decide(list(effects), processes(effects, 0.03, seed), threshold=1e-9)  # so that the threshold hides no alarm
    assert 0 < sum(suspected) / trials < 0.01 + 5 * math.sqrt(0.01 / trials)


@pytest.mark.parametrize("heavy", [False, True])
def test_of_equal_versions_none_is_called_slower_and_twice_the_threshold_is_found(heavy: bool) -> None:
    """False alarms need two batches to err; misses of +5 % at .7 % noise are rarer than 1 in 100 (200 trials)."""
    effects = {"same": 0.0, "slower": 2 * THRESHOLD, "faster": -2 * THRESHOLD}
    found = [decide(list(effects), processes(effects, seed=seed, heavy=heavy)) for seed in range(200)]
    assert not any(each["same"].verdict in (REGRESSED, IMPROVED) for each in found)
    assert sum(each["slower"].verdict == REGRESSED for each in found) >= 195
    assert sum(each["faster"].verdict == IMPROVED for each in found) >= 195


def test_noise_beyond_the_threshold_is_no_verdict_and_never_a_pass() -> None:
    """A false alarm needs a suspicion (1 %) and a second batch that agrees (3 %): two in 50 trials have probability 1e-4."""
    effects = dict.fromkeys("abc", 0.0)
    found = [decide(list(effects), processes(effects, deviation=0.3, seed=seed)) for seed in range(50)]
    verdicts = [each.verdict for one in found for each in one.values()]
    assert PASS not in verdicts
    assert len(verdicts) - verdicts.count(UNSTABLE) <= 1


def test_a_clear_case_ends_at_the_first_look_and_others_go_on() -> None:
    asked: list[tuple[tuple[str, ...], int]] = []
    sources = {"quiet": processes({"quiet": 0.0}, 0.002), "noisy": processes({"noisy": 0.0}, 0.3)}

    def draw(names: Iterable[str], count: int) -> Any:
        asked.append((tuple(names), count))
        return {name: cast(Any, sources[name]([name], count))[name] for name in names}

    found = decide(["quiet", "noisy"], draw)
    assert asked == [(("quiet", "noisy"), 6), (("noisy",), 6), (("noisy",), 12)]
    quiet = found["quiet"].estimate
    assert quiet is not None
    assert quiet.processes == 6
    assert (found["quiet"].verdict, found["noisy"].verdict) == (PASS, UNSTABLE)


def batches(*values: float | None) -> Draw:
    """Batches whose processes see almost the given changes."""
    left = list(values)

    def draw(names: Iterable[str], count: int) -> dict[str, list[float]]:
        change = left.pop(0)
        assert change is not None, "a second batch was not expected"
        return {name: [math.log1p(change) + 1e-4 * (i % 3) for i in range(count)] for name in names}

    return draw


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (0.06, 0.06, REGRESSED),
        (-0.06, -0.06, IMPROVED),
        (0.06, 0.001, PASS),  # the second batch is independent, and shows nothing
        (0.06, -0.06, UNSTABLE),
        (0.02, None, PASS),  # below the threshold, however sure
    ],
)
def test_a_suspicion_needs_a_second_batch_that_agrees(first: float, second: float | None, expected: str) -> None:
    assert decide(["a"], batches(first, second))["a"].verdict == expected


def test_time_that_runs_out_is_no_pass() -> None:
    assert decide(["a"], lambda names, count: None)["a"] == rule.Decision(UNSTABLE, note="no time for more processes")
    first, times = batches(0.06), iter((True, False))
    found = decide(["a"], lambda names, count: first(names, count) if next(times) else None)["a"]
    assert (found.verdict, found.note) == (UNSTABLE, "no time for the second batch")


def test_a_case_that_breaks_off_fails_and_the_others_are_judged() -> None:
    def draw(names: Iterable[str], count: int) -> dict[str, list[float]]:
        return {"good": [0.001 * (-1) ** i for i in range(count)], "bad": [0.0] * (count - 1)}

    found = decide(["good", "bad"], draw)
    assert found["bad"].verdict == FAILED
    assert "5 of 6" in found["bad"].note
    assert found["good"].verdict == PASS


def test_what_one_process_saw_is_the_median_of_its_pairs() -> None:
    base, head = [1.0, 2.0, 4.0], [1.1, 2.0, 8.0]
    assert rule.log_ratio(base, head) == pytest.approx(math.log(1.1))
    with pytest.raises(ValueError, match="longer"):
        rule.log_ratio(base, head[:2])


@pytest.mark.parametrize(
    ("events", "trials", "low", "high"), [(0, 299, 0, 0.00997), (1, 473, 0.0001, 0.00999), (59, 59, 0.9505, 1)]
)
def test_rates_have_the_bounds_of_clopper_and_pearson(events: int, trials: int, low: float, high: float) -> None:
    found = error_rates.interval(events, trials)
    assert found == pytest.approx((low, high), abs=2e-5)
    ends = stats.beta.ppf(0.05, events, trials - events + 1), stats.beta.ppf(0.95, events + 1, trials - events)
    assert found == pytest.approx((0.0 if events == 0 else ends[0], 1.0 if events == trials else ends[1]))
    assert error_rates.interval(0, 0) == (0.0, 1.0)  # no trial, no knowledge


def test_replayed_processes_show_the_effect_that_was_added() -> None:
    chance = random.Random(3)
    pool = [{name: chance.gauss(0, 0.006) for name in "abc"} for _ in range(120)]
    found = [error_rates.replayed(pool, effect, times=60) for effect in (0.0, 0.05, -0.05, 0.2)]
    assert [(row["regressed"], row["improved"]) for row in found] == [(0, 0), (60, 0), (0, 60), (60, 0)]


def rounds(factor: float, seed: int) -> Draw:
    """Processes and rounds drawn with replacement from recorded ones of two equal versions, head's times by a factor."""
    chance = random.Random(seed)
    recorded = json.loads((Path(__file__).parent / "rounds.json").read_text())

    def one(case: str) -> float:
        process = chance.choice(recorded)[case]
        drawn = chance.choices(list(zip(process["base"], process["head"], strict=True)), k=len(process["base"]))
        return rule.log_ratio([base for base, _ in drawn], [factor * head for _, head in drawn])

    return lambda names, count: {case: [one(case) for _ in range(count)] for case in names}


@pytest.mark.parametrize(
    ("factor", "expected", "least"),
    [(1.0, PASS, 60), (1.01, PASS, 57), (1.05, REGRESSED, 57), (1.2, REGRESSED, 60), (0.95, IMPROVED, 57)],
)
def test_recorded_rounds_are_judged_by_what_was_done_to_them(factor: float, expected: str, least: int) -> None:
    """Two cases of 30 trials each: at most 3 of 60 may be undecided, and none is called the opposite."""
    found = [each.verdict for seed in range(30) for each in decide(list(CASES), rounds(factor, seed)).values()]
    assert found.count(expected) >= least
    opposite = {PASS: {REGRESSED, IMPROVED}, REGRESSED: {IMPROVED, PASS}, IMPROVED: {REGRESSED, PASS}}[expected]
    assert not opposite & set(found)


def test_a_case_for_which_there_is_no_time_is_unstable() -> None:
    """At the first look, at a later one, and at the second batch; the others are judged."""
    calm, noisy, slow = [0.001, -0.001] * 3, [0.3, -0.3] * 3, [0.05, 0.0501] * 3

    def draw(names: Sequence[str], count: int) -> dict[str, list[float]]:
        first = {"calm": calm, "slow": slow, "noisy": noisy}
        return {name: first[name] for name in names if name in first and set(names) > {"slow", "noisy"}}

    found = decide(["calm", "slow", "noisy", "last"], draw)
    assert [found[name].verdict for name in ("calm", "slow", "noisy", "last")] == [PASS, UNSTABLE, UNSTABLE, UNSTABLE]
    assert found["noisy"].note == found["last"].note == "no time for more processes"
    assert found["slow"].note == "no time for the second batch"
    assert found["last"].estimate is None
    assert found["noisy"].estimate is not None
