"""The formulation of the original package, as a record measures it: the law in float32, and what it costs."""

import itertools

import oracles
import pytest
import torch
from checks import check

from benchmarks.suite import cases, measure
from benchmarks.suite.cases import CASES, ORIGINAL, Case, NotAvailable, WrongResult, make
from benchmarks.suite.cases.original import ThresholdDropout, rate


@pytest.mark.parametrize(("p", "n"), [*itertools.product([1e-5, 0.001, 0.5, 0.999], [1, 2, 64, 4096])])
def test_its_rate_is_the_root(p: float, n: int) -> None:
    assert rate(p, n) == pytest.approx(oracles.rate(p, n), rel=1e-6)


@pytest.mark.distribution
@pytest.mark.parametrize(("shape", "batch_dim", "dropout_dim"), [((10**5, 16), 0, -1), ((100, 16, 1000), (0, 2), 1)])
def test_it_draws_the_law_in_float32(shape: tuple[int, ...], batch_dim: int | tuple[int, ...], dropout_dim: int) -> None:
    """Two calls, five p-values each above 1e-4 / 5: a false alarm in 1e4 runs."""
    layer = ThresholdDropout(0.3, batch_dim, dropout_dim, shape, torch.float32)
    first, second = (oracles.widths(layer(torch.ones(shape)), dropout_dim).flatten() for _ in range(2))
    assert min(check(first, second, 0.3, 16).values()) > 1e-4 / 5
    layer.eval()
    assert layer(torch.ones(shape)).all()


def test_in_bfloat16_it_has_the_fault_that_it_is_known_for() -> None:
    layer = ThresholdDropout(0.5, 0, -1, (10**4, 1024), torch.bfloat16)
    drawn = oracles.widths(layer(torch.ones(10**4, 1024, dtype=torch.bfloat16)))
    assert len(torch.unique(drawn)) < 500 < 900 < len(torch.unique(oracles.exponential_k(rate(0.5, 1024), 1024, 10**4)))


@pytest.mark.parametrize("name", ["8x16-f32-train", "128x256-f32-fwd", "1024x512-bf16-train", "8x16-f32-eval"])
def test_its_cases_run(name: str) -> None:
    found = make(CASES[name].of(ORIGINAL))()
    assert all(tensor.shape == CASES[name].shape for tensor in (found if isinstance(found, tuple) else (found,)))


def test_it_keeps_a_mask_for_backward() -> None:
    leaf = torch.randn(64, 512, requires_grad=True)
    layer = cases.build_layer(Case("case", (64, 512)).of(ORIGINAL), None)
    assert measure.saved_bytes(lambda: layer(leaf), [leaf]) == 64 * 512


def test_what_it_has_not_is_not_available() -> None:
    for case in (Case("case", (8, 4), direction="set_k"), Case("case", (8, 4), model="block")):
        with pytest.raises(NotAvailable, match="random layer alone"):
            make(case.of(ORIGINAL))


def test_a_wrong_one_gets_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ThresholdDropout, "forward", lambda self, x: x * (self.thresholds < torch.rand_like(x)))
    with pytest.raises(WrongResult, match="no prefix"):
        make(Case("case", (64, 512)).of(ORIGINAL))


def test_it_is_no_layer_that_asv_times() -> None:
    assert ORIGINAL not in cases.LAYERS
