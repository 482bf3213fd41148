"""Predict from sizes alone whether a ragged product is faster than the full product, and with how many blocks.

Times are predicted in floating-point operations that the device could do in the same time. The constants were fitted on a CPU.
On other devices one call into torch costs more operations (here 10 µs at 500 TFLOP/s), and the prediction is rough.
"""

from __future__ import annotations

import math

import torch

_CALL = {"cpu": 5e6}  # per call into torch
_CALL_ELSEWHERE = 5e9
_PER_BLOCK = 10  # calls
_MOVED = 50  # per element read and written once
_ACTIVATION = 500  # per element; the derivative costs half as much
_LEAST_GAIN = 0.12  # the share of the time that a prediction must save before a ragged product is used
_SMALL = 2**21  # multiplications in the first Linear; below this number a step takes less than 1 ms, and little can be saved


def worth_deciding(elements: int, n: int) -> bool:
    """Return True if the ~10 µs spent deciding are negligible for an input of `elements` elements and n hidden features."""
    return elements * n >= _SMALL


def blocks_that_pay(n: int, rows: int, ends: int, share: float, whole: float, device: str) -> int:
    """Return the best number of blocks for a ragged product, or 0 if the full product is as fast.

    In each row that keeps only a part of the features, half a block on average is computed for nothing. So the more there is to
    compute, the more blocks pay.

    Args:
        n: number of hidden features.
        rows: number of rows of the input.
        ends: number of input features plus number of output features.
        share: share of the hidden features that is kept, on average over the rows.
        whole: share of the rows that keep all features, or 1 if all rows have the same k.
        device: type of the device.
    """
    passes, activations, again = (3, 1.5, 1) if torch.is_grad_enabled() else (1, 1, 0)
    element = 2 * passes * ends + activations * _ACTIVATION
    full = rows * n * element
    element += again * _ACTIVATION  # backward computes the activation again
    block = _PER_BLOCK * passes / 3 * _CALL.get(device, _CALL_ELSEWHERE)
    if whole == 1:
        blocks, cost = 1, share * rows * n * element + block
    else:
        block += _MOVED * rows * ends  # adding up the products
        blocks = max(1, min(n, round(math.sqrt((1 - whole) * rows * n * element / (2 * block)))))
        sorting = 8 * _MOVED * rows * ends
        cost = (share + (1 - whole) / (2 * blocks)) * rows * n * element + blocks * block + sorting
    weights = 2 * passes * _MOVED * n * ends  # weights are read and their gradients written, however few the rows
    return blocks if weights + cost < (1 - _LEAST_GAIN) * (weights + full) else 0
