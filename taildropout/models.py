"""`at_k`: a model at chosen widths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

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
        ValueError: if a k is negative, `names` is empty or given beside a dict, two patterns give one layer different k, or
            the model has no TailDropout.
        KeyError: if a name or pattern matches no TailDropout; the message lists the names that exist.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), TailDropout(), nn.Linear(8, 1))
        >>> with at_k(model, 2):
        ...     output = model.eval()(torch.randn(5, 4))  # uses the first 2 of 8 features
        >>> print(model[1].k)
        None
    """
    chosen = _k_of_layers(model, k, names)
    for value in chosen.values():
        if value is not None:
            check_k(value)
    layers = named(model, TailDropout, None)
    before = {layer: layer.fixed_k for layer in layers.values()}
    try:
        for name, value in chosen.items():
            layer = layers[name]
            layer.set_k(value)
            layer.fixed_k = layer.fixed_k.held(name, at_most)
        with without_fastpath():
            yield model
    finally:
        for layer, fixed_k in before.items():
            layer.fixed_k = fixed_k.moved(layer.fixed_k.home)  # the model may have moved meanwhile


def _k_of_layers(model: nn.Module, k: Any, names: str | Iterable[str] | None) -> dict[str, int | Tensor | None]:
    """Return the k to set on each chosen layer, keyed by the layer's name. Raises as `at_k` does."""
    if not isinstance(k, Mapping):
        return dict.fromkeys(named(model, TailDropout, names), k)
    if names is not None:
        raise ValueError("k is a dict, whose keys name the layers, and names is given too; leave names out")
    if not k:
        raise ValueError("k is an empty dict; give a k for at least one name or pattern")
    chosen: dict[str, int | Tensor | None] = {}
    by: dict[str, str] = {}
    for pattern, value in k.items():
        if not isinstance(pattern, str):
            raise TypeError(f"k has the key {pattern!r} of type {type(pattern).__name__}; give names or patterns as keys")
        for name in named(model, TailDropout, pattern, "k"):
            if name in chosen and chosen[name] is not value and chosen[name] != value:
                raise ValueError(f"{by[name]!r} and {pattern!r} both match {name!r} and give it k={chosen[name]} and k={value}")
            chosen[name], by[name] = value, pattern
    return chosen
