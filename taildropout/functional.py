"""Tail dropout as functions: `keep_first` for a given k, and `tail_dropout`, which draws K and calls the same code.

`selection` computes keep_first; this module checks arguments and draws K.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from threading import get_ident
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from ._torch import constant_in_graphs
from .dims import (
    Dims,
    check_dim,
    check_dims,
    check_layout,
    check_tensor,
    constant_sizes,
    features_of,
    from_0,
    sample_dims,
    sample_shape,
)
from .distribution import check_p, exponential, exponential_from_uniforms, rate
from .selection import (
    Spread,
    dispatch,
    is_jagged,
    is_sharded,
    kept_positions,
    on_components,
    on_shard,
    select,
    transformed,
)
from .tracing import overridden


def keep_first(input: Tensor, k: int | float | Tensor, dim: int = -1) -> Tensor:
    """Keep the first `k` features and set the others to 0.

    Feature j = 1 … n along `dim` is kept exactly when j ≤ k. The other features are selected away, not multiplied by 0: a NaN
    or an inf among them leaves no trace, and their gradient is exactly 0.

    Args:
        input: any tensor with at least one dim.
        k: the number of features kept; n or more keeps all, less than 1 none. A tensor is 0-d; or it has as many dims as the
            input, with size 1 at `dim` and elsewhere 1 or the input's size, so that every sample has its own k. In compiled
            code give a tensor, because every new int compiles again. `torch.jit.trace` records this function, but
            `torch.jit.script` cannot read it.
        dim: the dim of features. Default: -1

    Returns:
        A new tensor of the input's shape, dtype and memory format.

    Raises:
        TypeError: if `input`, `k` or `dim` has a wrong type.
        ValueError: if the input is 0-d, or the shape of `k` does not fit.
        IndexError: if `dim` is out of range.

    Shape:
        Input and output: :math:`(*)`, the same, with one dim or more.

    Examples:
        >>> keep_first(torch.ones(2, 4), torch.tensor([[1], [3]]))
        tensor([[1., 0., 0., 0.],
                [1., 1., 1., 0.]])
    """
    if not (type(input) is Tensor and type(k) in (int, Tensor)) and overridden(input, k):
        return handle_torch_function(keep_first, (input, k), input, k, dim)
    check_tensor(input)
    check_layout(input)
    feature = from_0("dim", check_dim(dim, "dim"), input.dim())
    if isinstance(k, Tensor):
        if k.dtype == torch.bool or k.is_complex():
            raise TypeError(f"k is a tensor of dtype {k.dtype}; give integers, or real numbers")
    else:
        if isinstance(k, bool) or not isinstance(k, int | float | Real):
            raise TypeError(f"k={k!r} has type {type(k).__name__}; give an int or a tensor")
        k = max(-1, min(int(k), 2**62)) if isinstance(k, int | Integral) else float(k)  # 2**62: more than any n
        k = torch.full((), k, device=input.device)
    if k.dim() and not _fits(constant_sizes(k.shape), constant_sizes(input.shape), feature):
        raise ValueError(
            f"k has shape {tuple(k.shape)}, which does not fit input of shape {tuple(input.shape)} with dim={dim}: "
            "give a 0-d tensor, or one with the input's dims, of size 1 at dim"
        )
    # A narrow dtype cannot be compared with every n; and a NaN keeps nothing, because j ≤ NaN is false for every j.
    wide = torch.float64 if k.dtype == torch.float64 else torch.float32 if k.is_floating_point() else torch.int64
    k = k.to(wide)
    k = k.nan_to_num(0) if wide.is_floating_point else k
    if type(input) is not Tensor and is_jagged(input) and not k.dim():
        return on_components(input, (), feature, lambda values, _: select(values, k, feature - 1))
    return select(input, k, feature)


def _fits(k_shape: Sequence[int], shape: Sequence[int], feature: int) -> bool:
    """Return True if a k with as many dims as the input broadcasts to the input, and has size 1 at dim `feature`."""
    same_dims = len(k_shape) == len(shape) and k_shape[feature] == 1
    return same_dims and all(a in (1, b) for a, b in zip(k_shape, shape, strict=True))


def check_float(input: Tensor) -> None:
    """Raise TypeError if `input` is neither floating-point nor complex (other dtypes have no gradient), or has 8 bits.

    For 8 bits torch has neither `masked_fill` nor products in training.
    """
    if not (input.is_floating_point() or input.is_complex()):
        raise TypeError(f"input has dtype {input.dtype}; tail dropout in training needs a float: convert with input.float()")
    if input.dtype.itemsize == 1:
        raise TypeError(f"input has dtype {input.dtype}, in which torch cannot train; convert with input.bfloat16()")


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
        return _drop_in_graph_at(input, p, batch_dims, dropout_dim, inplace)
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


def _drop_in_graph_at(input: Tensor, p: float, batch_dims: Dims, dropout_dim: int, inplace: bool) -> Tensor:
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
                return _drop_in_graph_at(values, p, inner, feature - 1, False)
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
    r"""Keep a random number K of each sample's first features, and set the tail to 0 without rescaling.

    .. math:: P(K \ge j) = e^{-\lambda j}, \quad j = 1 \dots n, \qquad \mathrm{mean}_j\, e^{-\lambda j} = 1 - p

    K follows `CensoredGeometric(p, n)`: E is drawn from Exponential(λ), λ = `rate(p, n)`, and feature j is kept iff j ≤ E. On
    average exactly the share p of the features is dropped.

    Args:
        input: float tensor with at least one dim.
        p: drop probability in [0, 1]: the expected share of features dropped. Default: 0.5
        training: if False, return the input. Default: True
        inplace: if True, write into the input. Default: False
        batch_dim: the dim or dims whose every index is a sample with its own K; `()` draws one K for the whole input; None
            means all dims but `dropout_dim`. Default: 0
        dropout_dim: the dim of features. Default: -1
        generator: source of randomness on the input's device, in eager code only; None means the default generator.

    Returns:
        A new tensor; the input itself if `inplace` is True, `training` is False, p is 0, or the input is empty.

    Raises:
        TypeError: if an argument has a wrong type, or the input is not float in training with p > 0.
        ValueError: if `p` is outside [0, 1], dims repeat or overlap, the input is 0-d, or the generator is on another device.
        IndexError: if a dim is out of range.

    Shape:
        Input and output: :math:`(*)`, the same, with one dim or more.

    Examples:
        >>> output = tail_dropout(torch.ones(20, 8), p=0.5)  # each row keeps a random prefix
        >>> tail_dropout(torch.ones(2, 3), p=1.0)
        tensor([[0., 0., 0.],
                [0., 0., 0.]])
    """
    if type(input) is not Tensor and overridden(input):
        named: Any = {"batch_dim": batch_dim, "dropout_dim": dropout_dim, "generator": generator}
        return handle_torch_function(tail_dropout, (input,), input, p, training, inplace, **named)
    p = check_p(p)
    check_tensor(input)
    dims = check_dims(batch_dim, dropout_dim)
    for name, flag in (("training", training), ("inplace", inplace)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name}={flag!r} has type {type(flag).__name__}; give True or False")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator={generator!r} has type {type(generator).__name__}; give a torch.Generator or None")
    if generator is not None and generator.device.type != input.device.type:
        raise ValueError(
            f"generator is on {generator.device}, but the input on {input.device}; give a generator on the input's device"
        )
    if training and not torch.compiler.is_compiling():
        return drop_tail(input, p, *dims, inplace, generator)
    if not training or input.numel() == 0:
        sample_dims(input.dim(), *dims)  # raises if the dims do not fit
        return input
    if type(input) is not Tensor and is_jagged(input):
        return drop_jagged(input, p, *dims, inplace, generator)
    return _drop_in_graph_at(input, p, *dims, inplace)
