"""Whole models: `at_k`, a model at a chosen width; `replace_dropout`, from nn.Dropout to TailDropout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .fixed_k import check_k
from .layer import TailDropout

Model = TypeVar("Model", bound=nn.Module)


def _named(model: nn.Module, kind: type[nn.Module], names: str | Iterable[str] | None) -> dict[str, nn.Module]:
    """The modules of this type by name; `names` chooses among them. KeyError lists those there are."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={model!r} is a {type(model).__name__}; give an nn.Module")
    if names is not None and not isinstance(names, Iterable):
        raise TypeError(f"names={names!r} is a {type(names).__name__}; give a name or several")
    found = {name: module for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, kind)}
    there = f"those of {type(model).__name__} are: {', '.join(map(repr, found)) or 'none'}"
    if names is None:
        if not found:
            raise ValueError(f"{type(model).__name__} has no {kind.__name__}")
        return found
    chosen = [names] if isinstance(names, str) else list(names)
    if not chosen:
        raise ValueError(f"names is empty; name a {kind.__name__}: {there}")
    if missing := [name for name in chosen if name not in found]:
        raise KeyError(f"no {kind.__name__} is named {', '.join(map(repr, missing))}; {there}")
    return {name: found[name] for name in chosen}


@contextmanager
def at_k(model: Model, k: int | Tensor | None, names: str | Iterable[str] | None = None) -> Iterator[Model]:
    """Set k on every TailDropout of a model, or on those named, and restore what was there.

    Inside, `train()` and `eval()` keep k, since trainers call them; and the fast path of `nn.TransformerEncoderLayer`, which
    would bypass the layer, is off.

    Args:
        model: any module; it may be a TailDropout itself.
        k: as in `TailDropout.set_k`; None draws at random.
        names: names as in `model.named_modules()`; all TailDropouts if None.

    Raises:
        TypeError, ValueError: as in `TailDropout.set_k`; nothing is changed then.
        KeyError: if a name is not that of a TailDropout.
        ValueError: if there is no TailDropout in the model.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), TailDropout(), nn.Linear(8, 1))
        >>> with at_k(model, 2):
        ...     output = model.eval()(torch.randn(5, 4))
    """
    layers = {layer: name for name, layer in _named(model, TailDropout, names).items() if isinstance(layer, TailDropout)}
    if k is not None:
        check_k(k)
    before = [(layer, layer.fixed_k) for layer in layers]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for layer, name in layers.items():
            layer.set_k(k)
            layer.fixed_k = layer.fixed_k.held(name)
        yield model
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for layer, fixed_k in before:
            layer.fixed_k = fixed_k.moved(layer.fixed_k.home)  # the model may have moved meanwhile


def replace_dropout(model: Model, names: str | Iterable[str], **options: Any) -> Model:
    """Swap the named `nn.Dropout`s of a model for TailDropouts of the same p, in place, wherever each of them stands.

    Args:
        model: a module with `nn.Dropout`s among its submodules.
        names: names as in `model.named_modules()`. Choose hidden features (of an MLP, a feed-forward block, a bottleneck);
            attention weights and a residual stream have no order to learn.
        options: further arguments of `TailDropout`, such as `batch_dim`.

    Returns:
        The model.

    Raises:
        KeyError: if a name is not that of an `nn.Dropout`; the message lists those there are. Nothing is changed then.
        TypeError, ValueError: as in `TailDropout`; likewise.
    """
    if names is None:
        raise TypeError(
            "names is None; choose which nn.Dropouts are swapped: not all of them have features in an order to learn"
        )
    replacements = {}  # a dropout may stand in several places, which are all its own
    for name, dropout in _named(model, nn.Dropout, names).items():
        if name == "":
            raise ValueError("the model is itself an nn.Dropout, which cannot be swapped in place; construct a TailDropout")
        kept = {"p": dropout.p, "inplace": dropout.inplace}
        replacements[dropout] = TailDropout(**{**kept, **options}).train(dropout.training)
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in replacements:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, replacements[module])
    return model
