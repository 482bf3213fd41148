"""Which dims of an input are samples and which is the dim of features, and which inputs are accepted."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor


def check_tensor(input: object) -> None:
    """Raise TypeError if `input` is not a tensor."""
    if not isinstance(input, Tensor):
        if type(input).__module__ == "numpy":
            raise TypeError("input is a NumPy array; give a tensor: torch.from_numpy(input)")
        raise TypeError(f"input has type {type(input).__name__}; give a tensor")


def check_layout(input: Tensor) -> None:
    """Raise an error unless `input` is dense or jagged: the rows of others have no place in memory, or no readable shape.

    Raises:
        TypeError: if `input` is sparse.
        ValueError: if `input` is a nested tensor with the older layout, torch.strided.
    """
    if input.layout not in (torch.strided, torch.jagged):
        raise TypeError(f"input has the layout {input.layout}; give a dense tensor: input.to_dense()")
    if input.is_nested and input.layout != torch.jagged:
        raise ValueError(
            "input is a nested tensor with the layout torch.strided; pad it: torch.nested.to_padded_tensor(input, 0.0), or "
            "make it jagged: torch.nested.as_nested_tensor(input.unbind(), layout=torch.jagged)"
        )


def check_float(input: Tensor) -> None:
    """Raise TypeError if `input` is neither floating-point nor complex (other dtypes have no gradient), or has 8 bits.

    For 8 bits torch has neither `masked_fill` nor products in training.
    """
    if not (input.is_floating_point() or input.is_complex()):
        raise TypeError(f"input has dtype {input.dtype}; tail dropout in training needs a float: convert with input.float()")
    if input.dtype.itemsize == 1:
        raise TypeError(f"input has dtype {input.dtype}, in which torch cannot train; convert with input.bfloat16()")


Dims = tuple[int, ...] | None  # dims of samples; None means all dims but that of features


def check_dim(dim: object, name: str) -> int:
    """Return `dim` as an int; `name` names the argument in messages.

    Raises:
        TypeError: if `dim` is a bool, or not an integer of Python or NumPy.
    """
    if type(dim) is int:
        return dim
    if isinstance(dim, bool) or not isinstance(dim, Integral):
        raise TypeError(f"{name} has {dim!r} of type {type(dim).__name__}; a dim is an int")
    return int(dim)


def check_dims(batch_dim: object, dropout_dim: object) -> tuple[Dims, int]:
    """Return `batch_dim` as a tuple of ints, or None if it is None, and `dropout_dim` as an int; `sample_dims` checks ranges.

    Raises:
        TypeError: if a dim is a bool or not an integer.
    """
    if isinstance(batch_dim, bool) or isinstance(dropout_dim, bool):
        raise TypeError(
            f"batch_dim={batch_dim!r}, dropout_dim={dropout_dim!r}: a dim is an int, not a bool; "
            "for nn.Dropout's second argument write inplace=True"
        )
    dims = tuple(batch_dim) if isinstance(batch_dim, Sequence) and not isinstance(batch_dim, str) else (batch_dim,)
    if batch_dim is None:
        dims = ()
    feature = check_dim(dropout_dim, "dropout_dim")
    checked = tuple(check_dim(each, "batch_dim") for each in dims)
    return None if batch_dim is None else checked, feature


def as_given(batch_dim: object, dims: Dims) -> int | list[int] | None:
    """Return the checked `dims` in the form in which the user gave `batch_dim`: an int, a list or None."""
    if dims is None:
        return None
    return list(dims) if isinstance(batch_dim, Sequence) else dims[0]


def from_0(name: str, dim: int, ndim: int) -> int:
    """Return `dim`, which may be negative, counted from 0; `name` names the argument in messages.

    Raises:
        IndexError: if `dim` is out of range.
        ValueError: if the input is 0-d.
    """
    if ndim == 0:
        raise ValueError("input is 0-d; tail dropout needs a dim of features: give a tensor with 1 dim or more")
    if not -ndim <= dim < ndim:
        raise IndexError(f"{name}={dim} is out of range for an input with {ndim} dims; give {-ndim} … {ndim - 1}")
    return operator.index(dim % ndim)  # an int even after a compiler made dims symbolic: `in` is wrong for symbolic ints


def sample_dims(ndim: int, batch_dims: Dims, dropout_dim: int) -> tuple[list[int], int]:
    """Return the batch dims in the order given (None: all dims but the feature dim), and the feature dim, counted from 0.

    Raises:
        IndexError: if a dim is out of range.
        ValueError: if dims repeat or overlap, or the input is 0-d.
    """
    feature = from_0("dropout_dim", dropout_dim, ndim)
    if batch_dims is None:
        return [dim for dim in range(ndim) if dim != feature], feature
    batch = [from_0("batch_dim", dim, ndim) for dim in batch_dims]
    if len(set(batch)) < len(batch):
        raise ValueError(f"batch_dim={list(batch_dims)} repeats a dim of an input with {ndim} dims; name each once")
    if feature in batch:
        raise ValueError(
            f"batch_dim={list(batch_dims)} and dropout_dim={dropout_dim} overlap in an input with {ndim} dims; "
            "samples and features need dims of their own (batch_dim=() draws one k for the whole tensor)"
        )
    return batch, feature


def sample_shape(shape: Sequence[int], batch_dims: Dims, dropout_dim: int) -> tuple[tuple[int, ...], int]:
    """Return the shape of k for an input of this shape (1 except in the batch dims), and the feature dim counted from 0.

    Raises the errors of `sample_dims`.
    """
    batch, feature = sample_dims(len(shape), batch_dims, dropout_dim)
    return tuple(size if dim in batch else 1 for dim, size in enumerate(shape)), feature


def features_of(input: Tensor, feature: int) -> int:
    """Return the size of dim `feature` as an int, even if a compiler made it symbolic or `torch.jit.trace` made it a tensor."""
    return operator.index(*constant_sizes([input.shape[feature]]))


def constant_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """Return `sizes` with the tensors that `torch.jit.trace` makes of sizes replaced by ints, constants of the trace."""
    if not any(isinstance(size, Tensor) for size in sizes):
        return tuple(sizes)
    with warnings.catch_warnings():  # constants on purpose: the law belongs to one n, and each k to one sample
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        return tuple(operator.index(size) for size in sizes)


def positions(n: int, feature: int, ndim: int, device: torch.device) -> Tensor:
    """Return 1 … n along dim `feature` of `ndim` dims (the others have size 1), in float32, or in float64 if n > 2**24."""
    dtype = torch.float32 if n <= 2**24 else torch.float64
    line = torch.arange(1, n + 1, dtype=dtype, device=device)
    return line.reshape(*[1] * feature, -1, *[1] * (ndim - feature - 1))
