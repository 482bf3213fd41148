"""Check the arguments of `scree` and `frontier`, and find layers by name."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from torch import nn

from ..layer import TailDropout
from ..names import named


def find_layers(model: nn.Module, layer: Any) -> dict[str, TailDropout]:
    """Return the layers that `layer` stands for, by name.

    Args:
        model: the model that contains the layers.
        layer: a name; a TailDropout, which is returned under the name ""; or a sequence of names, TailDropouts and patterns.

    Raises:
        TypeError, ValueError, KeyError: as in `scree`.
    """
    if isinstance(layer, str):
        matches = named(model, TailDropout, layer, "layer")
        if layer not in matches:
            raise KeyError(f"{layer!r} is a pattern; give a list, [{layer!r}], for all of {', '.join(map(repr, matches))}")
        return matches
    if isinstance(layer, nn.Module) or not isinstance(layer, Iterable):
        return {"": _check_layer(model, layer)}
    names = {module: name for name, module in model.named_modules()} if isinstance(model, nn.Module) else {}
    layers: dict[str, TailDropout] = {}
    for part in layer:
        if isinstance(part, str):
            matches = named(model, TailDropout, part, "layer")
        else:
            given = _check_layer(model, part)
            matches = {names.get(given, ""): given}
        exact = not isinstance(part, str) or part in matches
        for name, module in matches.items():
            if module in layers.values() and not exact:  # a pattern may match two names of a module, or overlap another pattern
                continue
            if module in layers.values():
                raise ValueError(f"layer {name!r} is given twice; give each once")
            layers[name] = module
    if not layers:
        raise ValueError("layer is an empty sequence; give a TailDropout, its name, or several")
    return layers


def _check_layer(model: nn.Module, layer: Any) -> TailDropout:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model has type {type(model).__name__}; give an nn.Module")
    if not isinstance(layer, TailDropout):
        raise TypeError(f"layer has type {type(layer).__name__}; give a TailDropout of the model, or its name")
    if not any(module is layer for module in model.modules()):
        raise ValueError(f"{layer} is no module of this {type(model).__name__}; give a TailDropout of the model, or its name")
    return layer


def check_widths(widths: Iterable[int] | str | None) -> list[int] | str | None:
    """Check `widths` and return them in ascending order; return None and "log" unchanged.

    Raises:
        TypeError: if `widths` is neither ints, "log" nor None.
        ValueError: if there is no width, or a width is negative or repeated.
    """
    if widths is None or (isinstance(widths, str) and widths == "log"):
        return widths
    if isinstance(widths, str) or not isinstance(widths, Iterable):
        raise TypeError(f"widths={widths!r}; give ints, 'log', or None for all")
    given = list(widths)
    if any(isinstance(k, bool) or not hasattr(k, "__index__") for k in given):
        raise TypeError(f"widths={given!r} are not all ints; a width is a number of features")
    ordered = sorted(map(operator.index, given))
    if not ordered:
        raise ValueError("widths is empty; give at least one, or None for all")
    if ordered[0] < 0:
        raise ValueError(f"width {ordered[0]} is negative; give 0 (no feature) up to the number of features")
    if repeated := [a for a, b in pairwise(ordered) if a == b]:
        raise ValueError(f"width {repeated[0]} is given twice; give each once")
    return ordered


def widths_up_to(n: int, asked: list[int] | str | None) -> list[int]:
    """Return the requested widths of a layer with n features: 0 … n for None; 0, 1, 2, 4 … n for "log".

    Raises:
        ValueError: if a width is greater than n.
    """
    if isinstance(asked, list):
        if asked[-1] > n:
            raise ValueError(f"width {asked[-1]} is greater than the {n} features of the layer; give {n} or less")
        return asked
    return list(range(n + 1)) if asked is None else [0, *(2**i for i in range(n.bit_length()) if 2**i < n), n]


def check_limit(name: str, value: object, what: str, *, optional: bool = True) -> None:
    """Raise ValueError unless `value` is an int of 1 or more, or None if `optional`; `what` names the things counted."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} is no number of {what}; give an int, 1 or more{', or None' if optional else ''}")


def length(batches: Iterable[Any]) -> int | None:
    """Return the number of batches, or None if `batches` has no length."""
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:  # a generator has no length
        return None
