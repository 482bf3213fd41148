"""The grid that shows whether TailMLP chooses the faster of its two strategies."""

import math

import pytest
import torch
from torch import nn

from benchmarks.suite import choice
from taildropout import TailMLP
from taildropout.mlp import cost, skipping


def test_both_strategies_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "BLOCKS", ((64, 16, 0.5),))
    (ratio,) = choice.ratios(torch.get_num_threads(), "f32", seconds=0.02)
    assert ratio > 0


def test_a_slow_block_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "BLOCKS", ((64, 16, 0.5),))
    monkeypatch.setattr(choice, "SLOW", 0.0)
    found = {(1, "f32"): choice.ratios(torch.get_num_threads(), "f32", seconds=0.02)}
    assert found == {(1, "f32"): []}
    assert math.isnan(choice.Choice().track_mean_over_the_better(found, 1, "f32"))
    assert math.isnan(choice.Choice().track_worst_over_the_better(found, 1, "f32"))


def test_the_block_that_skips_does_so_whatever_it_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    real, outputs = skipping._ragged_output, list[torch.Tensor | None]()

    def spy(*arguments: object) -> torch.Tensor | None:
        outputs.append(real(*arguments))  # type: ignore[arg-type]
        return outputs[-1]

    monkeypatch.setattr(skipping, "_ragged_output", spy)
    block, x, before = TailMLP(16, 64, 16, activation=nn.GELU(), p=0.01), torch.randn(64, 16), cost.costs_of
    with choice.always_skipping():
        block(x)
    assert [type(output) for output in outputs] == [torch.Tensor]
    block(x)
    assert len(outputs) == 1
    assert cost.costs_of is before
