"""The rate, and every method of CensoredGeometric, against brute force."""

import math
import pickle
import sys

import mpmath
import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taildropout import CensoredGeometric, get_scale_param, rate

LARGEST_P = 1 - 2**-53
P = (1e-300, 1e-100, 1e-16, 1e-8, 1e-5, 0.001, 0.1, 0.5, 0.9, 0.999, 1 - 1e-10, LARGEST_P)
N = (1, 2, 3, 10, 64, 511, 4096, 65536)
INNER = [(0.001, 3), (0.1, 1), (0.5, 1), (0.5, 2), (0.5, 64), (0.9, 10), (0.999, 64), (1e-5, 4096), (0.5, 65536)]
ENDS = [(0.0, 5), (1.0, 5), (0.0, 1), (1.0, 1)]

probabilities = st.floats(0, 1, exclude_min=True, exclude_max=True)
sizes = st.integers(1, 10**12)


def within(lam: float, p: float, n: int, ulps: float) -> bool:
    """Return True if `lam` is within some units in the last place of the root of share_kept(λ) = 1 − p, decreasing in λ."""
    with mpmath.workdps(700):
        below, above = (mpmath.mpf(lam) * (1 + sign * ulps * mpmath.mpf(2) ** -52) for sign in (-1, 1))
        return oracles.share_kept(above, n) <= 1 - mpmath.mpf(p) <= oracles.share_kept(below, n)


# ---- rate


@pytest.mark.parametrize("n", [*N, 10**9, 2**63])
@pytest.mark.parametrize("p", P)
def test_rate_is_the_root_to_the_last_digits(p: float, n: int) -> None:
    """The true root, in 700 digits, is within 64 units in the last place: 1.5e-14 relative; or below all normal floats."""
    if 2 * p / n < sys.float_info.min:
        assert rate(p, n) == sys.float_info.min  # so that 1/λ is finite
    else:
        assert within(rate(p, n), p, n, 64)


@pytest.mark.parametrize("n", N)
@pytest.mark.parametrize("p", [1e-10, 1e-5, 0.1, 0.5, 0.999, 1 - 1e-10])
def test_rate_equals_another_root_finder_over_the_explicit_sum(p: float, n: int) -> None:
    """Brent's method over Σ e^(−λj), term by term, finds the same."""
    assert rate(p, n) == pytest.approx(oracles.rate(p, n), rel=1e-12)


def test_the_geometric_series_is_the_sum() -> None:
    """The oracle in 700 digits against the sum, term by term."""
    for lam, n in [(1e-3, 7), (0.5, 64), (3.0, 2)]:
        assert float(oracles.share_kept(mpmath.mpf(lam), n)) == pytest.approx(oracles.mean_kept(lam, n), rel=1e-13)
        assert 1 - oracles.mean_dropped(lam, n) == pytest.approx(oracles.mean_kept(lam, n), rel=1e-13)


def test_rate_known_values() -> None:
    """One feature: e^(−λ) = 1 − p. Two features and p = ½: q + q² = 1, the golden section."""
    assert rate(0.5, 1) == pytest.approx(math.log(2), rel=1e-15)
    assert rate(0.5, 2) == pytest.approx(math.log((1 + math.sqrt(5)) / 2), rel=1e-15)
    assert rate(0.0, 3) == 0
    assert rate(1.0, 3) == math.inf
    assert rate(1, 3) == math.inf
    assert rate(5e-324, 10**9) > 0


@given(probabilities, sizes)
def test_rate_is_the_root_everywhere(p: float, n: int) -> None:
    """For any p and n it ends, with a normal float that is the root where p is not subnormal."""
    lam = rate(p, n)
    assert 0 < lam < math.inf
    if p > 1e-290:
        assert within(lam, p, n, 64)


@given(probabilities, probabilities, sizes)
def test_rate_rises_with_p(p: float, q: float, n: int) -> None:
    """More to drop needs a larger rate, up to the rounding of the last digits."""
    low, high = sorted([p, q])
    assert rate(low, n) <= rate(high, n) * (1 + 1e-14)


@given(st.floats(1e-9, LARGEST_P), st.integers(1, 10**6))
def test_rate_falls_with_n(p: float, n: int) -> None:
    """Over more features the same share is dropped at a smaller rate per feature."""
    assert rate(p, n + 1) < rate(p, n)


@pytest.mark.parametrize("p", ["0.5", None, True, torch.tensor(0.5), 0.5j])
def test_p_of_a_wrong_type(p: object) -> None:
    """TypeError names the type that came, also after an equal number of the right type was cached."""
    rate(1, 3)
    with pytest.raises(TypeError, match=f"{type(p).__name__}.*between 0 and 1"):
        rate(p, 3)
    with pytest.raises(TypeError, match=type(p).__name__):
        get_scale_param(p)


@pytest.mark.parametrize("p", [-1e-9, 1.0000001, 2, math.nan, math.inf, -math.inf])
def test_p_out_of_range(p: float) -> None:
    """ValueError shows the value and the range."""
    for call in (lambda: rate(p, 3), lambda: get_scale_param(p), lambda: CensoredGeometric(p, 3)):
        with pytest.raises(ValueError, match=f"p={p}.*between 0 and 1"):
            call()


@pytest.mark.parametrize("n", ["3", 3.0, None, True, torch.tensor(3)])
def test_n_of_a_wrong_type(n: object) -> None:
    """TypeError names the type that came, also after an equal number of the right type was cached."""
    rate(0.5, 1), rate(0.5, 3)
    for call in (rate, CensoredGeometric):
        with pytest.raises(TypeError, match=f"{type(n).__name__}.*int"):
            call(0.5, n)


@pytest.mark.parametrize("n", [0, -1])
def test_n_out_of_range(n: int) -> None:
    """ValueError says what is wanted."""
    for call in (rate, CensoredGeometric):
        with pytest.raises(ValueError, match=f"n={n}.*1 or more"):
            call(0.5, n)


# ---- get_scale_param


@pytest.mark.parametrize("p", [1e-8, 1e-4, 0.001, 0.1, 0.5, 0.9, 0.999, 1 - 1e-10])
def test_scale_is_the_limit_of_many_features(p: float) -> None:
    """a(1 − e^(−1/a)) = 1 − p, in 50 digits; and 1/(λn) for n → ∞, which is where the original's search never ended."""
    a = get_scale_param(p)
    with mpmath.workdps(50):
        kept = mpmath.mpf(a) * -mpmath.expm1(-1 / mpmath.mpf(a))
        assert float(1 - kept) == pytest.approx(p, rel=1e-13)
    assert 1 / (rate(p, 10**15) * 10**15) == pytest.approx(a, rel=1e-12)


def test_scale_at_the_ends_and_with_a_tolerance() -> None:
    """Nothing dropped is an infinite scale; a tolerance bounds the relative error of 1 − p."""
    assert get_scale_param(0) == math.inf
    assert get_scale_param(1) == 0
    for tol in (1e-1, 1e-4, 1e-9):
        a = get_scale_param(0.5, tol)
        assert abs(a * -math.expm1(-1 / a) / 0.5 - 1) <= tol * (1 + 1e-6)
    assert get_scale_param(0.5, 0.1) != get_scale_param(0.5)


@pytest.mark.parametrize(("tol", "error"), [("1", TypeError), (True, TypeError), (-1e-9, ValueError), (math.nan, ValueError)])
def test_bad_tolerance(tol: object, error: type[Exception]) -> None:
    """A tolerance is a number, 0 or more."""
    with pytest.raises(error, match=r"tol=.*0 or more"):
        get_scale_param(0.5, tol)


# ---- CensoredGeometric


def everywhere(law: CensoredGeometric) -> torch.Tensor:
    return law.enumerate_support()


@pytest.mark.parametrize(("p", "n"), [*INNER, *ENDS])
def test_probabilities_moments_and_entropy(p: float, n: int) -> None:
    """log_prob, cdf, mean, variance and entropy against sums over every k."""
    law, wanted, k = CensoredGeometric(p, n), oracles.pmf(p, n), np.arange(n + 1)
    np.testing.assert_allclose(law.log_prob(everywhere(law)).exp(), wanted, rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(law.cdf(everywhere(law)), np.cumsum(wanted), rtol=1e-9, atol=1e-12)
    assert law.mean.item() == pytest.approx(wanted @ k, rel=1e-9)
    assert law.mean.item() == n * (1 - p)
    variance = wanted @ (k - wanted @ k) ** 2
    assert law.variance.item() == pytest.approx(variance, rel=1e-8)
    assert law.stddev.item() == pytest.approx(math.sqrt(variance), rel=1e-8)
    positive = wanted[wanted > 0]
    assert law.entropy().item() == pytest.approx(-(positive * np.log(positive)).sum(), rel=1e-8)


@pytest.mark.parametrize(("p", "n"), [(1e-12, 64), (LARGEST_P, 64), (1e-300, 3), (1e-5, 65536)])
def test_extreme_p_gives_finite_numbers_that_add_up(p: float, n: int) -> None:
    """Near the ends of p nothing is NaN or negative, and the probabilities sum to 1."""
    law = CensoredGeometric(p, n)
    assert law.log_prob(everywhere(law)).exp().sum().item() == pytest.approx(1, rel=1e-12)
    assert law.entropy() >= 0
    assert law.variance >= 0
    assert law.mean.item() == n * (1 - p)


def test_cdf_between_and_beyond_the_support() -> None:
    """P(K ≤ x) is a step function of any real x."""
    law = CensoredGeometric(0.5, 4)
    x = torch.tensor([-math.inf, -0.5, 0, 0.99, 1, 3.5, 4, 4.5, math.inf])
    steps = np.cumsum(oracles.pmf(0.5, 4))
    np.testing.assert_allclose(law.cdf(x), [0, 0, steps[0], steps[0], steps[1], steps[3], 1, 1, 1], rtol=1e-12)


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_batches_of_p(shape: tuple[int, ...]) -> None:
    """Each entry of a tensor p is a law of its own, in every method, and `expand` repeats it."""
    p = torch.linspace(0, 1, math.prod(shape), dtype=torch.float64).reshape(shape) if shape else torch.tensor(0.3)
    batch = CensoredGeometric(p, 6)
    wide = batch.expand((5, *shape))
    assert batch.batch_shape == shape
    assert wide.batch_shape == (5, *shape)
    for law in (batch, wide):
        assert law.event_shape == ()
        assert law.sample((7,)).shape == (7, *law.batch_shape)
        assert law.enumerate_support().shape == (7, *law.batch_shape)
        assert law.enumerate_support(expand=False).shape == (7, *[1] * len(law.batch_shape))
        for at in np.ndindex(*law.batch_shape):
            one = CensoredGeometric(p[at[len(at) - len(shape) :]].item(), 6)
            assert torch.equal(law.log_prob(everywhere(law))[:, *at], one.log_prob(everywhere(one)))
            assert torch.equal(law.cdf(everywhere(law))[:, *at], one.cdf(everywhere(one)))
            for name in ("mean", "variance", "stddev"):
                torch.testing.assert_close(getattr(law, name)[at], getattr(one, name), rtol=1e-12, atol=0)
            assert torch.equal(law.entropy()[at], one.entropy())


def test_support() -> None:
    """The integers 0 … n, each once."""
    law = CensoredGeometric(0.5, 3)
    assert law.enumerate_support().tolist() == [0, 1, 2, 3]
    assert law.support.check(torch.tensor([-1, 0, 0.5, 3, 4])).tolist() == [False, True, False, True, False]
    assert law.has_enumerate_support
    assert law.support.is_discrete


def test_samples_are_in_the_support_and_reach_all_of_it() -> None:
    """4000 draws at n = 5: every value occurs, as P(K = k) ≥ .05 misses one with probability below 6 · .95⁴⁰⁰⁰ < 1e-88."""
    k = CensoredGeometric(0.5, 5).sample((4000,))
    assert k.unique().tolist() == [0, 1, 2, 3, 4, 5]
    assert CensoredGeometric(0, 5).sample((100,)).unique().tolist() == [5]
    assert CensoredGeometric(1, 5).sample((100,)).unique().tolist() == [0]


def test_sampling_obeys_the_seed() -> None:
    """The same seed gives the same draws, the next draw another."""
    law = CensoredGeometric(0.5, 64)
    torch.manual_seed(3)
    first, second = law.sample((50,)), law.sample((50,))
    torch.manual_seed(3)
    assert torch.equal(law.sample((50,)), first)
    assert not torch.equal(second, first)


def test_arguments_are_validated() -> None:
    """A value outside the support and a p outside [0, 1] are errors, unless validation is off."""
    law = CensoredGeometric(0.5, 3, validate_args=True)
    for value in (-1.0, 0.5, 4.0, math.nan):
        with pytest.raises(ValueError, match="support"):
            law.log_prob(torch.tensor(value))
        assert CensoredGeometric(0.5, 3, validate_args=False).log_prob(torch.tensor(value)).shape == ()
    with pytest.raises(ValueError, match=r"1\.5"):
        CensoredGeometric(torch.tensor([0.5, 1.5]), 3)


def test_pickle_keeps_the_law() -> None:
    """A law that went through pickle gives the same probabilities."""
    law = CensoredGeometric(torch.tensor([0.2, 0.7]), 9)
    again = pickle.loads(pickle.dumps(law))
    assert torch.equal(again.log_prob(everywhere(again)), law.log_prob(everywhere(law)))


def test_the_representation_has_n() -> None:
    assert repr(CensoredGeometric(0.5, 8)) == "CensoredGeometric(p: 0.5, n: 8)"
    assert repr(CensoredGeometric(torch.tensor([0.5, 0.2]), 8)) == "CensoredGeometric(p: torch.Size([2]), n: 8)"


def test_numbers_of_numpy_are_numbers() -> None:
    for n in (np.int64(8), np.uint8(8), np.int32(8)):
        assert rate(np.float64(0.3), n) == rate(0.3, 8)
        law = CensoredGeometric(np.float64(0.3), n)
        assert type(law.n) is int
        assert torch.equal(law.mean, CensoredGeometric(0.3, 8).mean)
    assert rate(np.float32(0.5), 8) == rate(0.5, 8)
    with pytest.raises(TypeError, match=r"has type float64; the number of features is an int"):
        rate(0.3, np.float64(8))
