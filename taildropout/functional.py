"""Tail dropout as functions: `keep_first` for a given k, and `tail_dropout`, which draws K.

This module checks arguments; `dropping` draws K, and `selection` computes keep_first.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from .dims import check_dim, check_dims, check_layout, check_tensor, constant_sizes, from_0, sample_dims
from .distribution import check_p
from .dropping import drop_in_graph_at, drop_jagged, drop_tail
from .selection import is_jagged, on_components, select
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
    return drop_in_graph_at(input, p, *dims, inplace)
