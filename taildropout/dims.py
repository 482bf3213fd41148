"""Which dims of an input are samples and which is the dim of features."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor


def check_tensor(input: object) -> None:
    """Raise TypeError if `input` is not a tensor."""
    if not isinstance(input, Tensor):
        raise TypeError(f"input is a {type(input).__name__}; give a tensor")


Dims = tuple[int, ...] | None  # dims of samples; None means all dims but that of features


def check_dim(dim: object, name: str) -> int:
    """Return `dim`, or raise TypeError if it is not an int (a bool is not)."""
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"{name} has {dim!r}, a {type(dim).__name__}; a dim is an int")
    return dim


def check_dims(batch_dim: object, dropout_dim: object) -> tuple[Dims, int]:
    """Return `batch_dim` as a tuple or None, and `dropout_dim`.

    Raises:
        TypeError: if a dim is not an int (a bool is not).
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


def from_0(name: str, dim: int, ndim: int) -> int:
    """Return `dim` counted from 0; `name` names the argument in messages.

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
    """Return the batch dims in their order, and the feature dim, all counted from 0.

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
    """Return the number of features as an int, even if a compiler made it symbolic or `torch.jit.trace` made it a tensor."""
    n = input.shape[feature]
    if isinstance(n, Tensor):
        with warnings.catch_warnings():  # n becomes a constant of the trace on purpose: the law belongs to one n
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            return operator.index(n)
    return operator.index(n)


def positions(n: int, feature: int, ndim: int, device: torch.device) -> Tensor:
    """Return 1 … n along dim `feature` of `ndim` dims, in float32, or in float64 if n is not exact in float32."""
    dtype = torch.float32 if n <= 2**24 else torch.float64
    line = torch.arange(1, n + 1, dtype=dtype, device=device)
    return line.reshape(*[1] * feature, -1, *[1] * (ndim - feature - 1))
