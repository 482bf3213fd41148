"""Inputs and outputs of models as lists of leaves, also if they are objects that torch treats as one leaf."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ._torch import tree_flatten, tree_unflatten

Rebuild = Callable[[Sequence[Any]], Any]


def flatten(value: Any) -> tuple[list[Any], Rebuild]:
    """Return the leaves of `value`, and a function from new leaves in the same order to a copy of `value` that holds them.

    Nested lists, tuples and dicts are flattened, and also mappings of every other type and objects that hold tensors as
    attributes, such as a dataclass.
    """
    leaves, tree = tree_flatten(value)
    opened = [_open(leaf) for leaf in leaves]

    def rebuild(new: Sequence[Any]) -> Any:
        rest = iter(new)
        return tree_unflatten([close([next(rest) for _ in inner]) for inner, close in opened], tree)

    return [leaf for inner, _ in opened for leaf in inner], rebuild


def leaves_of(value: Any) -> list[Any]:
    """Return the leaves of `value`, in the order of `flatten`."""
    return flatten(value)[0]


def _open(leaf: Any) -> tuple[list[Any], Rebuild]:
    attributes = getattr(leaf, "__dict__", None)
    if isinstance(leaf, Mapping):
        keys = list(leaf)
        leaves, rebuild = flatten([leaf[key] for key in keys])
        return leaves, lambda new: _with_items(leaf, keys, rebuild(new))
    if attributes and not isinstance(leaf, Tensor | nn.Module | type):
        names = list(attributes)
        leaves, rebuild = _flatten_attributes(attributes, names)
        if any(isinstance(inner, Tensor) for inner in leaves):
            return leaves, lambda new: _with_attributes(leaf, names, rebuild(new))
    return [leaf], lambda new: new[0]


def _flatten_attributes(attributes: Mapping[str, Any], names: Sequence[str]) -> tuple[list[Any], Rebuild]:
    """Flatten attributes and the containers in them that torch knows. Other objects are leaves: they may form a circle."""
    leaves, tree = tree_flatten([attributes[name] for name in names])
    return leaves, lambda new: tree_unflatten(list(new), tree)


def _with_items(mapping: Any, keys: Sequence[Any], values: Sequence[Any]) -> Any:
    new = copy.copy(mapping)
    for key, value in zip(keys, values, strict=True):
        new[key] = value
        if isinstance(key, str) and key in getattr(new, "__dict__", ()):  # read as an item or as an attribute
            new.__dict__[key] = value
    return new


def _with_attributes(instance: Any, names: Sequence[str], values: Sequence[Any]) -> Any:
    new = copy.copy(instance)
    new.__dict__.update(zip(names, values, strict=True))
    return new
