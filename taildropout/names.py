"""Modules of a model by name: exact names, or patterns as in `fnmatch`."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)
Kind = TypeVar("Kind", bound=nn.Module)

_LISTED = 20  # names that an error message lists


def named(model: nn.Module, kind: type[Kind], names: str | Iterable[str] | None, argument: str = "names") -> dict[str, Kind]:
    """Return the modules of type `kind` that `names` matches, keyed by name, in the order of `model.named_modules()`.

    Args:
        model: the model that is searched, itself included (its name is "").
        kind: the type of the modules; modules of other types never match.
        names: one or several names or patterns; all modules of the type if None. In a pattern `*` stands for any characters,
            dots too, `?` for one character and `[01]` for 0 or 1.
        argument: what the caller calls `names`, for messages.

    Raises:
        TypeError: if `model` is not a module, or `names` neither a string nor several strings.
        ValueError: if `names` is empty, or None where the model has no such module.
        KeyError: if a name or a pattern matches no such module; the message lists the names that exist.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model has type {type(model).__name__}; give an nn.Module")
    if names is not None and not isinstance(names, Iterable):
        raise TypeError(f"{argument}={names!r} has type {type(names).__name__}; give a name or several")
    found = {name: module for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, kind)}
    if names is None:
        if not found:
            raise ValueError(f"{type(model).__name__} has no {kind.__name__}")
        return found
    patterns = [names] if isinstance(names, str) else list(names)
    if wrong := [pattern for pattern in patterns if not isinstance(pattern, str)]:
        raise TypeError(f"{argument} holds {wrong[0]!r} of type {type(wrong[0]).__name__}; give names")
    if not patterns:
        raise ValueError(f"{argument} is empty; name a {kind.__name__}: {_there(model, found, '')}")
    chosen = set[str]()
    for pattern in patterns:
        matches = [pattern] if pattern in found else [name for name in found if fnmatchcase(name, pattern)]
        if not matches:
            what, there = ("module", filter(None, found)) if kind is nn.Module else (kind.__name__, found)
            raise KeyError(f"no {what} is named {pattern!r}; {_there(model, there, pattern)}")
        chosen.update(matches)
    return {name: module for name, module in found.items() if name in chosen}


def _there(model: nn.Module, found: Iterable[str], pattern: str) -> str:
    """Return, for a message, the names in `found`; if there are more than `_LISTED`, the ones closest to `pattern`."""
    names = list(found)
    if len(names) > _LISTED:
        names = get_close_matches(pattern, names, _LISTED, cutoff=0.5) or names[:_LISTED]
        return f"of those of {type(model).__name__} the closest are: {', '.join(map(repr, names))}"
    return f"those of {type(model).__name__} are: {', '.join(map(repr, names)) or 'none'}"
