"""load_pruned: load the state_dict of a pruned network into a model built at full size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..layer import TailDropout
from ..names import Model
from .config import adapt_config
from .cut import PruningError
from .cutting import put
from .fitting import Shape, check_fit
from .kinds import is_product
from .metadata import channels_without_tensors, read_features, record_channels
from .shapes import attributes
from .slices import Slice, sliced


def load_pruned(model: Model, state_dict: Mapping[str, Tensor], *, slices: Mapping[str, int] | None = None) -> Model:
    """Cut a model that was built at full size to the shapes of a pruned checkpoint, and load the checkpoint, in place.

    The model then is what `prune` returned: it has the checkpoint's weights and sizes (`in_features` and the like), in the
    model's own dtype and on its own device. Weights on the meta device get the checkpoint's device. Parameters that change
    their size are new tensors, so construct an optimizer afterwards.

    If a layer of the pruned network slices its input (`prune` warned of it), the metadata of `state_dict()` records the width,
    and `torch.save` keeps the metadata. A safetensors file does not: give `slices` then. The same holds for the number of
    channels of a normalisation without weights, such as `nn.GroupNorm(4, 8, affine=False)`.

    Args:
        model: a model as it was before pruning.
        state_dict: the `state_dict()` of the pruned network, for instance read from a file.
        slices: how many features each layer that slices keeps, and how many channels each normalisation without weights has,
            by name. Default: the metadata of `state_dict`.

    Returns:
        The model.

    Raises:
        PruningError: if the checkpoint does not fit the model; the message names the module, and the model is unchanged.
        TypeError: if `model` is not a module or `state_dict` not a dict of tensors.
        KeyError: if a name in `slices` is not that of a TailDropout.

    Example:
        >>> def build():
        ...     return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), TailDropout(), nn.Linear(8, 1))
        >>> small = prune(build(), "2", 3, torch.randn(5, 4))
        >>> load_pruned(build(), small.state_dict())[0]
        Linear(in_features=4, out_features=3, bias=True)
    """
    _check_arguments(model, state_dict)
    recorded = read_features(state_dict)
    features, channels = _divided(model, recorded if slices is None else slices)
    channels = _divided(model, recorded)[1] | channels
    kept = _check_slices(model, features)
    tensors = dict(state_dict)
    _check_keys(model, tensors)
    sizes = {name: _sizes(name, module, tensors) for name, module in model.named_modules() if _held(name, module, tensors)}
    shapes = {name: _shapes(name, model.get_submodule(name), tensors) for name in sizes}
    selecting = _selecting(model, features)
    if selecting or any(full != small for tensors_of in shapes.values() for full, small in tensors_of.values()):
        _check_groups(model, channels)
    for name, number in channels.items():
        sizes[name], shapes[name] = _without_tensors(name, model.get_submodule(name), number)
    check_fit(model, shapes, selecting, given=slices is not None)
    small, full = _widths(model, sizes)
    made: dict[Tensor, nn.Parameter | Tensor] = {}
    for name, size in sizes.items():
        _resize(model.get_submodule(name), name, tensors, size, made)
    for old, new in kept.items():
        put(model, old, new)
    model.load_state_dict(tensors)
    adapt_config(model, small, full)
    record_channels(model)
    return model


def _widths(model: nn.Module, sizes: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the new and old values of the integer attributes that become smaller, by names such as "0.in_features"."""
    small, full = {}, {}
    for name, changed in sizes.items():
        for key, new in changed.items():
            old = getattr(model.get_submodule(name), key)
            if isinstance(new, int) and new < old:
                small[_key(name, key)], full[_key(name, key)] = new, old
    return small, full


def _check_arguments(model: object, state_dict: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model has type {type(model).__name__}; give an nn.Module built at full size")
    if not isinstance(state_dict, Mapping):
        if isinstance(state_dict, nn.Module):
            raise TypeError("state_dict is the pruned model itself; give its state_dict()")
        raise TypeError(
            f"state_dict has type {type(state_dict).__name__}; give the pruned model's state_dict(), "
            "as torch.load gives it back"
        )
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state_dict.get(key), Mapping):
            raise TypeError(f"state_dict is a checkpoint with more than weights in it; give checkpoint[{key!r}]")
    for key, value in state_dict.items():
        if not isinstance(value, Tensor) and not str(key).endswith("_extra_state"):
            raise TypeError(f"state_dict[{key!r}] has type {type(value).__name__}; give a dict of tensors")


def _divided(model: nn.Module, features: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the numbers of features of layers that slice, and those of channels of normalisations without tensors, by name.

    Raises:
        PruningError: if a number is not an int from 1 on.
    """
    modules, layers, norms = dict(model.named_modules(remove_duplicate=False)), dict[str, int](), dict[str, int]()
    for name, k in features.items():
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise PruningError(f"slices gives {k!r} features for {name!r}; give an int from 1 on")
        is_norm = name in modules and channels_without_tensors(modules[name]) is not None
        (norms if is_norm else layers)[name] = k
    return layers, norms


def _check_slices(model: nn.Module, features: Mapping[str, int]) -> dict[nn.Module, nn.Module]:
    """Return a SlicedTailDropout for each TailDropout that it replaces; `features` is by name.

    Raises:
        KeyError: if a name is neither that of a TailDropout nor of a Slice.
    """
    modules, kept = dict(model.named_modules(remove_duplicate=False)), dict[nn.Module, nn.Module]()
    for name, k in features.items():
        layer = modules.get(name)
        if isinstance(layer, TailDropout):
            kept[layer] = sliced(layer, k)
        elif not isinstance(layer, Slice):
            there = ", ".join(repr(each) for each, module in modules.items() if isinstance(module, TailDropout)) or "none"
            raise KeyError(f"no TailDropout is named {name!r}, which slices in the checkpoint; the model's are: {there}")
    return kept


def _check_groups(model: nn.Module, channels: Mapping[str, int]) -> None:
    """Check that each GroupNorm without tensors has its number of channels in `channels`, where something else was cut.

    With a wrong number of groups it would compute other numbers. A single group is never cut.

    Raises:
        PruningError: if a number is missing.
    """
    for name, module in model.named_modules():
        in_groups = isinstance(module, nn.GroupNorm) and module.num_groups > 1
        if in_groups and channels_without_tensors(module) is not None and name not in channels:
            raise PruningError(
                f"the checkpoint does not say how many channels {name!r} (GroupNorm) has, which has no weights; give "
                f"slices={{{name!r}: number of channels}}, {module.num_channels} if it was not cut"
            )


def _without_tensors(name: str, module: nn.Module, channels: int) -> tuple[dict[str, Any], dict[str, tuple[Shape, Shape]]]:
    """Return what `_sizes` and `_shapes` return for a normalisation without tensors, as if it had a weight."""
    full = channels_without_tensors(module) or 0
    if channels > full:
        raise PruningError(
            f"{name!r} ({type(module).__name__}) has {full} channels in the model and {channels} in the checkpoint"
        )
    return _attributes(name, module, {"weight": (channels,)}), {"weight": ((full,), (channels,))}


def _selecting(model: nn.Module, features: Mapping[str, int]) -> dict[str, int]:
    """Return how many features each layer keeps that becomes a slice; a layer of the model that slices already is left out."""
    modules = dict(model.named_modules(remove_duplicate=False))
    return {name: k for name, k in features.items() if getattr(modules[name], "features", None) != k}


def _shapes(name: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Shape, Shape]]:
    """Return the shapes of a module's own tensors in the model and in the checkpoint."""
    held = [key for key in _held(name, module, tensors) if getattr(module, key) is not None]
    return {key: (tuple(getattr(module, key).shape), tuple(tensors[_key(name, key)].shape)) for key in held}


def _held(name: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of a module's own tensors that the checkpoint has, and "bias" if pruning added one."""
    own = [key for key, tensor in [*module._parameters.items(), *module._buffers.items()] if tensor is not None]
    if _takes_bias(module) and _key(name, "bias") in tensors:
        own.append("bias")
    return [key for key in own if _key(name, key) in tensors]


def _takes_bias(module: nn.Module) -> bool:
    """Return True for a Linear or convolution without a bias, to which pruning may have added one."""
    return is_product(module) and module._parameters.get("bias", 0) is None


def _key(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _check_keys(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Check that the keys of `tensors` are those of the model; first add tied weights, which files may leave out, in place.

    Raises:
        PruningError: if keys are missing, or unknown to the model.
    """
    wanted = model.state_dict(keep_vars=True)
    by_identity: dict[int, list[str]] = {}
    for key, value in wanted.items():
        by_identity.setdefault(id(value), []).append(key)
    for keys in by_identity.values():
        there = [key for key in keys if key in tensors]
        for key in keys if there else ():
            tensors.setdefault(key, tensors[there[0]])
    modules = dict(model.named_modules(remove_duplicate=False))
    for key in [key for key in tensors if key not in wanted]:
        owner = modules.get(key.rpartition(".")[0])
        if isinstance(owner, TailDropout) and key.rpartition(".")[2] == "k":
            del tensors[key]  # checkpoints of the original package hold this entry
    missing = [key for key in wanted if key not in tensors]
    extra = [key for key in tensors if key not in wanted and not _is_new_bias(modules, key)]
    if not missing and not extra:
        return
    if prefix := _prefix(tensors, wanted):
        raise PruningError(
            f"all keys of the state_dict begin with {prefix!r}, and those of the model do not; give "
            f"{{key.removeprefix({prefix!r}): tensor for key, tensor in state_dict.items()}}"
        )
    shown = "; ".join(
        f"{what} {', '.join(map(repr, keys[:5]))}{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}"
        for what, keys in (("the checkpoint lacks", missing), ("the model has no", extra))
        if keys
    )
    raise PruningError(f"the checkpoint is of another model than {type(model).__name__}: {shown}")


def _prefix(tensors: Mapping[str, Tensor], wanted: Mapping[str, Any]) -> str | None:
    """Return the text that a wrapper has put before every key, such as `model.` or `module.`; None if there is none."""
    first = next(iter(tensors), "")
    prefixes = [first.removesuffix(key) for key in wanted if first != key and first.endswith(f".{key}")]
    return next((prefix for prefix in prefixes if all(key.startswith(prefix) for key in tensors)), None)


def _is_new_bias(modules: Mapping[str, nn.Module], key: str) -> bool:
    name, _, leaf = key.rpartition(".")
    return leaf == "bias" and name in modules and _takes_bias(modules[name])


def _sizes(name: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return _attributes(name, module, {key: tuple(tensors[_key(name, key)].shape) for key in _held(name, module, tensors)})


def _attributes(name: str, module: nn.Module, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    try:
        return attributes(module, shapes)
    except PruningError as error:
        what = f"{name!r} ({type(module).__name__})"
        if ".parametrizations." in f".{name}":
            what += ", from which another module's weight is computed (fold it first: remove_parametrizations),"
        raise PruningError(f"{what} does not fit the checkpoint: {error}") from error


def _resize(
    module: nn.Module, name: str, tensors: Mapping[str, Tensor], sizes: Mapping[str, Any], made: dict[Tensor, Any]
) -> None:
    """Give a module empty tensors of the checkpoint's shapes, and set the attributes `sizes`.

    `made` maps old tensors to new ones, so that tied parameters stay tied.
    """
    for key in _held(name, module, tensors):
        value, old = tensors[_key(name, key)], getattr(module, key)
        if old is not None and old.shape == value.shape and not old.is_meta:
            continue
        like: Any = module.weight if old is None else old
        new = torch.empty(value.shape, dtype=like.dtype, device=value.device if like.is_meta else like.device)
        if isinstance(like, nn.Parameter):
            new = nn.Parameter(new, requires_grad=like.requires_grad)
        new = new if old is None else made.setdefault(old, new)
        setattr(module, key, new)
    for key, value in sizes.items():
        setattr(module, key, value)
    if isinstance(module, nn.RNNBase):
        module.flatten_parameters()
