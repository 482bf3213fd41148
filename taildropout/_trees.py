"""Flatten nested lists, tuples, named tuples and dicts as `torch.utils._pytree` does, for a torch without that module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def _parts(tree: Any) -> list[Any] | None:
    """Return the items of a list or tuple, or the values of a dict, in order; None for a leaf."""
    if type(tree) in (list, tuple) or (isinstance(tree, tuple) and hasattr(tree, "_fields")):
        return list(tree)
    return list(tree.values()) if isinstance(tree, dict) else None


def tree_leaves(tree: Any) -> list[Any]:
    """Return the leaves of `tree`, from left to right."""
    parts = _parts(tree)
    return [tree] if parts is None else [leaf for part in parts for leaf in tree_leaves(part)]


def tree_flatten(tree: Any) -> tuple[list[Any], Any]:
    """Return the leaves of `tree`, and a structure from which `tree_unflatten` rebuilds the tree."""
    return tree_leaves(tree), tree


def tree_unflatten(leaves: list[Any], structure: Any) -> Any:
    """Return a tree with the form of `structure` and the given leaves."""
    return _build(structure, iter(leaves))


def _build(structure: Any, leaves: Iterator[Any]) -> Any:
    parts = _parts(structure)
    if parts is None:
        return next(leaves)
    built = [_build(part, leaves) for part in parts]
    if isinstance(structure, dict):
        return type(structure)(zip(structure, built, strict=True))
    return type(structure)(*built) if hasattr(structure, "_fields") else type(structure)(built)


def tree_map_only(kind: type, function: Callable[[Any], Any], tree: Any) -> Any:
    """Return a copy of `tree` in which `function` is applied to each leaf of type `kind`."""
    return _build(tree, iter([function(leaf) if isinstance(leaf, kind) else leaf for leaf in tree_leaves(tree)]))
