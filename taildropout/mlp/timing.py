"""Measure on this CPU what a ragged product takes beside matrix products: blocks, moved elements and the activation."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter, thread_time

import torch
from torch import Tensor
from torch.nn import functional

from .activation import Named
from .operands import Operands
from .ragged import backward, forward, k_per_row

_SECONDS = 0.025  # after this time no further round begins, but there are two at least
_RUNS = 5  # rounds at most; the fastest run counts, because other programs only make a run slower
_ROWS, _FEATURES, _HIDDEN, _BLOCKS = 16, 16, 256, 8  # so small that nearly all the time is overhead
# In training a block takes about twice as long as here, where code and data stay in the cache. The best choice among 31
# training steps on an AMD EPYC is nearly the same with 1.5 to 3 times.
_COLD = 2
_TIMES_MOVED = 2  # how often a block reads or writes its rows of input and output beside products, forward and backward
_ACTIVATED = 2**19  # bytes
_MOVED = 2**22  # bytes, more than a cache of one core holds
# The measured product has 512 x 512 weights. The number of its rows is doubled up to 128, with which products are nearly as
# fast as large ones, unless that would take longer than this time in seconds: a processor without instructions for bfloat16
# takes 50 ms for 128 rows.
_PRODUCT, _FEWEST, _MOST, _WIDTH = 0.003, 4, 128, 512


def measure(dtype: torch.dtype) -> tuple[float, float, float, float]:
    """Return four times on this CPU in `dtype`: for a block, a moved element, an activation and its derivative.

    The unit is the time in which a large product does one floating-point operation. The time for a block is the overhead by
    which a training step grows with each further block. The time for a moved element is for one element of input or output,
    moved as often as a step moves it for a block. The activation is GELU of one element. No random number is drawn.
    """
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        sizes = (_WIDTH, _WIDTH), (_ACTIVATED // dtype.itemsize,), (_MOVED // dtype.itemsize,)
        right, values, moved = (_filled(size, dtype) for size in sizes)
        left, operands = _filled((_rows(right), _WIDTH), dtype), _operands(dtype)
        product, once, often, move, active, slope = _fastest(
            lambda: left @ right,
            lambda: _step(operands, 1),
            lambda: _step(operands, _BLOCKS),
            lambda: moved.neg_(),
            lambda: functional.gelu(values),
            lambda: torch.ops.aten.gelu_backward(values, values),
        )
    operation = product / (2 * left.size(0) * _WIDTH * _WIDTH)
    block = _COLD * max(0.0, often - once) / (_BLOCKS - 1)
    active, slope = active / values.numel(), slope / values.numel()
    return block / operation, _TIMES_MOVED * move / moved.numel() / operation, active / operation, slope / operation


def _filled(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.full(size, 0.5, dtype=dtype, device="cpu")  # whatever `torch.set_default_device` says


def _rows(weights: Tensor) -> int:
    """Return how many rows a product with `weights` may have to take less than `_PRODUCT` seconds."""
    left, rows, clock = _filled((_MOST, _WIDTH), weights.dtype), _FEWEST, _clock()

    def seconds() -> float:
        start = clock()
        left[:rows] @ weights
        return clock() - start

    seconds()  # the first product of a process takes longer
    while rows < _MOST and any(2 * seconds() < _PRODUCT for _ in range(2)):  # a second run if another program slowed the first
        rows *= 2
    return rows


def _operands(dtype: torch.dtype) -> Operands:
    x, inner, outer = (_filled(size, dtype) for size in ((_ROWS, _FEATURES), (_HIDDEN, _FEATURES), (_FEATURES, _HIDDEN)))
    return Operands(x, inner, _filled((_HIDDEN,), dtype), outer, _filled((_FEATURES,), dtype))


def _step(operands: Operands, blocks: int) -> None:
    """Compute forward and backward for rows that all keep every feature."""
    ragged = k_per_row(torch.full((_ROWS,), _HIDDEN, device="cpu"), _HIDDEN, blocks)
    saved, activation = operands.x.new_empty(ragged.elements()), Named("relu")
    output = forward(operands, ragged, activation, saved)
    backward(output, operands, ragged, activation, saved, [True, True, True, True, True, False, False])


def _clock() -> Callable[[], float]:
    # `thread_time` leaves out the time in which other programs have the core, but counts one thread only.
    return thread_time if torch.get_num_threads() == 1 else perf_counter


def _fastest(*runs: Callable[[], object]) -> list[float]:
    """Return the time of the fastest call of each function, in seconds. The functions take turns, after one warm-up each."""
    clock = _clock()
    fastest, end = [float("inf")] * len(runs), clock() + _SECONDS
    for run in runs:
        run()
    for done in range(_RUNS):
        if done >= 2 and clock() > end:
            break
        for at, run in enumerate(runs):
            start = clock()
            run()
            fastest[at] = min(fastest[at], clock() - start)
    return fastest
