"""`at_k`: a model at chosen widths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ._torch import without_fastpath
from .fixed_k import check_k
from .layer import TailDropout
from .names import Model, named


@contextmanager
def at_k(
    model: Model,
    k: int | Tensor | Mapping[str, int | Tensor] | None,
    names: str | Iterable[str] | None = None,
    *,
    at_most: bool = False,
) -> Iterator[Model]:
    """Set k on all TailDropouts of a model, or on the named ones, and restore their old k at the end of the `with` block.

    Within the block `train()` and `eval()` keep k, because trainers call them. The fast path of `nn.TransformerEncoderLayer`,
    which would bypass the layer, is off.

    Args:
        model: any module; it may be a TailDropout itself.
        k: an int, an integer tensor with one k per sample, or None to draw K at random; see `TailDropout.set_k`. Or a dict
            from names or patterns to the k of these layers, `{"*.0.*": 8, "*.1.*": 4}`; other layers stay as they are.
        names: one or several names as in `model.named_modules()`, or patterns as in `fnmatch`; None means all TailDropouts.
            Default: None
        at_most: if True, a layer with fewer than k features keeps all of them instead of raising an error. Default: False

    Returns:
        A context manager that yields the model.

    Raises:
        TypeError: if an argument has a wrong type. After any error the model is unchanged.
        ValueError: if a k is negative, `names` is empty or given beside a dict, two patterns give one layer different k (also
            by two names of the layer), or the model has no TailDropout.
        KeyError: if a name or pattern matches no TailDropout; the message lists the names that exist.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), TailDropout(), nn.Linear(8, 1))
        >>> with at_k(model, 2):
        ...     output = model.eval()(torch.randn(5, 4))  # uses the first 2 of 8 features
        >>> print(model[1].k)
        None
    """
    chosen = _k_of_layers(model, k, names)
    layers = named(model, TailDropout, None)
    before = {layer: layer.fixed_k for layer in layers.values()}
    try:
        for layer, (value, name) in chosen.items():
            layer.set_k(value)
            layer.fixed_k = layer.fixed_k.held(name, at_most)
        with without_fastpath():
            yield model
    finally:
        for layer, fixed_k in before.items():
            layer.fixed_k = fixed_k.moved(layer.fixed_k.home)  # the model may have moved meanwhile


def _k_of_layers(model: nn.Module, k: Any, names: str | Iterable[str] | None) -> dict[TailDropout, tuple[Any, str]]:
    """Return the k to set on each chosen layer, and a name of the layer. Raises as `at_k` does."""
    if not isinstance(k, Mapping):
        found = named(model, TailDropout, names)
        _check(k)
        return {layer: (k, name) for name, layer in found.items()}
    if names is not None:
        raise ValueError("k is a dict, whose keys name the layers, and names is given too; leave names out")
    if not k:
        raise ValueError("k is an empty dict; give a k for at least one name or pattern")
    chosen: dict[TailDropout, tuple[Any, str]] = {}
    by: dict[TailDropout, str] = {}
    for pattern, value in k.items():
        if not isinstance(pattern, str):
            raise TypeError(f"k has the key {pattern!r} of type {type(pattern).__name__}; give names or patterns as keys")
        found = named(model, TailDropout, pattern, "k")
        _check(value)
        for name, layer in found.items():
            before, first = chosen.setdefault(layer, (value, name))
            if not _equal(before, value):
                both = repr(name) if name == first else f"{first!r}, which is also {name!r},"
                raise ValueError(f"{by[layer]!r} and {pattern!r} both match {both} and give it k={before} and k={value}")
            by.setdefault(layer, pattern)
    return chosen


def _check(k: Any) -> None:
    if k is not None:
        check_k(k)


def _equal(k: Any, other: Any) -> bool:
    if k is None or other is None:
        return k is other
    return torch.equal(*(torch.as_tensor(each, dtype=torch.int64, device="cpu") for each in (k, other)))
