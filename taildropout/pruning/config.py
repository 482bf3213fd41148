"""Set the hidden sizes in a pruned model's `config`, as Hugging Face models have one, to the new widths."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import torch
from torch import nn

# Names of the hidden size of a feed-forward block in configs, for models that cannot be built from their config alone.
_NAMES = (
    *("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner", "d_ff", "d_inner", "hidden_dim"),
    *("ffn_hidden_size", "feed_forward_size", "mlp_dim", "moe_intermediate_size", "inner_dim"),
)
_MOST_TRIES = 32


def adapt_config(model: nn.Module, widths: Mapping[str, int], sizes: Mapping[str, int]) -> list[str]:
    """Set the hidden sizes in every config of a pruned model, in place.

    Args:
        model: the pruned model.
        widths: how many features each cut layer keeps, by the layer's name.
        sizes: how many features each layer had before, by the layer's name.

    Returns:
        A message for each config that cannot describe the pruned model, for instance since no one number fits all layers.
    """
    problems: dict[str, str] = {}  # by the name of the module that holds the config
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
            problems[name] = f"keeps {shown}, since no one number fits all layers"
    if widths and not problems and _cannot_be_rebuilt(model):
        problems[""] = "holds no width of the layers that were cut, so from_pretrained cannot build the pruned model"
    return [
        f"the config of {name or type(model).__name__!r} {why}; "
        "to load the pruned weights, build the model at full size and call load_pruned(model, state_dict)"
        for name, why in problems.items()
        if name == "" or "" not in problems  # one message on the outermost config is enough
    ]


def _adapt_lists(module: nn.Module, config: Any, widths: Mapping[str, int]) -> bool:
    """Set lists that hold a width for each layer, as in Gemma 3n; return False if there are no lists, or they do not fit.

    The first number in a layer's name is its index in the list.
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


def _cannot_be_rebuilt(model: Any) -> bool:
    """Return True for a model with `save_pretrained` whose config builds a model of other shapes."""
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
    """Set `keys` to values from which a module of the present shapes is built; return False if no such values are found.

    If the module cannot be built from its config alone, set the known names of hidden sizes, where all layers have one width.
    """
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
    """Return the shapes of a module built from the config with these values; None if the config alone does not build it."""
    changed = copy.deepcopy(config)
    if not _set(changed, values):
        return None
    try:
        with torch.device("meta"):
            return _shapes(type(module)(changed))
    except Exception:  # of any type, as a constructor may need more than a config
        return None


def _set(config: Any, values: Mapping[str, Any]) -> bool:
    """Set values in a config; return False if it is frozen."""
    try:
        for key, value in values.items():
            setattr(config, key, value)
    except (AttributeError, TypeError, ValueError):
        return False
    return True
