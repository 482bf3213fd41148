"""The suite's cases of the other layers: each runs, a version without it is n/a, and a wrong one gets no time."""

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import taildropout
from benchmarks.suite import baselines as suite
from benchmarks.suite.cases import NotAvailable, WrongResult
from taildropout import baselines


@pytest.fixture(autouse=True)
def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "POSITIONS", 16)
    monkeypatch.setattr(suite, "FEATURES", 64)


@pytest.mark.parametrize("name", suite.NAMES)
def test_a_layer_and_its_rivals_run(name: str) -> None:
    for layer in (name, *suite.RIVALS):
        output, gradients = suite.make(name, layer, taildropout)()
        assert output.shape == gradients[0].shape == (16, 16, 64)


def test_every_layer_of_the_package_is_timed() -> None:
    layers = {name for name in baselines.__all__ if isinstance(getattr(baselines, name), type)}
    assert {name.partition("-")[0] for name in suite.NAMES} == layers
    laws = {name.partition("-")[2] for name in suite.NAMES} - {""}
    assert laws == set(baselines.nested._LAWS)


def test_ratios_are_paired_and_of_the_layer_over_its_rival(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "interleave", lambda runs: {name: [6.0, 8.0] if "Re" in name else [2.0, 4.0] for name in runs})
    for track in (suite.Ratio().track_over_nn_dropout, suite.Ratio().track_over_tail_dropout):
        assert track("StochasticReLU") == {"samples": [3.0, 2.0], "number": 1}
    suite.prepared.cache_clear()


@pytest.mark.parametrize("name", suite.NAMES)
def test_a_version_without_the_layer_is_not_available(name: str) -> None:
    with pytest.raises(NotAvailable, match="has no baselines"):
        suite.make(name, name, types.ModuleType("old"))
    old: Any = types.ModuleType("old")
    old.baselines = types.ModuleType("old.baselines")
    with pytest.raises(NotAvailable, match=f"old.baselines has no {name.partition('-')[0]}"):
        suite.make(name, name, old)


class Faulty(nn.Module):
    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()


FAULTS: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor], str]] = {
    "keeps all": ("InvertedDropout", lambda x: 2 * x, "two calls give the same output"),
    "rescales nothing": ("InvertedDropout", lambda x: x * (torch.rand_like(x) > 0.5), "neither 0 nor the input"),
    "normal draw": ("InvertedDropout", lambda x: 2 * x * (torch.randn_like(x) > 0.5), r"keeps 0.3\d* instead of one half"),
    "no prefix": ("NestedDropout-uniform", lambda x: x * (torch.rand_like(x) > 0.5), "no prefix"),
    "never full": (
        "NestedDropout-power_of_two",
        lambda x: x * (torch.arange(64) < torch.randint(63, (16, 16, 1))),
        "no sample keeps all features",
    ),
    "not a number": ("LearnedDropout", lambda x: x * float("nan"), "not finite"),
    "no gradient": ("StochasticReLU", lambda x: x * float("inf"), "a gradient is not finite"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_layer_gets_no_time(fault: str) -> None:
    name, forward, message = FAULTS[fault]
    layer = type("Layer", (Faulty,), {"forward": lambda self, x: forward(x)})
    package: Any = types.ModuleType("faulty")
    package.baselines = types.SimpleNamespace(**{name.partition("-")[0]: layer})
    with pytest.raises(WrongResult, match=message):
        suite.make(name, name, package)
