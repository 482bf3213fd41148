"""The benchmark of scree."""

import types
from typing import Any

import pytest
import torch

from benchmarks.suite import scree as suite
from benchmarks.suite.cases import NotAvailable, WrongResult
from taildropout import Scree, TailDropout


def test_the_benchmark_measures_checks_and_needs_scree(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"INPUTS": 6, "HIDDEN": 9, "BATCHES": 2, "ROWS": 5}.items():
        monkeypatch.setattr(suite, name, value)
    for tail in suite.TAILS:
        result: Any = suite.Scree().track_time_over_loop(tail)
        assert len(result["samples"]) == suite.PARTS
        assert min(result["samples"]) > 0
    package: Any = types.ModuleType("wrong")
    package.TailDropout = TailDropout
    monkeypatch.setattr(suite, "package", lambda: package)
    with pytest.raises(NotAvailable, match="wrong has no scree"):
        suite.over_loop("linear")
    package.scree = lambda *args, **kwargs: Scree(tuple(range(10)), torch.rand(10).double(), torch.rand(10).double())
    with pytest.raises(WrongResult, match="differ by"):
        suite.over_loop("linear")
