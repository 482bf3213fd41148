"""Tail dropout as plain tensor code: the reference for every kernel.

`keep_first` is the only operation; a random or a chosen number k of features goes into it. `selection` computes it.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from numbers import Integral
from threading import get_ident
from typing import Any

import torch
from torch import Tensor

from . import selection
from ._torch import constant_in_graphs
from .dims import Dims, check_dims, check_tensor, sample_shape
from .distribution import check_p, exponential, exponential_from_uniforms, rate
from .selection import select
from .shards import is_sharded, on_shard


def keep_first(input: Tensor, k: int | float | Tensor, dim: int = -1) -> Tensor:
    """Keep the first `k` features and set the others to 0.

    Feature j = 1 … n along `dim` stays exactly when j ≤ k. What goes is selected away, not multiplied by 0: a NaN or an inf
    there leaves no trace, and its gradient is exactly 0.

    Args:
        input: any tensor with at least one dim.
        k: how many features stay; n or more keeps all, less than 1 none. A tensor is 0-d, or has as many dims as the input
            with size 1 at `dim`, and elsewhere 1 or the input's size: then every sample has its own k. In compiled code give a
            tensor; every new int compiles anew.
        dim: the dim of features.

    Returns:
        A new tensor of the input's shape, dtype and memory format.

    Raises:
        TypeError: if `k` or `dim` is of a wrong type.
        ValueError: if the input is 0-d, or `k` of a shape that does not fit.
        IndexError: if `dim` is out of range.

    Example:
        >>> keep_first(torch.ones(2, 4), torch.tensor([[1], [3]]))
        tensor([[1., 0., 0., 0.],
                [1., 1., 1., 0.]])
    """
    check_tensor(input)
    _, feature = sample_shape(input.shape, *check_dims((), dim))
    if isinstance(k, Tensor):
        if k.dtype == torch.bool or k.is_complex():
            raise TypeError(f"k is a tensor of dtype {k.dtype}; give integers, or real numbers")
    else:
        if isinstance(k, bool) or not isinstance(k, int | float | Integral):
            raise TypeError(f"k={k!r} is a {type(k).__name__}; give an int or a tensor")
        k = k if isinstance(k, float) else min(int(k), 2**62)  # more than any n
        k = torch.tensor(k, device=input.device)
    fits = k.dim() == input.dim() and k.shape[feature] == 1
    if k.dim() and not (fits and all(a in (1, b) for a, b in zip(k.shape, input.shape, strict=True))):
        raise ValueError(
            f"k has shape {tuple(k.shape)}, which does not fit input of shape {tuple(input.shape)} with dim={dim}: "
            "give a 0-d tensor, or one with the input's dims, of size 1 at dim"
        )
    # A narrow type cannot be compared with every n; and j ≤ NaN is false for every j.
    wide = torch.float64 if k.dtype == torch.float64 else torch.float32 if k.is_floating_point() else torch.int64
    k = k.to(wide)
    return select(input, k.nan_to_num(0) if wide.is_floating_point else k, feature)


def check_float(input: Tensor) -> None:
    """Raise TypeError where dropping is not defined: features that are whole numbers have no gradient to train by."""
    if not (input.is_floating_point() or input.is_complex()):
        raise TypeError(f"input has dtype {input.dtype}; tail dropout in training needs a float: convert with input.float()")


def drop_tail(
    input: Tensor,
    p: float,
    batch_dims: Dims,
    dropout_dim: int,
    inplace: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`tail_dropout` in eager training, for arguments already checked on their own."""
    if (
        0 < input.numel() < selection.SAVE_ONLY_K_FROM
        and 0 < p < 1
        and generator is None
        and input.is_cpu
        and type(input) is Tensor
        and input.is_contiguous()
        and not selection.transformed()
    ):
        # Every call into torch counts at this size, so that what depends on shapes alone is prepared once, memory for E too.
        key = (input.shape, input.dtype, p, batch_dims, dropout_dim, get_ident())
        noise, its_rate, positions = _prepared.get(key) or _prepare(key, input)
        dropped = noise.exponential_(its_rate) < positions
        return input.masked_fill_(dropped, 0) if inplace else input.masked_fill(dropped, 0)
    shape, feature = sample_shape(input.shape, batch_dims, dropout_dim)
    if p == 0 or input.numel() == 0:
        return input
    check_float(input)
    if p == 1:
        return select(input, torch.zeros((), device=input.device), feature, inplace)
    its_rate = rate(p, input.size(feature))
    if is_sharded(input):

        def keep(part: Tensor, start: list[int]) -> Tensor:
            shape, _ = sample_shape(part.shape, batch_dims, dropout_dim)
            return select(part, exponential(part, shape, its_rate, generator).floor() - start[feature], feature, inplace)

        return on_shard(input, keep)
    return select(input, exponential(input, shape, its_rate, generator), feature, inplace)


_prepared: dict[tuple[Any, ...], tuple[Tensor, float, Tensor]] = {}


def _prepare(key: tuple[Any, ...], input: Tensor) -> tuple[Tensor, float, Tensor]:
    """Memory for E (one per thread, as the key has it), the rate, and the positions of the features."""
    shape, _, p, batch_dims, dropout_dim, _ = key
    noise_shape, feature = sample_shape(shape, batch_dims, dropout_dim)
    check_float(input)
    with torch.inference_mode(False):
        noise = torch.empty(noise_shape, dtype=torch.float32, device=input.device)
    n = shape[feature]
    if len(_prepared) >= 256:
        _prepared.clear()
    prepared = noise, rate(p, n), selection.kept_positions(n, feature, len(shape), input.device)
    _prepared[key] = prepared
    return prepared


@constant_in_graphs
def _scale(p: float, n: int) -> float:
    return 1 / rate(p, n) if 0 < p < 1 else 0.0


def tail_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    batch_dim: int | Sequence[int] | None = 0,
    dropout_dim: int = -1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Per sample, keep a random number K of first features and set the tail to 0. Nothing is rescaled.

    K follows `CensoredGeometric(p, n)`: E is drawn from Exponential(λ), λ = `rate(p, n)`, and feature j stays iff j ≤ E. On
    average exactly the share p of the features is dropped.

    Args:
        input: float tensor with at least one dim.
        p: drop probability in [0, 1], the expected share of features dropped.
        training: if False, return the input.
        inplace: write into the input.
        batch_dim: the dim or dims whose every index draws its own K; () draws one for the whole tensor, None means all dims
            but `dropout_dim`.
        dropout_dim: the dim of features.
        generator: source of randomness, on the input's device; in eager code only. The default generator if None.

    Shape:
        Input and output: `(*)`, the same.

    Returns:
        A new tensor; the input itself if `inplace`, not `training`, p = 0, or it is empty.

    Raises:
        TypeError: if an argument is of a wrong type, or the input is not float in training with p > 0.
        ValueError: if p is outside [0, 1], dims repeat or overlap, the input is 0-d, or the generator is of another device.
        IndexError: if a dim is out of range.
    """
    p = check_p(p)
    check_tensor(input)
    dims = check_dims(batch_dim, dropout_dim)
    for name, flag in (("training", training), ("inplace", inplace)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name}={flag!r} is a {type(flag).__name__}; give True or False")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator={generator!r} is a {type(generator).__name__}; give a torch.Generator or None")
    if generator is not None and generator.device.type != input.device.type:
        raise ValueError(f"generator is on {generator.device}, the input on {input.device}; give one of the input's device")
    if training and not torch.compiler.is_compiling():
        return drop_tail(input, p, *dims, inplace, generator)
    shape, feature = sample_shape(input.shape, *dims)
    if not training or p == 0 or input.numel() == 0:
        return input
    check_float(input)
    # In a graph p and n are constants (the text of p, which gives back every bit, and index see to it, also after the compiler
    # made them symbolic): every p compiles anew. The layer hands in a tensor instead.
    scale = _scale(float(f"{p}"), operator.index(input.shape[feature]))
    return select(input, exponential_from_uniforms(input, shape, scale), feature, inplace)
