"""The quick cases under pytest-benchmark: TailDropout, nn.Dropout and copy side by side, a group per case.

A plain test run executes each once and times nothing. To time them:

    pytest tests/harness/suite/test_speed.py --benchmark-enable --benchmark-columns=median,iqr,rounds

They run one after the other, so they are noisier than `python -m benchmarks run`, which takes calls in turn.
"""

from typing import Any

import pytest

import taildropout
from benchmarks.suite.cases import CASES, LAYERS, NotAvailable, make, names, synchronise


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", names(quick=True))
@pytest.mark.filterwarnings("ignore")  # inductor's own
def test_speed(benchmark: Any, name: str, layer: str) -> None:
    case = CASES[name].of(layer)
    try:
        call = make(case, taildropout)
        wait = synchronise(case) or (lambda: None)
        benchmark.group = name
        benchmark.name = layer
        benchmark(lambda: (call(), wait()))
    except NotAvailable as error:
        pytest.skip(f"n/a: {error}")
