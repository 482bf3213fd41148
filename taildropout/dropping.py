"""Tail dropout in training for arguments that are checked: draw K and select, eagerly, in a graph, or for jagged tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch
from torch import Tensor

from ._torch import constant_in_graphs
from .dims import Dims, check_float, check_layout, features_of, sample_dims, sample_shape
from .distribution import exponential, exponential_from_uniforms, rate
from .selection import Spread, dispatch, is_jagged, is_sharded, kept_positions, on_components, on_shard, select, transformed


def drop_tail(
    input: Tensor,
    p: float,
    batch_dims: Dims,
    dropout_dim: int,
    inplace: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Compute `tail_dropout` in training and eager mode, for `p` and dims that `check_p` and `check_dims` have checked."""
    count = input.numel()
    if (
        type(count) is int
        and 0 < count < dispatch.SAVE_ONLY_K_FROM
        and 0 < p < 1
        and generator is None
        and input.is_cpu
        and type(input) is Tensor
        and input.layout is torch.strided
        and input.is_contiguous()
        and not transformed()
    ):
        # At this size every call into torch counts, so all that depends on shapes alone is prepared once, also memory for E.
        try:
            key = (input.shape, input.dtype, p, batch_dims, dropout_dim, get_ident())
        except RuntimeError:
            check_layout(input)
            raise
        noise, its_rate, positions = _prepared.get(key) or _prepare(key, input)
        dropped = noise.exponential_(its_rate) < positions
        return input.masked_fill_(dropped, 0) if inplace else input.masked_fill(dropped, 0)
    if type(count) is not int:  # in `torch.jit.trace`
        return drop_in_graph_at(input, p, batch_dims, dropout_dim, inplace)
    if type(input) is not Tensor and is_jagged(input):
        return drop_jagged(input, p, batch_dims, dropout_dim, inplace, generator)
    check_layout(input)
    shape, feature = sample_shape(input.shape, batch_dims, dropout_dim)
    if p == 0 or count == 0:
        return input
    check_float(input)
    look_for_columns(input.dim(), batch_dims, dropout_dim)
    if p == 1:
        return select(input, torch.zeros((), device=input.device), feature, inplace)
    its_rate = rate(p, input.size(feature))
    if is_sharded(input):

        def keep(part: Tensor, start: list[int]) -> Tensor:
            shape, _ = sample_shape(part.shape, batch_dims, dropout_dim)
            return select(part, exponential(part, shape, its_rate, generator).floor() - start[feature], feature, inplace)

        return on_shard(input, keep)
    return select(input, exponential(input, shape, its_rate, generator), feature, inplace)


Constants = Callable[[int, torch.device], tuple[float | Tensor, Tensor | None]]


def drop_in_graph(input: Tensor, constants: Constants, batch_dims: Dims, dropout_dim: int, inplace: bool) -> Tensor:
    """Compute `tail_dropout` in training so that compilers and `torch.jit.trace` can record it, with n as a constant.

    `constants(n, device)` returns 1/λ and the positions 1 … n; or None for the positions, which the graph then computes.
    """
    shape, feature = sample_shape(input.shape, batch_dims, dropout_dim)
    check_float(input)
    look_for_columns(input.dim(), batch_dims, dropout_dim)
    scale, one_to_n = constants(features_of(input, feature), input.device)
    return select(input, exponential_from_uniforms(input, shape, scale), feature, inplace, one_to_n)


def drop_in_graph_at(input: Tensor, p: float, batch_dims: Dims, dropout_dim: int, inplace: bool) -> Tensor:
    """Compute `drop_in_graph` for a p that is a constant of the graph. TailDropout gives 1/λ as a tensor instead."""
    sample_dims(input.dim(), batch_dims, dropout_dim)  # raises if the dims do not fit
    if p == 0:
        return input
    return drop_in_graph(input, lambda n, _: (_graph_scale(p, n), None), batch_dims, dropout_dim, inplace)


def _graph_scale(p: float, n: int) -> float:
    # By way of text, which loses no bit, p is a constant even if a compiler made it symbolic. So every p is compiled anew.
    return _scale(float(f"{p}"), n)


def drop_jagged(
    input: Tensor, p: float, batch_dims: Dims, dropout_dim: int, inplace: bool, generator: torch.Generator | None = None
) -> Tensor:
    """Compute `tail_dropout` of a jagged tensor in training: one K per component if `batch_dims` has dim 0 and not dim 1.

    Raises:
        ValueError: if `inplace` is True, or as in `on_components`.
    """
    if inplace:
        raise ValueError("inplace=True, but input is a jagged tensor, which cannot be written into; leave inplace out")
    batch, feature = sample_dims(input.dim(), batch_dims, dropout_dim)
    inner = tuple(sorted({max(0, dim - 1) for dim in batch}))

    def keep(values: Tensor, spread: Spread) -> Tensor:
        """Drop the tails of the concatenated components; `spread` repeats a K per component for its rows."""
        compiling = torch.compiler.is_compiling()
        if not (0 in batch and 1 not in batch and 0 < p < 1):
            if compiling:
                return drop_in_graph_at(values, p, inner, feature - 1, False)
            return drop_tail(values, p, inner, feature - 1, generator=generator)
        check_float(values)
        shape, _ = sample_shape((input.shape[0], *values.shape[1:]), inner, feature - 1)
        if compiling:
            drawn = exponential_from_uniforms(values, shape, _graph_scale(p, features_of(values, feature - 1)))
        else:
            drawn = exponential(values, shape, rate(p, values.shape[feature - 1]), generator)
        return select(values, spread(drawn), feature - 1)

    return on_components(input, batch, feature, keep)


_warned_of_columns = False


def look_for_columns(ndim: int, batch_dims: Dims, dropout_dim: int) -> None:
    """Warn once if the input has 4 dims, as images do, and the default dims, which take the columns of images as features."""
    if ndim == 4 and dropout_dim == -1 and batch_dims == (0,):
        _warn_of_columns()


@constant_in_graphs
def _warn_of_columns() -> None:
    global _warned_of_columns
    if not _warned_of_columns:
        _warned_of_columns = True
        warnings.warn(
            "input has 4 dims and dropout_dim is -1, its default: if the dims are (N, C, H, W), the columns of the images are "
            "the features; give dropout_dim=1 for the channels, or dropout_dim=3 if the last dim holds the features",
            stacklevel=2,
        )


_prepared: dict[tuple[Any, ...], tuple[Tensor, float, Tensor]] = {}


def _prepare(key: tuple[Any, ...], input: Tensor) -> tuple[Tensor, float, Tensor]:
    """Return, and keep under `key`, memory for E, the rate λ, and the positions of the features.

    The thread's id is part of the key, so that no two threads share memory.
    """
    shape, _, p, batch_dims, dropout_dim, _ = key
    noise_shape, feature = sample_shape(shape, batch_dims, dropout_dim)
    check_float(input)
    look_for_columns(len(shape), batch_dims, dropout_dim)
    with torch.inference_mode(False):
        noise = torch.empty(noise_shape, dtype=torch.float32, device=input.device)
    n = shape[feature]
    if len(_prepared) >= 256:
        _prepared.clear()
    prepared = noise, rate(p, n), kept_positions(n, feature, len(shape), input.device)
    _prepared[key] = prepared
    return prepared


@constant_in_graphs
def _scale(p: float, n: int) -> float:
    return 1 / rate(p, n) if 0 < p < 1 else 0.0
