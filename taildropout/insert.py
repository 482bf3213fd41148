"""TailDropout in a model that was not written for it: `replace_dropout`, `insert_dropout` and `remove_dropout`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ._torch import is_compiled
from .layer import TailDropout
from .names import Model, named

BEFORE, AFTER = "dropout_before", "dropout_after"  # the names of inserted layers, below the module that they belong to


def replace_dropout(model: Model, names: str | Iterable[str], **options: Any) -> Model:
    """Swap the named `nn.Dropout`s of a model for TailDropouts of the same p, in place.

    A dropout that stands in several places of the model is swapped in all of them. A dropout whose p is 0, as many libraries
    set it for evaluation, gives a TailDropout that drops nothing; a warning says so unless `p` is given.

    Args:
        model: a module with `nn.Dropout`s among its submodules.
        names: names as in `model.named_modules()`, or patterns as in `fnmatch`: `"encoder.*.dropout"`. Choose hidden features
            (of an MLP, a feed-forward block, a bottleneck); attention weights and a residual stream have no order to learn.
        options: further arguments of `TailDropout`, such as `p` or `batch_dim`.

    Returns:
        The model.

    Raises:
        KeyError: if a name or pattern matches no `nn.Dropout`; the message lists those that exist. Nothing is changed then.
        TypeError, ValueError: as in `TailDropout`. Nothing is changed then.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
        >>> replace_dropout(model, "2")[2]
        TailDropout(p=0.2, batch_dim=0, dropout_dim=-1)
    """
    if names is None:
        raise TypeError(
            "names is None; choose which nn.Dropouts are swapped: not all of them have features in an order to learn"
        )
    replacements = {}  # by module, which may stand in several places
    for name, dropout in named(model, nn.Dropout, names).items():
        if name == "":
            raise ValueError("the model is itself an nn.Dropout, which cannot be swapped in place; construct a TailDropout")
        inherited = {"p": dropout.p, "inplace": dropout.inplace}
        layer = TailDropout(**{**inherited, **options}).train(dropout.training)
        if layer.p == 0 and "p" not in options:
            warnings.warn(f"the nn.Dropout {name!r} has p=0, so its TailDropout drops nothing; give p=0.5, say", stacklevel=2)
        replacements[dropout] = layer
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in replacements:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, replacements[module])
    return model


def insert_dropout(
    model: Model,
    *,
    before: str | Iterable[str] | None = None,
    after: str | Iterable[str] | None = None,
    p: float = 0.5,
    **options: Any,
) -> Model:
    """Apply a new TailDropout to the input (`before`) or the output (`after`) of each named module, in place.

    The layer becomes a submodule of the named module, called `dropout_before` or `dropout_after`: `train()`, `eval()`,
    `to()`, `at_k`, `scree` and `prune` find it there. A forward hook applies it. No key of the state_dict changes, since the
    module keeps its place and its class, and TailDropout has no state: checkpoints load with and without the layer.

    In a feed-forward block name the Linear that reads the hidden features: `"*.mlp.down_proj"` of Llama and other gated
    blocks. Where a dropout stands there already, as in `nn.TransformerEncoderLayer`, call `replace_dropout` instead.

    `copy.deepcopy`, pickle, `torch.compile`, activation checkpointing, FSDP2 and DDP keep the layer. `save_pretrained` and
    other savers of weights do not save it: call `insert_dropout` again after loading. Insert after PEFT's
    `get_peft_model`: a layer inserted earlier drops features only for the frozen weights, while the adapter reads all features.

    Args:
        model: any module that is not compiled yet.
        before: names as in `model.named_modules()`, or patterns as in `fnmatch`, of the modules to whose
            first argument, a tensor, a layer is applied.
        after: names or patterns of the modules to whose output, one tensor, a layer is applied.
        p: drop probability of each new layer. Default: 0.5
        options: further arguments of `TailDropout`. For input (batch, time, features) `batch_dim=[0, 1]` draws one K for each
            token, the default one for each sequence.

    Returns:
        The model.

    Raises:
        KeyError: if a name or pattern matches no module. Nothing is changed then.
        ValueError: if neither `before` nor `after` is given; if a module is the model itself, is an `nn.Sequential`, stands in
            several places of the model, has an inserted layer on that side already, or is compiled. Nothing is changed then.
        TypeError, ValueError: as in `TailDropout`. Nothing is changed then. When the model runs, TypeError if the
            argument or output that a layer is applied to is not a tensor.

    Example:
        >>> model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        >>> model = insert_dropout(model, before="2", p=0.5, batch_dim=[0, 1])
        >>> model[2].dropout_before
        TailDropout(p=0.5, batch_dim=[0, 1], dropout_dim=-1)
    """
    TailDropout(p, **options)  # refuses a misspelt argument by its name, before the next line asks for the right one
    if before is None and after is None:
        raise ValueError("neither before nor after is given; name the modules that read or give the hidden features")
    places: list[tuple[str, nn.Module, str]] = []
    for argument, names, child in (("before", before, BEFORE), ("after", after, AFTER)):
        if names is not None:
            found = named(model, nn.Module, names, argument)
            _check_places(model, found, child)
            places += [(name, module, child) for name, module in found.items()]
    layers = [TailDropout(p, **options).train(module.training) for _, module, _ in places]
    for (name, module, child), layer in zip(places, layers, strict=True):
        module.add_module(child, layer)
        # A submodule, so that train() and eval() reach the layer; a hook, since an nn.Sequential of module and layer would
        # rename keys. The layer holds the handle, so that the handle is copied and pickled together with the hook that it
        # removes.
        if child == BEFORE:
            layer.__dict__["handle"] = module.register_forward_pre_hook(_Before(name, layer), with_kwargs=True)
        else:
            layer.__dict__["handle"] = module.register_forward_hook(_After(name, layer))
    return model


def remove_dropout(model: Model, names: str | Iterable[str] | None = None) -> Model:
    """Take the layers that `insert_dropout` has inserted out of a model, in place.

    Args:
        model: a module that `insert_dropout` was called with, a part of it, or a copy.
        names: names or patterns of the modules that the layers were inserted before or after; all if None.

    Returns:
        The model, as it was before `insert_dropout`.

    Raises:
        KeyError: if a name or pattern matches no module with an inserted layer. Nothing is changed then.
        ValueError: if the model has no inserted layer.

    Example:
        >>> model = insert_dropout(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), after="1")
        >>> remove_dropout(model)
        Sequential(
          (0): Linear(in_features=4, out_features=8, bias=True)
          (1): ReLU()
        )
    """
    inserted: dict[str, dict[str, TailDropout]] = {}
    for name, layer in named(model, TailDropout, None).items():
        module, _, child = name.rpartition(".")
        if child in (BEFORE, AFTER) and "handle" in layer.__dict__:
            inserted.setdefault(module, {})[child] = layer
    if not inserted:
        raise ValueError(f"{type(model).__name__} has no layer that insert_dropout has inserted")
    chosen = inserted if names is None else inserted.keys() & named(model, nn.Module, names).keys()
    if not chosen:
        there = ", ".join(map(repr, inserted))
        raise KeyError(
            f"names={names!r} matches no module with an inserted layer; those of {type(model).__name__} are: {there}"
        )
    for name in chosen:
        for child, layer in inserted[name].items():
            layer.__dict__.pop("handle").remove()
            delattr(model.get_submodule(name), child)
    return model


class _Inserted:
    """A hook that applies an inserted layer. It can be pickled, and is copied together with its module."""

    def __init__(self, name: str, layer: TailDropout) -> None:
        self.name = name
        # Needed after quantisation, which replaces the module and moves its hooks, but not its submodules.
        self.layer = layer

    def apply(self, module: nn.Module, child: str, tensor: object, what: str) -> Tensor:
        """Return `tensor` after the submodule `child` of `module`, or after `self.layer` if there is no such submodule.

        The submodule goes first because replicas of a model share hooks, but not layers. `what` names the tensor in messages.

        Raises:
            TypeError: if `tensor` is not a tensor.
        """
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{what} of {self.name!r} has type {type(tensor).__name__}, not Tensor, so that TailDropout cannot drop its "
                "features; call remove_dropout, and insert_dropout before or after a module that reads or gives one tensor"
            )
        layer = module._modules.get(child) or self.layer
        dropped: Tensor = layer(tensor)
        return dropped


class _Before(_Inserted):
    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
        if args:
            args = (self.apply(module, BEFORE, args[0], "the input"), *args[1:])
            return args if kwargs is None else (args, kwargs)  # quantisation registers hooks anew, without keyword arguments
        first = next(iter(inspect.signature(module.forward).parameters), "")
        kwargs = kwargs or {}
        return args, {**kwargs, first: self.apply(module, BEFORE, kwargs.get(first), f"the input {first}=")}


class _After(_Inserted):
    def __call__(self, module: nn.Module, args: Any, output: Any) -> Tensor:
        return self.apply(module, AFTER, output, "the output")


def _check_places(model: nn.Module, found: dict[str, nn.Module], child: str) -> None:
    """Raise ValueError if a found module is the model or an nn.Sequential, has several places or a `child`, or is compiled."""
    places: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        places.setdefault(module, []).append(name)
    compiled = [name for name, module in model.named_modules() if is_compiled(module)]
    for name, module in found.items():
        if name == "":
            raise ValueError("a pattern matches the model itself; name modules inside it")
        if len(places[module]) > 1:
            raise ValueError(
                f"{name!r} is called several times: it stands at {', '.join(map(repr, places[module]))}, and one layer has one "
                "order of features; give each place a module of its own"
            )
        if isinstance(module, nn.Sequential) and len(module):
            end = list(module._modules)[0 if child == BEFORE else -1]
            raise ValueError(
                f"{name!r} is an nn.Sequential, which would call the layer also as the last of its modules; name the module "
                f"inside it: {f'{name}.{end}'!r}"
            )
        if child in module._modules:
            raise ValueError(f"{name!r} has a {child} already; call remove_dropout first")
        if around := [each for each in compiled if each == "" or name == each or name.startswith(f"{each}.")]:
            raise ValueError(
                f"{name!r} is compiled, or a part of {around[0]!r} that is, and compiled code does not see new hooks; insert "
                "before torch.compile (the model is model._orig_mod)"
            )
