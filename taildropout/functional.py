"""Tail dropout as plain tensor code: the reference for every kernel.

`keep_first` is the only operation; a random or a chosen number k of features goes into it. Three ways compute it, all bitwise
equal: under a compiler one `where`; in eager a `masked_fill` for small inputs; and for large ones an autograd function that
saves nothing but k and, where memory order allows, builds its mask rows by copying windows of one vector.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import lru_cache
from threading import get_ident
from typing import Any, cast

import torch
from torch import Tensor

from .distribution import check_p, exponential, exponential_from_uniforms, rate

# From this many elements on, an autograd function that saves k alone is used. It costs some 90 µs a step more than a
# `masked_fill`, which saves a byte per element and is slow; on a CPU the two are measured to meet at about 50 000.
SAVE_ONLY_K_FROM = 2**16

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_dims(batch_dim: object, dropout_dim: object) -> tuple[tuple[int, ...], int]:
    """Return `batch_dim` as a tuple, and `dropout_dim`.

    Raises:
        TypeError: if a dim is not an int (bool is none).
    """
    if isinstance(batch_dim, bool) or isinstance(dropout_dim, bool):
        raise TypeError(
            f"batch_dim={batch_dim!r}, dropout_dim={dropout_dim!r}: a dim is an int, not a bool; "
            "for nn.Dropout's second argument write inplace=True"
        )
    dims = tuple(batch_dim) if isinstance(batch_dim, Sequence) and not isinstance(batch_dim, str) else (batch_dim,)
    for name, dim in [("dropout_dim", dropout_dim), *(("batch_dim", each) for each in dims)]:
        if isinstance(dim, bool) or not isinstance(dim, int):
            raise TypeError(f"{name} has {dim!r}, a {type(dim).__name__}; a dim is an int")
    return dims, dropout_dim  # type: ignore[return-value]


def _normalize(name: str, dim: int, ndim: int) -> int:
    if not -ndim <= dim < ndim:
        raise IndexError(f"{name}={dim} is out of range for an input with {ndim} dims; give {-ndim} … {ndim - 1}")
    return operator.index(dim % ndim)  # an int also where a compiler made dims symbolic: `in` is wrong on those


def sample_shape(shape: Sequence[int], batch_dims: tuple[int, ...], dropout_dim: int) -> tuple[tuple[int, ...], int]:
    """The shape of k for an input of this shape (1 everywhere but in the batch dims), and the feature dim from 0.

    Raises:
        IndexError: if a dim is out of range.
        ValueError: if dims repeat or overlap, or the input has no dim.
    """
    ndim = len(shape)
    if ndim == 0:
        raise ValueError("input is 0-d; tail dropout needs a dim of features: give a tensor with 1 dim or more")
    feature = _normalize("dropout_dim", dropout_dim, ndim)
    batch = [_normalize("batch_dim", dim, ndim) for dim in batch_dims]
    if len(set(batch)) < len(batch):
        raise ValueError(f"batch_dim={list(batch_dims)} repeats a dim of an input with {ndim} dims; name each once")
    if feature in batch:
        raise ValueError(
            f"batch_dim={list(batch_dims)} and dropout_dim={dropout_dim} overlap in an input with {ndim} dims; "
            "samples and features need dims of their own (batch_dim=() draws one k for the whole tensor)"
        )
    return tuple(size if dim in batch else 1 for dim, size in enumerate(shape)), feature


def _positions(n: int, feature: int, ndim: int, device: torch.device) -> Tensor:
    """1 … n along dim `feature` of `ndim`, in the narrowest float that counts so far exactly."""
    dtype = torch.float32 if n <= 2**24 else torch.float64
    line = torch.arange(1, n + 1, dtype=dtype, device=device)
    return line.reshape(*[1] * feature, -1, *[1] * (ndim - feature - 1))


def _windows(n: int, dtype: torch.dtype) -> Tensor:
    """Row i is n − i elements of all-one bits, then i of all-zero bits: overlapping windows of one vector."""
    bits = torch.zeros(2 * n, dtype=dtype)
    bits[:n] = -1
    return bits.unfold(0, n, 1)


_constants: dict[tuple[Any, ...], Tensor] = {}


def _constant(make: Callable[..., Tensor], n: int, *args: Any) -> Tensor:
    """`make(n, *args)`, kept for the next call: at 128 elements making it anew costs as much as all the rest."""
    key = (make, n, *args)
    kept = _constants.get(key)
    if kept is None:
        with torch.inference_mode(False):
            kept = make(n, *args)
        # A fake tensor, or one that a CUDA graph has yet to fill, is none to keep; nor is one of many megabytes.
        capturing = kept.is_cuda and torch.cuda.is_current_stream_capturing()
        if type(kept) is Tensor and not capturing and n <= 2**16:
            if len(_constants) >= 128:
                _constants.clear()
            _constants[key] = kept
    return kept


@lru_cache(maxsize=1024)
def _rows(
    shape: torch.Size, strides: tuple[int, ...], k_shape: torch.Size, feature: int
) -> tuple[list[int], list[int], list[int]] | None:
    """The dims in memory order, the way back, and the shape of the mask rows then; None where windows don't fit.

    They fit where the tensor is dense and k does not vary within what is one row of features in memory.
    """
    order = sorted(range(len(shape)), key=lambda dim: -strides[dim])
    expected = 1
    for dim in reversed(order):
        if shape[dim] != 1 and strides[dim] != expected:
            return None
        expected *= shape[dim]
    place = order.index(feature)
    sizes = [k_shape[dim] if k_shape else 1 for dim in order]
    if any(size > 1 for size in sizes[place + 1 :]):
        return None
    sizes[place] = shape[feature]
    return order, [order.index(dim) for dim in range(len(shape))], sizes


def _fill(input: Tensor, dropped: Tensor, inplace: bool) -> Tensor:
    if inplace:
        return input.masked_fill_(dropped, 0)
    # `masked_fill` is the fastest with its backward, but its result is always contiguous; `clone` keeps the layout.
    if input.is_contiguous() or torch._C._are_functorch_transforms_active():
        return input.masked_fill(dropped, 0)
    return input.clone().masked_fill_(dropped, 0)


def _select(input: Tensor, k: Tensor, feature: int, inplace: bool) -> Tensor:
    """keep_first without autograd, writing little more than the result."""
    n = input.size(feature)
    plain = type(input) is Tensor and input.is_cpu and input.is_floating_point() and not input.is_neg()
    rows = _rows(input.shape, input.stride(), k.shape, feature) if plain else None
    if rows is None:
        return _fill(input, k < _positions(n, feature, input.dim(), input.device), inplace)
    order, back, mask_shape = rows
    moved = order != sorted(order)
    dtype = _BITS[input.element_size()]
    bits = (input.permute(order) if moved else input).view(dtype)
    k = k.permute(order) if moved and k.dim() else k
    start = n - k.clamp(0, n).to(torch.int64)
    mask = _constant(_windows, n, dtype).index_select(0, start.reshape(-1)).view(mask_shape)
    if inplace:
        bits.bitwise_and_(mask)
        return input
    kept = (mask.bitwise_and_(bits) if mask.shape == bits.shape else bits.bitwise_and(mask)).view(input.dtype)
    return kept.permute(back) if moved else kept


class _KeepFirst(torch.autograd.Function):
    """keep_first that saves k alone. It is linear, so that its derivative in either direction is itself."""

    @staticmethod
    def forward(input: Tensor, k: Tensor, feature: int, inplace: bool) -> Tensor:
        return _select(input, k, feature, inplace)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, k, ctx.feature, ctx.inplace = inputs
        ctx.save_for_backward(k)
        ctx.save_for_forward(k)
        if ctx.inplace:
            ctx.mark_dirty(input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (k,) = ctx.saved_tensors
        return _keep_saving_k(grad, k, ctx.feature, False), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (k,) = ctx.saved_tensors
        return _select(tangent, k, ctx.feature, ctx.inplace)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], input: Tensor, k: Tensor, feature: int, inplace: bool
    ) -> tuple[Tensor, int]:
        at = in_dims[0]
        input = input.expand(info.batch_size, *input.shape) if at is None else input.movedim(at, 0)
        if in_dims[1] is not None:
            k = k.movedim(in_dims[1], 0)
            k = k.reshape(-1, *(k.shape[1:] or [1] * (input.dim() - 1)))
        elif k.dim():
            k = k.unsqueeze(0)
        return _keep_saving_k(input, k, feature + 1, inplace), 0


# `Function.apply` inspects the signature of forward at every call, which takes longer than a kernel; its base does not. Only
# functorch needs the whole of it.
_apply: Callable[..., Tensor] = super(torch.autograd.Function, _KeepFirst).apply


def _keep_saving_k(input: Tensor, k: Tensor, feature: int, inplace: bool) -> Tensor:
    if torch._C._are_functorch_transforms_active():
        return cast(Tensor, _KeepFirst.apply(input, k, feature, inplace))  # type: ignore[no-untyped-call]
    return _apply(input, k, feature, inplace)


def select(input: Tensor, k: Tensor, feature: int, inplace: bool = False) -> Tensor:
    """`keep_first` for arguments already checked: `feature` counts from 0, `k` broadcasts to the input."""
    if torch.compiler.is_compiling():
        stays = _positions(input.shape[feature], feature, input.dim(), input.device) <= k
        kept = torch.where(stays, input, 0)
        return input.copy_(kept) if inplace else kept
    if input.numel() >= SAVE_ONLY_K_FROM:
        return _keep_saving_k(input, k, feature, inplace)
    return _fill(input, k < _constant(_positions, input.size(feature), feature, input.dim(), input.device), inplace)


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
    _, feature = sample_shape(input.shape, *check_dims((), dim))
    if not isinstance(k, Tensor):
        if isinstance(k, bool) or not isinstance(k, int | float):
            raise TypeError(f"k={k!r} is a {type(k).__name__}; give an int or a tensor")
        k = torch.tensor(k, device=input.device)
    fits = k.dim() == input.dim() and k.shape[feature] == 1
    if k.dim() and not (fits and all(a in (1, b) for a, b in zip(k.shape, input.shape, strict=True))):
        raise ValueError(
            f"k has shape {tuple(k.shape)}, which does not fit input of shape {tuple(input.shape)} with dim={dim}: "
            "give a 0-d tensor, or one with the input's dims, of size 1 at dim"
        )
    return select(input, k, feature)


def check_float(input: Tensor) -> None:
    """Raise TypeError where dropping is not defined: features that are whole numbers have no gradient to train by."""
    if not (input.is_floating_point() or input.is_complex()):
        raise TypeError(f"input has dtype {input.dtype}; tail dropout in training needs a float: convert with input.float()")


def drop_tail(
    input: Tensor,
    p: float,
    batch_dims: tuple[int, ...],
    dropout_dim: int,
    inplace: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`tail_dropout` in eager training, for arguments already checked on their own."""
    if (
        0 < input.numel() < SAVE_ONLY_K_FROM
        and 0 < p < 1
        and generator is None
        and input.is_cpu
        and type(input) is Tensor
        and input.is_contiguous()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
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
    zero = torch.zeros((), device=input.device)
    k = zero if p == 1 else exponential(input, shape, rate(p, input.size(feature)), generator)
    return select(input, k, feature, inplace)


_prepared: dict[tuple[Any, ...], tuple[Tensor, float, Tensor]] = {}


def _prepare(key: tuple[Any, ...], input: Tensor) -> tuple[Tensor, float, Tensor]:
    """Memory for E (one per thread, as the key has it), the rate, and the positions of the features."""
    shape, _, p, batch_dims, dropout_dim, _ = key
    noise_shape, feature = sample_shape(shape, batch_dims, dropout_dim)
    check_float(input)
    with torch.inference_mode(False):
        noise = torch.empty(noise_shape, dtype=torch.float32)
    n = shape[feature]
    if len(_prepared) >= 256:
        _prepared.clear()
    prepared = noise, rate(p, n), _constant(_positions, n, feature, len(shape), input.device)
    _prepared[key] = prepared
    return prepared


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # so that no compiler looks inside the root finder
def _scale(p: float, n: int) -> float:
    return 1 / rate(p, n) if 0 < p < 1 else 0.0


def tail_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    batch_dim: int | Sequence[int] = 0,
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
        batch_dim: the dim or dims whose every index draws its own K; () draws one for the whole tensor.
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
    dims = check_dims(batch_dim, dropout_dim)
    if generator is not None and generator.device.type != input.device.type:
        raise ValueError(f"generator is on {generator.device}, the input on {input.device}; give one of the input's device")
    if training and not torch.compiler.is_compiling():
        return drop_tail(input, p, *dims, inplace, generator)
    shape, feature = sample_shape(input.shape, *dims)
    if not training or p == 0 or input.numel() == 0:
        return input
    check_float(input)
    # In a graph p and n are constants (hex and index see to it, also after the compiler made them symbolic): every p compiles
    # anew. The layer hands in a tensor instead.
    scale = _scale(float.fromhex(p.hex()), operator.index(input.shape[feature]))
    return select(input, exponential_from_uniforms(input, shape, scale), feature, inplace)
