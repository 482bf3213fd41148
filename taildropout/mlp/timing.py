"""Measure on this CPU what a ragged product takes beside matrix products: blocks, moved elements and the activation."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter, thread_time

import torch
from torch import Tensor, nn
from torch.nn import functional

from .activation import OfModule
from .operands import Operands
from .ragged import backward, forward, k_per_row

_SECONDS = 0.03  # after this time no further round begins
_RUNS = 4  # rounds at most; the fastest run counts, because other programs only make a run slower
_ROWS, _FEATURES, _HIDDEN, _BLOCKS = 256, 128, 512, 4
# How many times a block moves the rows of input and output, forward and backward: the input is read twice, the gradient of the
# output too, and output and gradient of the input are read and written by sums.
_TIMES_MOVED = 4
_ACTIVATED, _MOVED = 2**17, 2**21  # elements, more than a cache of one core holds


def measure(dtype: torch.dtype) -> tuple[float, float, float, float]:
    """Return four times on this CPU in `dtype`: for a block, a moved element, an activation and its derivative.

    The unit is the time in which a large product does one floating-point operation. The time for a block is the time by which a
    training step grows with each further block. The time for a moved element is for one element of input or output, moved as
    often as a step moves it for a block. The activation is GELU of one element. No random number is drawn.
    """
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        left, right, values, moved = (_filled(size, dtype) for size in ((256, 512), (512, 512), (_ACTIVATED,), (_MOVED,)))
        operands = _operands(dtype)
        # As in training, each step has another number of rows: oneDNN, which computes narrow dtypes, prepares each number anew.
        rows = iter(range(_ROWS, 0, -1))
        product, once, often, move, active, slope = _fastest(
            lambda: left @ right,
            lambda: _step(operands, next(rows), 1),
            lambda: _step(operands, next(rows), _BLOCKS),
            lambda: moved.neg_(),
            lambda: functional.gelu(values),
            lambda: torch.ops.aten.gelu_backward(values, values),
        )
    operation = product / (2 * 256 * 512 * 512)
    block = max(0.0, often - once) / (_BLOCKS - 1)
    active, slope = active / _ACTIVATED, slope / _ACTIVATED
    return block / operation, _TIMES_MOVED * move / _MOVED / operation, active / operation, slope / operation


def _filled(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.full(size, 0.5, dtype=dtype)


def _operands(dtype: torch.dtype) -> Operands:
    rows, inner, outer = (_filled(size, dtype) for size in ((_ROWS, _FEATURES), (_HIDDEN, _FEATURES), (_FEATURES, _HIDDEN)))
    return Operands(rows, inner, None, outer, None)


def _step(operands: Operands, rows: int, blocks: int) -> None:
    """Compute forward and backward for the first `rows` rows, all of which keep every feature."""
    operands = Operands(operands.x[:rows], *operands[1:])
    ragged = k_per_row(torch.full((rows,), _HIDDEN), _HIDDEN, blocks)
    saved, activation = operands.x.new_empty(ragged.elements()), OfModule(nn.ReLU(), "cpu", None)
    output = forward(operands, ragged, activation, saved)
    backward(output, operands, ragged, activation, saved, [True, True, False, True, False, False, False])


def _fastest(*runs: Callable[[], object]) -> list[float]:
    """Return the time of the fastest call of each function, in seconds. The functions take turns, after one warm-up each."""
    # `thread_time` leaves out the time in which other programs have the core, but counts one thread only.
    clock = thread_time if torch.get_num_threads() == 1 else perf_counter
    fastest, end = [float("inf")] * len(runs), perf_counter() + _SECONDS
    for run in runs:
        run()
    for done in range(_RUNS):
        if done >= 2 and perf_counter() > end:
            break
        for at, run in enumerate(runs):
            start = clock()
            run()
            fastest[at] = min(fastest[at], clock() - start)
    return fastest
