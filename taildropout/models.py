"""Functions on whole models: `at_k` sets the width, `replace_dropout` swaps nn.Dropout for TailDropout."""

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
    """Return the modules of type `kind` by name: all, or those with the given names.

    Raises:
        TypeError: if `model` is not a module, or `names` not a name or several.
        ValueError: if there is no such module, or `names` is empty.
        KeyError: if a name is not that of such a module. The message lists the names that are.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={model!r} is a {type(model).__name__}; give an nn.Module")
    if names is not None and not isinstance(names, Iterable):
        raise TypeError(f"names={names!r} is a {type(names).__name__}; give a name or several")
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, kind)}
    known = f"those of {type(model).__name__} are: {', '.join(map(repr, modules)) or 'none'}"
    if names is None:
        if not modules:
            raise ValueError(f"{type(model).__name__} has no {kind.__name__}")
        return modules
    chosen = [names] if isinstance(names, str) else list(names)
    if not chosen:
        raise ValueError(f"names is empty; name a {kind.__name__}; {known}")
    if missing := [name for name in chosen if name not in modules]:
        raise KeyError(f"no {kind.__name__} is named {', '.join(map(repr, missing))}; {known}")
    return {name: modules[name] for name in chosen}


@contextmanager
def at_k(model: Model, k: int | Tensor | None, names: str | Iterable[str] | None = None) -> Iterator[Model]:
    """Set k on all TailDropouts of a model, or on the named ones, and restore their old k at the end of the `with` block.

    Within the block `train()` and `eval()` keep k, because trainers call them. The fast path of `nn.TransformerEncoderLayer`,
    which would bypass the layer, is off.

    Args:
        model: any module; it may be a TailDropout itself.
        k: an int, an integer tensor with one k per sample, or None to draw K at random; see `TailDropout.set_k`.
        names: one name or several, as in `model.named_modules()`; None means all TailDropouts. Default: None

    Returns:
        A context manager, which gives the model.

    Raises:
        TypeError: if an argument has a wrong type. After any error the model is unchanged.
        ValueError: if a k is negative, `names` is empty, or the model has no TailDropout.
        KeyError: if a name is not that of a TailDropout; the message lists the names that are.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), TailDropout(), nn.Linear(8, 1))
        >>> with at_k(model, 2):
        ...     output = model.eval()(torch.randn(5, 4))  # uses the first 2 of 8 features
        >>> print(model[1].k)
        None
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
    """Replace the named `nn.Dropout`s of a model, in place, by TailDropouts with the same p.

    A dropout that occurs in several places is replaced in all of them by the same TailDropout.

    Args:
        model: a module with `nn.Dropout`s among its submodules.
        names: one name or several, as in `model.named_modules()`. Choose dropouts of hidden features (of an MLP, a
            feed-forward block, a bottleneck): attention weights and a residual stream have no order to learn.
        options: further arguments of `TailDropout`, such as `batch_dim`.

    Returns:
        The model.

    Raises:
        TypeError: if an argument has a wrong type. After any error the model is unchanged.
        ValueError: if `names` is empty, the model itself is an `nn.Dropout`, or an option is out of range.
        KeyError: if a name is not that of an `nn.Dropout`; the message lists the names that are.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))
        >>> replace_dropout(model, "1")[1]
        TailDropout(p=0.3, batch_dim=0, dropout_dim=-1)
    """
    if names is None:
        raise TypeError(
            "names is None; name the nn.Dropouts to replace: not every dropout has features that can learn an order"
        )
    replacements = {}
    for name, dropout in _named(model, nn.Dropout, names).items():
        if name == "":
            raise ValueError(
                "the model itself is an nn.Dropout, which cannot be replaced in place; construct a TailDropout instead"
            )
        kept = {"p": dropout.p, "inplace": dropout.inplace}
        replacements[dropout] = TailDropout(**{**kept, **options}).train(dropout.training)
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in replacements:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, replacements[module])
    return model
