"""Each statistical check rejects a faulty law, and its p-values are uniform under the exact law.

A check rejects if p < `checks.LIMIT`, as in a cell of `test_law`. The coverage tests have a false-alarm rate of 1e-6 each.
"""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from checks import (
    ALPHA,
    LEAST_EXPECTED,
    LIMIT,
    Family,
    Law,
    check,
    coincidences,
    fine_structure,
    goodness,
    holm,
    independence,
    mean,
)
from oracles import exponential_k, is_prefix, one_uniform_k, original_k, original_rate, pmf, rate, widths
from torch import Tensor, nn

pytestmark = pytest.mark.distribution


def rejects(k: Tensor, p: float, n: int) -> set[str]:
    """Return the checks that reject these draws, each half of them as of one layer."""
    p_values = check(k[: len(k) // 2], k[len(k) // 2 :], p, n)
    return {name for name, value in p_values.items() if not value > LIMIT}


def test_right_draws_pass() -> None:
    """Without a fault, the draws of the tests below are accepted."""
    assert rejects(exponential_k(rate(0.5, 64), 64, 10**6), 0.5, 64) == set()
    assert rejects(exponential_k(rate(0.5, 512), 512, 8000), 0.5, 512) == set()
    assert rejects(exponential_k(rate(1e-5, 65536), 65536, 10**7), 1e-5, 65536) == set()


def test_original_law_is_rejected() -> None:
    """The original package's rate, right in the limit of many features, drops .506 at n = 64 and p = .5."""
    k = exponential_k(original_rate(0.5, 64), 64, 10**6)
    assert 1 - k.double().mean().item() / 64 == pytest.approx(0.506, abs=0.002)
    assert rejects(k, 0.5, 64) == {"law", "fine", "mean"}


def test_original_draw_in_bf16_is_rejected() -> None:
    """A uniform in bf16 leaves some 200 of 1024 widths."""
    k = original_k(0.5, 1024, 100_000, torch.bfloat16)
    assert len(k.unique()) < 220
    assert {"law", "fine"} <= rejects(k, 0.5, 1024)


@pytest.mark.parametrize("samples", [8000, 300_000])
def test_exponential_in_bf16_is_rejected(samples: int) -> None:
    """The exact rate does not save an exponential in bf16, which holds no odd number above 256."""
    assert "fine" in rejects(exponential_k(rate(0.5, 512), 512, samples, torch.bfloat16), 0.5, 512)


def test_k_shared_by_neighbours_is_rejected() -> None:
    """A batch of 8 that shares its k: every k is right, but few are independent."""
    shared = exponential_k(rate(0.5, 64), 64, 10**5).repeat_interleave(8)
    assert "lag 1" in rejects(shared, 0.5, 64)


@pytest.mark.parametrize(("p", "samples"), [(0.5, 1000), (0.001, 10**6)])
def test_k_shared_by_two_layers_is_rejected(p: float, samples: int) -> None:
    """Two layers that draw the same k, also where dropping at all is rare."""
    k = exponential_k(rate(p, 64), 64, samples)
    assert rejects(torch.cat([k, k]), p, 64) >= {"between"}


@pytest.mark.parametrize("p", [0.001, 0.5])
def test_k_that_never_reaches_n_is_rejected(p: float) -> None:
    """min(n − 1, ⌊E⌋) in place of min(n, ⌊E⌋)."""
    assert rejects(exponential_k(rate(p, 64), 63, 60_000), p, 64) >= {"law"}


def test_k_off_by_one_is_rejected() -> None:
    """⌈E⌉ in place of ⌊E⌋, so that K = 0 never occurs."""
    k = exponential_k(rate(0.5, 64), 64, 60_000)
    assert rejects((k + 1).clamp(max=64), 0.5, 64) >= {"law", "mean"}


@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_rate_off_by_one_percent_is_rejected(factor: float) -> None:
    """A rate 1 % off moves the mean by some tenths of a percent."""
    assert rejects(exponential_k(rate(0.5, 64) * factor, 64, 10**6), 0.5, 64) >= {"mean"}


def test_one_uniform_on_a_coarse_grid_is_rejected() -> None:
    """At a small rate one uniform of 24 bits reaches every 20th width: every bin is right, but draws coincide too often."""
    n, p = 65536, 1e-4
    coarse, right = one_uniform_k(rate(p, n), n, 10**7), exponential_k(rate(p, n), n, 10**7)
    assert coincidences(coarse[coarse < n], n) < LIMIT
    assert coincidences(right[right < n], n) > LIMIT


def test_dropout_is_no_prefix() -> None:
    """nn.Dropout's masks are no prefixes, its outputs no ones, and `widths` raises for both."""
    output = nn.Dropout()(torch.ones(10, 64))
    assert not is_prefix(output != 0)
    with pytest.raises(ValueError, match="neither 0 nor"):
        widths(output)
    with pytest.raises(ValueError, match="no prefix"):
        widths(output / 2)


def test_family_fails_and_names_the_cell() -> None:
    """A cell below the limit fails by itself, stays on record, and is what Holm names."""
    family = Family()
    family.judge("right", {"law": 0.2, "mean": 1.0})
    with pytest.raises(AssertionError, match="wrong does not follow"):
        family.judge("wrong", {"law": LIMIT / 2, "mean": 0.5})
    with pytest.raises(AssertionError, match="nan"):
        family.judge("missing", {"law": float("nan")})
    assert holm({name: p for name, p in family.p_values.items() if p == p}, ALPHA, 2500) == ["wrong: law"]


def test_holm_steps_down() -> None:
    """Against the definition: the i-th smallest of m is compared with alpha / (m − i + 1), until one is larger."""
    p_values = {"a": 0.012, "b": 0.5, "c": 0.001, "d": 0.03}
    assert holm(p_values, 0.05, 4) == ["c", "a"]
    assert holm(p_values, 0.05, 50) == ["c"]
    assert holm(p_values, 0.05, 51) == []


def test_law_of_the_checks_is_the_oracles() -> None:
    """What draws are compared with equals the brute-force law, its scores have mean 0 and variance 1."""
    for p, n in [(0.001, 3), (0.5, 64), (0.999, 4096)]:
        law = Law(p, n)
        np.testing.assert_allclose(law.pmf, pmf(p, n), rtol=1e-9, atol=1e-300)
        for values in (law.standardised, law.scores):
            assert law.pmf @ values == pytest.approx(0, abs=1e-9)
            assert law.pmf @ values**2 == pytest.approx(1, abs=1e-9)


# ---- Coverage


def p_values(name: str, p: float, n: int, draws: int, repeats: int) -> np.ndarray:
    """Return p of one check for many samples of the law, drawn by numpy."""
    law, rng = Law(p, n), np.random.default_rng(int(torch.randint(2**60, ())))
    if name in ("law", "fine", "mean"):
        checks: dict[str, Callable[..., float]] = {"law": goodness, "fine": fine_structure, "mean": mean}
        one = checks[name]
        counts = rng.multinomial(draws, law.pmf, size=repeats).astype(float)
        return np.array([one(each, law if name == "mean" else law.pmf) for each in counts])
    k = torch.from_numpy(rng.choice(n + 1, size=(repeats, 2, draws), p=law.pmf))
    if name == "lag 1":
        return np.array([independence(each[0, :-1], each[0, 1:], law) for each in k])
    return np.array([independence(each[0], each[1], law) for each in k])


@pytest.mark.parametrize(
    ("name", "p", "n", "draws"),
    [
        ("law", 0.5, 64, 200_000),
        ("law", 0.5, 512, 10**7),
        ("fine", 0.5, 64, 200_000),
        ("mean", 0.5, 64, 200_000),
        ("lag 1", 0.5, 64, 3000),
        ("between", 0.5, 64, 3000),
    ],
)
def test_p_values_are_uniform_under_the_truth(name: str, p: float, n: int, draws: int) -> None:
    """The Kolmogorov-Smirnov test finds no difference from the uniform law in 2000 samples, at a rate of 1e-6."""
    found = p_values(name, p, n, draws, 2000)
    assert scipy.stats.kstest(found, "uniform").pvalue > 1e-6


@pytest.mark.parametrize(
    ("name", "p", "n", "draws"),
    [
        ("law", 1e-5, 1, 10**7),
        ("law", 0.001, 64, 10**6),
        ("mean", 1e-5, 1, 10**7),
        ("mean", 0.001, 64, 10**5),
        ("lag 1", 0.001, 64, 3000),
        ("between", 0.001, 64, 3000),
    ],
)
def test_p_values_of_rare_events_are_no_smaller_than_uniform(name: str, p: float, n: int, draws: int) -> None:
    """Counts and bounds reject right draws with a share of at most alpha, over 500 samples, at a rate of 1e-6."""
    found = p_values(name, p, n, draws, 500)
    for alpha in (0.1, 0.01):
        assert scipy.stats.binomtest(int((found <= alpha).sum()), len(found), alpha, alternative="greater").pvalue > 1e-6


def test_chi_square_keeps_its_rate_in_the_tail() -> None:
    """With LEAST_EXPECTED in a bin, χ² rejects at 1e-3 no more than 1.5 times as often as it says, over 10 000 samples."""
    bins = 20
    rng = np.random.default_rng(int(torch.randint(2**60, ())))
    flat = np.full(bins, 1 / bins)
    samples = rng.multinomial(bins * (LEAST_EXPECTED + 1), flat, size=10_000).astype(float)
    rejected = sum(goodness(each, flat) <= 1e-3 for each in samples)
    assert scipy.stats.binomtest(rejected, len(samples), 1.5e-3, alternative="greater").pvalue > 1e-6
