"""Predict from sizes alone whether a ragged product is faster than the full product, and with how many blocks.

The unit of a predicted time is the time in which matrix products on the device do one floating-point operation.
"""

from __future__ import annotations

import math
import os
from functools import lru_cache
from typing import NamedTuple

import torch

from .ragged import rows_step
from .timing import measure


class Costs(NamedTuple):
    """The times that a device takes beside matrix products, in units of one floating-point operation of its products."""

    once: float  # overhead of a training step, for any number of blocks
    block: float  # overhead of a training step for each block
    moved: float  # reading and writing one element
    activation: float  # the activation of one element
    slope: float  # the derivative of the activation of one element
    sorting: float = 8  # how often each element of input and output is moved to sort the rows and back: a number, not a time
    gain: float = 0.12  # the least share of the time that a ragged product must be predicted to save: a number, not a time


# The costs of GPUs, fitted to 228 cases on one H100 in a virtual machine, whose host takes about .5 ms a step and .3 ms a block
# more than the plain block: 512 to 32 768 rows, 512 to 4096 features, 2 or 4 times as many hidden features, p from .1 to .9, in
# training or not, each in 1 to 24 blocks. With these costs no case takes more than 1.02 times as long as the plain block, the
# fastest .23 times. A second run on a slower host gave 1.27 for half precision at 8192 rows of 4096 features. The costs for
# half precision are therefore 1.5 times the fitted ones, so that only from about 16 384 such rows on blocks are computed.
_COSTS = {
    "float32": Costs(2.5e10, 1.8e10, 14, 440, 220),
    "tf32": Costs(3.8e11, 7.6e10, 150, 110, 55),
    "half": Costs(3.2e12, 4.7e11, 140, 230, 115),
}
# The costs of one core of an AMD EPYC in float32, and in bfloat16 where the processor has instructions for it, so that products
# are twice as fast. Each CPU is measured, and the result is clipped to within a factor of 4 of these costs, because a busy
# machine may give any number. Without such instructions products of bfloat16 and float16 are up to 50 times as slow, and the
# clipped costs are too high: fewer blocks are computed than would be fastest. To sort the rows and to decide takes about as
# long as the overhead of one block.
_CPU, _CPU_NARROW, _AT_MOST = Costs(2.2e7, 2.2e7, 25, 85, 105, 2, 0.06), Costs(1.2e8, 1.2e8, 28, 130, 210, 2, 0.06), 4.0
PIN, _LARGEST = "TAILDROPOUT_MLP_COSTS", 1e30  # a pinned cost above the largest would make predictions overflow
# Multiplications in the first Linear. Below this number a step takes less than 1 ms, and little can be saved. If each row has
# its own random k, 8 times as many are needed: on an AMD EPYC, steps with 2²³ took 1.06 to 1.6 times as long with blocks.
_SMALL, _TIMES_PER_ROW = 2**21, 8


def worth_deciding(elements: int, n: int, per_row: bool = False) -> bool:
    """Return True if the ~10 µs spent deciding are negligible for an input of `elements` elements and n hidden features.

    The decision takes up to 60 µs after other work, which empties the caches. `per_row` means that each row draws its own k.
    """
    return elements * n >= _SMALL * (_TIMES_PER_ROW if per_row else 1)


def costs_of(device: str, dtype: torch.dtype) -> Costs:
    """Return the device's costs, in floating-point operations of its products in this dtype.

    The environment variable TAILDROPOUT_MLP_COSTS pins them. Otherwise a CPU is measured at the first call for a dtype and a
    number of threads. A GPU has stored costs, and any other device the largest of these: those of half precision.

    Raises:
        ValueError: if TAILDROPOUT_MLP_COSTS does not hold the seven numbers of `Costs`, with block > 0, gain < 1, and none of
            them negative, NaN or above 1e30.
    """
    if pinned := os.environ.get(PIN):
        return _pinned(pinned)
    if device == "cpu":
        return _of_cpu(dtype, torch.get_num_threads())
    if device != "cuda" or dtype not in (torch.float32, torch.float64):
        return _COSTS["half"]
    return _COSTS["tf32" if dtype == torch.float32 and _rounds_to_tf32() else "float32"]


@lru_cache(maxsize=8)
def _pinned(numbers: str) -> Costs:
    try:
        values = [float(number) for number in numbers.split(",")]
    except ValueError:
        values = []
    if len(values) == len(Costs.__annotations__) and all(0 <= value <= _LARGEST for value in values):
        costs = Costs(*values)
        if costs.block > 0 and costs.gain < 1:
            return costs
    raise ValueError(
        f"{PIN}={numbers!r} is not {', '.join(Costs.__annotations__)} as seven numbers from 0 to {_LARGEST:g}, block above 0 "
        f"and gain below 1; give such as {','.join(f'{number:g}' for number in _CPU)}, or unset it to have the machine measured"
    )


@lru_cache(maxsize=64)
def _of_cpu(dtype: torch.dtype, threads: int) -> Costs:
    """Return the measured costs of this CPU with `threads` threads, the number that torch uses now.

    With more threads the unit of time is shorter, but the overhead of a block is as long.
    """
    usual = _CPU if dtype.itemsize >= 4 else _CPU_NARROW
    known_times = usual.block * threads, usual.moved, usual.activation, usual.slope
    block, moved, activation, slope = (
        min(max(new, known / _AT_MOST), known * _AT_MOST) for new, known in zip(measure(dtype), known_times, strict=True)
    )
    return Costs(block, block, moved, activation, slope, usual.sorting, usual.gain)


def _rounds_to_tf32() -> bool:
    """Return True if CUDA devices compute products of float32 in TF32, on tensor cores."""
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # since torch 2.9, where reading `allow_tf32` can be an error
        return bool(matmul.fp32_precision == "tf32")
    return bool(matmul.allow_tf32)


def blocks_that_pay(n: int, rows: int, ends: int, share: float, whole: float, costs: Costs, training: bool) -> int:
    """Return the best number of blocks for a ragged product; 0 if the prediction saves less than the share `costs.gain`.

    In each row that keeps only a part of the features, half a block of dropped features on average is computed. So the larger
    the product, the more blocks pay. And each block is computed for half a step of rows more on average (see `rows_step`).

    Args:
        n: number of hidden features.
        rows: number of rows of the input.
        ends: number of input features (twice if the block is gated) plus number of output features.
        share: share of the hidden features that is kept, on average over the rows.
        whole: share of the rows that keep all features, or 1 if all rows have the same k.
        costs: the costs of the device beside products.
        training: if True, there will be a backward.
    """
    passes = 3 if training else 1
    element = 2 * passes * ends + costs.activation + (costs.slope if training else 0)
    full = rows * n * element
    element += costs.activation if training else 0  # backward computes the activation again
    once, block = costs.once * passes / 3, costs.block * passes / 3
    if whole == 1:
        blocks, cost = 1, share * rows * n * element + block + once
    else:
        block += costs.moved * rows * ends  # adding up the products
        blocks = max(1, round(min(n, math.sqrt((1 - whole) * rows * n * element / (2 * block)))))
        sorting = costs.sorting * costs.moved * rows * ends
        dropped = (1 - whole) * (1 / blocks + rows_step(rows) / rows) / 2
        cost = (share + dropped) * rows * n * element + blocks * block + sorting + once
    weights = 2 * passes * costs.moved * n * ends  # weights are read and their gradients written, however few the rows
    return blocks if weights + cost < (1 - costs.gain) * (weights + full) else 0
