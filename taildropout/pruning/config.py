"""Set the widths in a model's `config`, as those of Hugging Face models, to the widths that pruning left."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import torch
from torch import nn

# Names of the hidden size of a feed-forward block, in configs of models that cannot be built again from their config alone.
_NAMES = (
    *("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner", "d_ff", "d_inner", "hidden_dim"),
    *("ffn_hidden_size", "feed_forward_size", "mlp_dim", "moe_intermediate_size", "inner_dim"),
)
_MOST_TRIES = 32


def adapt_config(model: nn.Module, widths: Mapping[str, int], sizes: Mapping[str, int]) -> list[str]:
    """Set the widths in every config of a pruned model, in place, and return messages about those that no one number fits.

    Args:
        model: the pruned model.
        widths: how many features of the layers that were cut stay, by name.
        sizes: how many features they had, likewise.
    """
    said: dict[str, str] = {}  # by the name of the module that holds the config
    for name, module, config in _configs(model):
        inside = {layer: k for layer, k in widths.items() if layer.startswith(f"{name}." if name else "")}
        full = {sizes[layer] for layer in inside}
        if _adapt_lists(module, config, inside):
            continue
        keys = [key for key, value in _entries(config).items() if type(value) is int and value in full]
        keys += [key for key in _NAMES if key in _entries(config) and _entries(config)[key] is None]
        if not keys or _adapt(module, config, keys, sorted({*inside.values()})):
            continue
        named = [key for key in keys if key in _NAMES]
        named = [key for key in named if _entries(config)[key] is not None] or named
        if named:
            shown = ", ".join(f"{key} = {_entries(config)[key]}" for key in named)
            said[name] = f"keeps {shown}, since no one number fits all layers"
    if widths and not said and _is_built_otherwise(model):
        said[""] = "holds no width of the layers that were cut, so from_pretrained cannot build the pruned model"
    return [
        f"the config of {name or type(model).__name__!r} {why}; "
        "to load the pruned weights, build the model at full size and call load_pruned(model, state_dict)"
        for name, why in said.items()
        if name == "" or "" not in said  # the outermost config stands for those of its parts
    ]


def _adapt_lists(module: nn.Module, config: Any, widths: Mapping[str, int]) -> bool:
    """Set lists that hold a width for each layer, as in Gemma 3n; return False if there are none, or they do not fit.

    The first number in a layer's name is its place in the list.
    """
    lists = {key: list(value) for key, value in _entries(config).items() if key in _NAMES and isinstance(value, list | tuple)}
    for values in lists.values():
        for layer, k in widths.items():
            place = next((int(part) for part in layer.split(".") if part.isdecimal()), len(values))
            if place >= len(values):
                return False
            values[place] = k
    fresh = _built(module, config, lists) if lists else None
    return fresh is not None and _shapes(module).items() <= fresh.items() and _set(config, lists)


def _is_built_otherwise(model: Any) -> bool:
    """Return True if a model is built again from its config by `from_pretrained`, and its config gives other shapes."""
    if not hasattr(model, "save_pretrained") or not hasattr(model, "config"):
        return False
    fresh = _built(model, model.config, {})
    return fresh is not None and not _shapes(model).items() <= fresh.items()


def _configs(model: nn.Module) -> Iterator[tuple[str, nn.Module, Any]]:
    """Yield every config once, with the outermost module that holds it."""
    seen: set[int] = set()
    for name, module in model.named_modules():
        config = getattr(module, "config", None)
        if config is not None and id(config) not in seen and hasattr(config, "__dict__"):
            seen.add(id(config))
            yield name, module, config


def _entries(config: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(config).items() if not key.startswith("_")}


def _adapt(module: nn.Module, config: Any, keys: list[str], widths: list[int]) -> bool:
    """Set the keys to values with which the module could be built as it is now; return False if there are none."""
    shapes = _shapes(module)
    before = {key: _entries(config)[key] for key in keys}
    values = [[*widths, before[key]] for key in keys]
    built = False
    for tried, choice in enumerate(product(*values)):
        if tried == _MOST_TRIES:
            break
        fresh = _built(module, config, dict(zip(keys, choice, strict=True)))
        built = built or fresh is not None
        if fresh is not None and shapes.items() <= fresh.items():
            return _set(config, dict(zip(keys, choice, strict=True)))
    known = [key for key in keys if key in _NAMES and before[key] is not None]
    everywhere = len(widths) == 1 and not any(before[key] in shape for key in known for shape in shapes.values())
    return not built and bool(known) and everywhere and _set(config, dict.fromkeys(known, widths[0]))


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _built(module: nn.Module, config: Any, values: Mapping[str, Any]) -> dict[str, tuple[int, ...]] | None:
    """Return the shapes of a module built from the config with these values; None if it cannot be built from that alone."""
    changed = copy.deepcopy(config)
    if not _set(changed, values):
        return None
    try:
        with torch.device("meta"):
            return _shapes(type(module)(changed))
    except Exception:  # of whatever type: what a constructor wants besides a config is its own business
        return None


def _set(config: Any, values: Mapping[str, Any]) -> bool:
    """Set values in a config; return False if it is frozen."""
    try:
        for key, value in values.items():
            setattr(config, key, value)
    except (AttributeError, TypeError, ValueError):
        return False
    return True
