"""`at_k`: a model at chosen widths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .layer import TailDropout, check_k
from .names import Model, named


@contextmanager
def at_k(
    model: Model,
    k: int | Tensor | Mapping[str, int | Tensor] | None,
    names: str | Iterable[str] | None = None,
    *,
    at_most: bool = False,
) -> Iterator[Model]:
    """Set k on every TailDropout of a model, or on those named, and restore what was there.

    Inside, `train()` and `eval()` keep k, since trainers call them; and the fast path of `nn.TransformerEncoderLayer`, which
    would bypass the layer, is off.

    Args:
        model: any module; it may be a TailDropout itself.
        k: as in `TailDropout.set_k`; None draws at random. Or a dict from names or patterns to the k of these layers:
            `{"*.0.*": 8, "*.1.*": 4}`; layers that no pattern matches stay as they are.
        names: names as in `model.named_modules()`, or patterns as in `fnmatch`; all TailDropouts if None.
        at_most: let a layer with fewer than k features keep all of them, instead of raising an error. Default: False

    Raises:
        TypeError, ValueError: as in `TailDropout.set_k`; nothing is changed then.
        KeyError: if a name or pattern matches no TailDropout.
        ValueError: if there is no TailDropout in the model, `names` is given beside a dict, or two patterns give one layer
            different k.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), TailDropout(), nn.Linear(8, 1))
        >>> with at_k(model, 2):
        ...     output = model.eval()(torch.randn(5, 4))
    """
    chosen = _k_of_layers(model, k, names)
    for value in chosen.values():
        if value is not None:
            check_k(value)
    layers = dict(named(model, TailDropout, None).items())
    before = {layer: (layer._k, layer._largest_k, layer._held_as) for layer in layers.values()}
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for name, value in chosen.items():
            layers[name].set_k(value)
            layers[name]._held_as = name
            if at_most:
                layers[name]._largest_k = 0
        yield model
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for each, state in before.items():
            each._k, each._largest_k, each._held_as = state


def _k_of_layers(model: nn.Module, k: Any, names: str | Iterable[str] | None) -> dict[str, int | Tensor | None]:
    """Return the k of each layer by name."""
    if not isinstance(k, Mapping):
        return dict.fromkeys(named(model, TailDropout, names), k)
    if names is not None:
        raise ValueError("k is a dict, whose keys name the layers, and names is given too; leave names out")
    if not k:
        raise ValueError("k is an empty dict; give a k for at least one name or pattern")
    chosen: dict[str, int | Tensor | None] = {}
    by: dict[str, str] = {}
    for pattern, value in k.items():
        for name in named(model, TailDropout, pattern, "k"):
            if name in chosen and chosen[name] is not value and chosen[name] != value:
                raise ValueError(f"{by[name]!r} and {pattern!r} both match {name!r} and give it k={chosen[name]} and k={value}")
            chosen[name], by[name] = value, pattern
    return chosen
