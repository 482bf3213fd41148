"""keep_first on a GPU in one launch: a Triton kernel that reads the kept features and writes the result.

A row is a piece of memory with n features of `unit` elements each; the first k[r] · unit elements of row r are kept. The tail
is not read, except for the rest of the 16 bytes in which it begins, and not multiplied: the kernel moves bits.

This module needs Triton. `dispatch` imports it for the first large tensor on a GPU.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.jit import JITFunction

from .layout import Layout

# Bytes that one program moves, and bytes that one of its 128 threads loads at once. The time over that of a copy, on an H100 in
# float32 at p = .5, is .77 for rows of 4096 features and .80 for rows of 128; with TILE_BYTES of 8192 it is .78 and .83, with
# 16384 and 256 threads .78 and .81.
TILE_BYTES, VECTOR_BYTES = 4096, 16

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@triton.jit  # type: ignore[untyped-decorator]
def _keep_rows(
    input: tl.tensor,
    output: tl.tensor,
    k: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    n: tl.tensor,
    unit: tl.tensor,
    share: tl.tensor,
    count: tl.tensor,
    INPLACE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    VECTOR: tl.constexpr,
) -> None:
    """Write a tile of ROWS rows and COLS columns. The k of row r is k[(r // share) % count]; `width` is n · unit elements.

    Offsets in memory are 64-bit; columns are 64-bit only if rows are that long.
    """
    tile = tl.program_id(0)
    across = (width - 1) // COLS + 1  # width may be the largest int32
    row = (tile // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    start = tile % across * COLS
    col = tl.arange(0, COLS)
    inside = row < rows
    drawn = tl.load(k + (row // share) % count, mask=inside, other=0).to(tl.float64)
    features = tl.where(drawn >= n, n, tl.where(drawn > 0, drawn, 0.0)).to(tl.int64)  # 0 for NaN
    kept = tl.minimum(tl.maximum(features * unit - start, 0), COLS).to(tl.int32)[:, None]
    # To load and store whole vectors, the compiler must know that masks change only between vectors.
    whole = kept // VECTOR * VECTOR
    begun = (kept + VECTOR - 1) // VECTOR * VECTOR
    col = col[None, :]
    written = inside[:, None] & (col < width - start)
    read = written & (col < begun)
    if INPLACE:  # the kept features are there already
        read = read & (col >= whole)
        written = written & (col >= whole)
    place = (row * width + start)[:, None] + col
    value = tl.load(input + place, mask=read, other=0)
    tl.store(output + place, tl.where(col < kept, value, 0), mask=written)


class _Plan(NamedTuple):
    """The arguments of a launch that follow from sizes alone, named as in `_keep_rows`."""

    sizes: tuple[int, int, int, int, int, int]  # rows, width, n, unit, share, count
    tile: tuple[int, int, int]  # ROWS, COLS, VECTOR
    grid: tuple[int]
    as_it_is: bool  # True if the values of a contiguous k are in the order of the rows
    per_row: tuple[int, ...] | None  # the shape to expand k to, if k needs a value for every row


@lru_cache(maxsize=1024)
def _plan(rows: Layout, k_shape: tuple[int, ...], n: int, unit: int, element: int, tile_bytes: int) -> _Plan:
    """Plan a launch for n features of `unit` elements of `element` bytes, in tiles of `tile_bytes` bytes."""
    total, width = math.prod(rows.per_row), n * unit
    across = min(1 << max(0, width - 1).bit_length(), tile_bytes // element)
    down = tile_bytes // element // across
    sizes = [k_shape[dim] for dim in rows.order] if k_shape else []
    varying = [at for at, size in enumerate(sizes) if size != 1]
    share, count, per_row = 1, 1, None  # one k for all rows
    if varying:
        first, last = varying[0], varying[-1] + 1
        if sizes[first:last] == list(rows.per_row[first:last]):
            share, count = math.prod(rows.per_row[last:]), math.prod(sizes)
        else:  # two dims with a k of their own and one without between them
            count, per_row = total, rows.per_row
    dims = [rows.order[at] for at in varying]
    # Not `triton.cdiv`: a call of it takes the host 5 µs.
    grid = (-(-total // down) * -(-width // across),)
    return _Plan(
        (total, width, n, unit, share, count),
        (down, across, VECTOR_BYTES // element),
        grid,
        dims == sorted(dims) and per_row is None,
        per_row,
    )


def launch(input: Tensor, output: Tensor, k: Tensor, feature: int, rows: Layout) -> None:
    """Write keep_first of `input` into `output`, which has the same shape and strides, or is `input` itself.

    Raises:
        ValueError: if `input` is on the CPU.
    """
    n, unit = input.size(feature), rows.unit
    inplace = input is output
    if input.element_size() == 16:  # complex128: two numbers, each with bits of its own
        input, output, unit = torch.view_as_real(input), torch.view_as_real(output), 2 * unit
    size = input.element_size()
    input, output = input.view(_BITS[size]), output.view(_BITS[size])
    if input.device.type == "cpu" and isinstance(_keep_rows, JITFunction):
        raise ValueError("input is on the CPU, but this kernel is for GPUs; call taildropout.keep_first, which takes both")
    plan = _plan(rows, tuple(k.shape), n, unit, size, TILE_BYTES)
    if not (plan.as_it_is and k.is_contiguous()):
        k = k.permute(rows.order)
        k = (k if plan.per_row is None else k.expand(plan.per_row)).contiguous()
    arguments = (input, output, k, *plan.sizes, inplace, *plan.tile)
    with torch.cuda.device_of(input):  # Triton launches on the current device
        _run(plan, arguments)


_compiled: dict[tuple[object, ...], Any] = {}


def _run(plan: _Plan, arguments: tuple[Any, ...]) -> None:
    """Launch the kernel. Reuse what Triton compiled for an earlier launch with the same key.

    A launch by Triton inspects every argument, which takes the host of an H100 16 µs more. The key holds all that Triton looks
    at: the value of an int; the dtype of a tensor, and whether its memory starts at a multiple of 16 bytes.
    """
    if torch.version.cuda is None or not isinstance(_keep_rows, JITFunction):  # on other GPUs Triton looks at more
        _keep_rows[plan.grid](*arguments)
        return
    input, output, k, *numbers = arguments
    aligned = tuple(each.data_ptr() % 16 == 0 for each in (input, output, k))
    key = (input.device, input.dtype, k.dtype, aligned, *numbers)
    known = _compiled.get(key)
    if known is not None:
        known[(*plan.grid, 1, 1)](*arguments)
        return
    if len(_compiled) >= 1024:
        _compiled.clear()
    _compiled[key] = _keep_rows[plan.grid](*arguments)
