"""The laws of NestedDropout against sums written out, and its draws against the laws.

Seeds are fixed. A statistical test takes the p-value of `checks.goodness` and fails below RARE, its false-alarm rate.
"""

import math

import numpy as np
import oracles
import pytest
import torch
from checks import goodness

from taildropout import TailDropout
from taildropout.baselines import NestedDropout, nested
from taildropout.baselines.nested import widths_law

RARE = 1e-6

LAWS = {
    "uniform": {"law": "uniform"},
    "uniform from 3": {"law": "uniform", "min_k": 3},
    "log-uniform": {"law": "log_uniform"},
    "log-uniform from 3": {"law": "log_uniform", "min_k": 3},
    "geometric": {"law": "geometric", "ratio": 0.8},
    "geometric from 1": {"law": "geometric", "ratio": 0.8, "min_k": 1},
    "power of two": {"law": "power_of_two"},
    "geometric, slower": {"law": "geometric", "ratio": 0.95},
    "power of two from 4": {"law": "power_of_two", "min_k": 4},
    "power of two from 3": {"law": "power_of_two", "min_k": 3},
    "censored": {"law": "censored_geometric", "p": 0.5},
    "censored from 1": {"law": "censored_geometric", "p": 0.5, "min_k": 1},
    "censored from 1, most of it": {"law": "censored_geometric", "p": 0.8, "min_k": 1},
    "censored from 5": {"law": "censored_geometric", "p": 0.3, "min_k": 5},
}


def expected(n: int, law: str, min_k: int = 0, p: float = 0.0, ratio: float = 0.0) -> np.ndarray:
    """P(K = k), one k after the other."""
    weights = np.zeros(n + 1)
    inner = oracles.pmf(p * n / (n - min_k), n - min_k) if law == "censored_geometric" else None
    for k in range(min_k, n + 1):
        if law == "uniform":
            weights[k] = 1
        elif law == "log_uniform":
            weights[k] = math.log((k + 1) / k) if k else 0
        elif law == "geometric":
            weights[k] = ratio**k
        elif law == "power_of_two":
            weights[k] = k == n or k in (1, 2, 4, 8, 16, 32, 64)
        else:
            weights[k] = inner[k - min_k]
    return weights / weights.sum()


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("n", [11, 16, 48])
def test_laws_are_what_they_say(name: str, n: int) -> None:
    law = widths_law(n=n, **LAWS[name]).numpy()
    np.testing.assert_allclose(law, expected(n, **LAWS[name]), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("n", [11, 16, 48])
def test_draws_follow_the_law_and_full_width_is_reached(name: str, n: int) -> None:
    draws = 100_000
    widths = oracles.widths(NestedDropout(**LAWS[name])(torch.ones(draws, n)))
    law = expected(n, **LAWS[name])
    counts = torch.bincount(widths, minlength=n + 1).numpy()
    assert goodness(counts.astype(float), law) > RARE
    assert not counts[law == 0].any()
    assert counts[n] > 0 or law[n] * draws < 20
    # Neighbouring samples are independent: the share of pairs both above the median.
    above = widths > np.searchsorted(law.cumsum(), 0.5)
    share, both = above.double().mean().item(), (above[1:] & above[:-1]).double().mean().item()
    assert abs(both - share**2) < 5 * 0.5 / draws**0.5


def test_a_share_of_the_samples_is_whole_whatever_the_law() -> None:
    draws, n = 100_000, 16
    layer = NestedDropout("log_uniform", min_k=2)
    for whole in (0.0, 0.3, 1.0):
        layer.whole = whole
        law = (1 - whole) * expected(n, "log_uniform", 2)
        law[n] += whole
        counts = torch.bincount(layer.draw((draws,), n), minlength=n + 1).numpy()
        assert goodness(counts.astype(float), law) > RARE
        assert not counts[law == 0].any()
    assert repr(layer) == "NestedDropout('log_uniform', min_k=2, whole=1.0, batch_dim=0, dropout_dim=-1)"


@pytest.mark.parametrize(
    ("whole", "error"), [(1.5, ValueError), (float("nan"), ValueError), ("half", TypeError), (True, TypeError)]
)
def test_a_share_that_is_none_is_refused(whole: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"whole=.*between 0 and 1"):
        NestedDropout(whole=whole)
    layer = NestedDropout()
    layer.whole = whole
    with pytest.raises(error, match=r"whole=.*between 0 and 1"):
        layer(torch.ones(3, 4))


def test_drawn_widths_are_those_of_the_layer() -> None:
    """TailMLP skips what another law drops: its draw is set as k."""
    layer, input = NestedDropout("log_uniform", batch_dim=[0, 1]), torch.ones(40, 5, 12)
    torch.manual_seed(0)
    widths = oracles.widths(layer(input))
    torch.manual_seed(0)
    assert torch.equal(layer.draw((40, 5), 12).flatten(), widths.flatten())


@pytest.mark.parametrize(("n", "min_k"), [(n, min_k) for n in (1, 2, 3, 7, 10, 64, 1000) for min_k in (1, 2) if min_k <= n])
def test_censored_geometric_has_its_mean_up_to_the_last_p(n: int, min_k: int) -> None:
    most = 1 - min_k / n
    for p in (0.0, most / 3, most):
        law = widths_law("censored_geometric", n, min_k, p=p)
        assert (law @ torch.arange(n + 1.0).double()).item() == pytest.approx(n * (1 - p), rel=1e-9)
    assert law[min_k] == 1  # the last p leaves no other
    if n > min_k:
        with pytest.raises(ValueError, match=rf"at most {n - min_k} can be dropped: give p={(n - min_k) / n} or less"):
            NestedDropout("censored_geometric", min_k, p=most + 1e-6)(torch.ones(3, n))


@pytest.mark.parametrize(("n", "min_k", "p"), [(100, 86, 0.14), (100, 72, 0.28)])
def test_the_last_p_may_be_written_in_decimals(n: int, min_k: int, p: float) -> None:
    assert p * n > n - min_k  # by rounding
    assert widths_law("censored_geometric", n, min_k, p=p)[min_k] == 1


def test_censored_geometric_from_0_is_the_law_of_tail_dropout() -> None:
    input = torch.ones(100_000, 20)
    counts = [
        torch.bincount(oracles.widths(layer(input)), minlength=21).numpy().astype(float)
        for layer in (NestedDropout("censored_geometric", p=0.6), TailDropout(0.6))
    ]
    for each in counts:
        assert goodness(each, oracles.pmf(0.6, 20)) > RARE


@pytest.mark.parametrize(("draw", "wanted"), [(0, 1), (2**48 - 1, 20)])
def test_the_ends_of_the_draw_are_the_ends_of_the_law(draw: int, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randint", lambda high, shape, device: torch.full(shape, draw))
    assert (oracles.widths(NestedDropout(min_k=1)(torch.ones(5, 20))) == wanted).all()


def test_draws_are_finer_than_a_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[torch.Tensor] = []
    monkeypatch.setattr(nested, "keep_first", lambda x, k, dim: drawn.append(k))
    # Of the 2^24 values of a uniform float32, 6, 5 and 5 would fall on the widths 0, 1 and 2, and so on.
    NestedDropout()(torch.ones(1).expand(200_000, 3 * 2**20 - 1))
    counts = torch.bincount(drawn[0].flatten() % 3).numpy().astype(float)
    assert goodness(counts, np.full(3, 1 / 3)) > RARE


@pytest.mark.parametrize(
    ("shape", "batch_dim", "dropout_dim"),
    [((40, 5, 12), 0, -1), ((40, 5, 12), 1, -1), ((40, 5, 12), [0, 1], -1), ((40, 5, 12), (), 0), ((40, 12, 3, 3), 0, 1)],
)
def test_samples_are_those_of_batch_dim(shape: tuple[int, ...], batch_dim: int | list[int], dropout_dim: int) -> None:
    output = NestedDropout(batch_dim=batch_dim, dropout_dim=dropout_dim)(torch.ones(shape))
    widths = oracles.widths(output, dropout_dim)
    batch = {batch_dim} if isinstance(batch_dim, int) else set(batch_dim)
    kept = [d for d in range(len(shape)) if d != dropout_dim % len(shape)]
    for at, dim in enumerate(kept):
        varies = (widths.amax(at) != widths.amin(at)).any().item()
        assert varies is (dim in batch), f"along dim {dim}"


def test_kept_features_are_bitwise_the_input_and_the_tail_leaves_no_trace() -> None:
    input = torch.randn(50, 12)
    input[:, 6:] = float("nan")
    input.requires_grad_()
    layer = NestedDropout("power_of_two")
    output = layer(input)
    kept = torch.arange(1, 13) <= oracles.widths(torch.where(output == 0, 0.0, 1.0))[:, None]
    assert torch.equal(output.nan_to_num(7), torch.where(kept, input, 0).nan_to_num(7))
    (gradient,) = torch.autograd.grad(output, input, torch.ones(50, 12))
    assert torch.equal(gradient, kept.float())


def test_evaluation_keeps_all_and_an_empty_input_is_none_to_drop_from() -> None:
    layer = NestedDropout(min_k=3)
    input = torch.randn(4, 8)
    assert layer.eval()(input) is input
    empty = torch.empty(0, 8)
    assert layer.train()(empty) is empty


def test_n_and_its_law_may_change_from_call_to_call_also_compiled() -> None:
    torch.compiler.reset()
    layer = NestedDropout("power_of_two")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for n, wanted in [(4, {1, 2, 4}), (7, {1, 2, 4, 7}), (12, {1, 2, 4, 8, 12}), (4, {1, 2, 4})]:
        for call in (layer, compiled):
            assert set(oracles.widths(call(torch.ones(300, n))).tolist()) == wanted


def test_arguments_that_do_not_fit_are_refused() -> None:
    for arguments, message in [
        ({"law": "normal"}, "law='normal' is none of 'uniform', 'log_uniform', 'geometric'"),
        ({"min_k": -1}, "min_k=-1 is negative"),
        ({"law": "geometric", "ratio": 0}, "ratio=0; give a number above 0, at most 1"),
        ({"law": "geometric", "ratio": 1.5}, "ratio=1.5; give"),
        ({"law": "geometric", "ratio": float("nan")}, "ratio=nan; give"),
        ({"law": "censored_geometric", "p": 1.5}, "p=1.5 is no drop probability"),
    ]:
        with pytest.raises(ValueError, match=message):
            NestedDropout(**arguments)
    for arguments, message in [
        ({"min_k": 1.0}, "min_k=1.0 has type float; give an int"),
        ({"law": "geometric"}, "the law 'geometric' needs ratio: give ratio=0.5, say"),
        ({"law": "censored_geometric"}, "the law 'censored_geometric' needs p"),
        ({"p": 0.5}, "the law 'uniform' has no p; 'censored_geometric' has: leave it out"),
        ({"law": "power_of_two", "ratio": 0.5}, "the law 'power_of_two' has no ratio"),
        ({"law": "geometric", "ratio": "0.5"}, "ratio='0.5' has type str"),
        ({"law": "geometric", "ratio": True}, "ratio=True has type bool"),
        ({"law": "censored_geometric", "p": "0.5"}, "p='0.5' has type str"),
        ({"batch_dim": True}, "a dim is an int, not a bool"),
    ]:
        with pytest.raises(TypeError, match=message):
            NestedDropout(**arguments)


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="min_k=5 is greater than the 4 features; give 4 or less"):
        NestedDropout(min_k=5)(torch.ones(3, 4))
    with pytest.raises(ValueError, match="input is 0-d"):
        NestedDropout()(torch.tensor(1.0))
    with pytest.raises(IndexError, match="dropout_dim=2 is out of range"):
        NestedDropout(dropout_dim=2)(torch.ones(3, 4))
    with pytest.raises(ValueError, match="overlap"):
        NestedDropout().eval()(torch.ones(4))


def test_numbers_of_numpy_are_numbers() -> None:
    ours = NestedDropout("geometric", np.int64(2), ratio=np.float32(0.5))
    theirs = NestedDropout("geometric", 2, ratio=0.5)
    assert repr(ours) == repr(theirs)
    torch.manual_seed(0)
    output = ours(torch.ones(50, 8))
    torch.manual_seed(0)
    assert torch.equal(output, theirs(torch.ones(50, 8)))
    assert NestedDropout("censored_geometric", p=np.float64(0.5)).p == 0.5
