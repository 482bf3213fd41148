"""Measure on this machine what a ragged product takes beside products: calls, moved elements and the activation.

The measurement takes less than 50 ms and draws no random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch
from torch.nn import functional

_REPEATS = 4  # of which the fastest counts, because other programs only make a call slower
_ROWS, _FEATURES, _BLOCK = 256, 512, 64


def seconds_beside_products(dtype: torch.dtype) -> tuple[float, float, float, float]:
    """Return the seconds that a CPU takes for a multiplication and addition of a large product, a block, a moved element, and
    the activation of an element.

    A block is the time that the two products forward and four backward take longer if the hidden features are cut once more,
    without the elements that are moved. A moved element is read twice and written once. The activation is GELU, forward and
    backward, of which the first is half.
    """
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        rows, weight = (torch.full(size, 0.5, dtype=dtype) for size in ((_ROWS, _FEATURES), (_FEATURES, _FEATURES)))
        output, values = torch.empty(_ROWS, _FEATURES, dtype=dtype), torch.full((2**18,), 0.5, dtype=dtype)
        parts = weight.split(_BLOCK, 1)

        def product() -> None:
            torch.mm(rows, weight, out=output)

        def blocks() -> None:
            for part in parts:
                rows @ part

        def move() -> None:
            values.add_(values)

        def activate() -> None:
            torch.ops.aten.gelu_backward(functional.gelu(values), values)

        whole, cut, moved, active = (_fastest(run) for run in (product, blocks, move, activate))
    once_more = max(0.0, cut - whole) / (len(parts) - 1)
    return whole / (2 * _ROWS * _FEATURES * _FEATURES), 6 * once_more, moved / values.numel(), active / values.numel()


def _fastest(run: Callable[[], None]) -> float:
    """Return the seconds of the fastest call, after one that does not count."""
    run()
    fastest = float("inf")
    for _ in range(_REPEATS):
        start = perf_counter()
        run()
        fastest = min(fastest, perf_counter() - start)
    return fastest
