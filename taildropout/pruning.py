"""Cutting a trained network down to the first k features of a layer, without changing what it computes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .cutting import constants, cut_down, measured
from .dependencies import Cut, Proposal, propose
from .dims import sample_shape
from .layer import TailDropout, check_k
from .models import _named, at_k

Inputs = tuple[Any, ...] | dict[str, Any]

# Networks of the same form with other weights that a cut must fit as well: equality may be luck for the weights there are.
_TRIALS = 2


class PruningError(ValueError):
    """The network cannot be cut there without changing what it computes, or this cannot be checked."""


def _run(network: nn.Module, inputs: Inputs) -> list[Any]:
    """The outputs as a list; the network gets inputs of its own, which it may write into."""
    inputs = pytree.tree_map_only(Tensor, torch.clone, inputs)
    return pytree.tree_leaves(network(**inputs) if isinstance(inputs, dict) else network(*inputs))


def _cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    cast: Inputs = pytree.tree_map_only(Tensor, lambda each: each.to(dtype) if each.is_floating_point() else each, inputs)
    return cast


def _other(inputs: Inputs) -> Inputs:
    """Other inputs of the same kind: floats drawn between the least and the largest that were there."""

    def draw(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or not tensor.numel() or not tensor.isfinite().all():
            return tensor
        least, largest = tensor.aminmax()
        return least + torch.rand_like(tensor) * torch.where(least == largest, 1, largest - least)

    drawn: Inputs = pytree.tree_map_only(Tensor, draw, inputs)
    return drawn


def _other_weights(network: nn.Module) -> nn.Module:
    """A network of the same form whose weights and running statistics are nowhere 0, and nowhere equal by chance."""
    other = copy.deepcopy(network)
    for name, tensor in [*other.named_parameters(), *other.named_buffers()]:
        running = name.rpartition(".")[2] in ("running_mean", "running_var")
        if tensor.is_floating_point() and tensor.numel() and (running or isinstance(tensor, nn.Parameter)):
            size = tensor.square().mean().sqrt()
            noise = torch.rand_like(tensor) * torch.where(size == 0, 1, size)
            tensor.copy_(tensor * (torch.rand_like(tensor) + 0.5) + noise / 5)
    return other


def _difference(ours: Sequence[Any], theirs: Sequence[Any], rounding: float) -> str | None:
    """How two lists of outputs differ beyond rounding; None if they do not.

    Rounding is whatever stays within half of the digits, relative to the largest element of a tensor.
    """
    if len(ours) != len(theirs):
        return f"{len(ours)} outputs became {len(theirs)}"
    for a, b in zip(ours, theirs, strict=True):
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            if isinstance(a, float | int | str | bool | None) and a != b:
                return f"an output {a!r} became {b!r}"
            continue
        if a.shape != b.shape:
            return f"an output of shape {tuple(a.shape)} became {tuple(b.shape)}"
        if not a.is_floating_point():
            if not torch.equal(a, b):
                return "an output of whole numbers changed"
            continue
        a, b = a.detach(), b.detach()
        size = a[a.isfinite()].abs().max() if a.isfinite().any() else a.new_zeros(())
        allowed = float(size) * max(rounding, torch.finfo(a.dtype).eps) ** 0.5
        if not torch.allclose(a, b, rtol=0, atol=allowed, equal_nan=True):
            return f"an output of size {float(size):.3g} changed by {float((a - b).abs().max()):.3g}"
    return None


def _tied(model: nn.Module, cuts: Sequence[Cut]) -> str | None:
    """The names of a parameter that is to be cut and belongs to other modules too."""
    owners: dict[int, dict[int, str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner = model.get_submodule(name.rpartition(".")[0])
        owners.setdefault(id(parameter), {}).setdefault(id(owner), name)
    for names in owners.values():
        touched = [name for name in names.values() for cut in cuts if name == cut.name or name.startswith(cut.name + ".")]
        if len(names) > 1 and touched:
            return " and ".join(map(repr, names.values()))
    return None


def _evaluating(model: nn.Module) -> nn.Module:
    """A copy for trying things out, in evaluation; not by `eval()`, which is a module's own and forgets k."""
    network = copy.deepcopy(model)
    for module in network.modules():
        module.training = False
    return network


def _in_float64(network: nn.Module, inputs: Inputs) -> tuple[nn.Module, Inputs]:
    """The network and its inputs where rounding hides nothing; as they are if the network insists on its own precision.

    Raises:
        PruningError: if that is less than float32.
    """
    exact = copy.deepcopy(network), _cast(inputs, torch.float64)
    try:
        _run(exact[0].double(), exact[1])
    except (RuntimeError, TypeError) as error:
        if _rounding(network, inputs) > torch.finfo(torch.float32).eps:
            raise PruningError(
                "the network does not run in float64, and its own precision is too low to tell a wrong cut from rounding; "
                "let it follow the dtype of its weights, or prune model.float()"
            ) from error
        return network, inputs
    return exact


def _rounding(network: nn.Module, *tensors: Any) -> float:
    """The relative rounding of the coarsest dtype there is."""
    every = [*network.parameters(), *network.buffers(), *pytree.tree_leaves(tensors)]
    return max(
        (torch.finfo(each.dtype).eps for each in every if isinstance(each, Tensor) and each.is_floating_point()), default=0.0
    )


def _check_features(network: nn.Module, layer: str, k: int, inputs: Inputs) -> int:
    """The number of features of the layer, found by running the network.

    Raises:
        ValueError: if the layer is not called, or k is greater.
        PruningError: if it is called with several numbers of features.
    """
    sizes = set()

    def record(module: TailDropout, args: tuple[Tensor, ...]) -> None:
        _, dim = sample_shape(args[0].shape, module._batch_dims, module.dropout_dim)
        sizes.add(args[0].shape[dim])
        if k > args[0].shape[dim]:
            raise ValueError(f"k={k} is greater than the {args[0].shape[dim]} features of {layer!r}; give that many or fewer")

    handle = network.get_submodule(layer).register_forward_pre_hook(record)
    try:
        _run(network, inputs)
    finally:
        handle.remove()
    if not sizes:
        raise ValueError(f"{layer!r} was not called on the example inputs; give inputs that reach it, or another layer")
    if len(sizes) > 1:
        raise PruningError(f"{layer!r} is called with {sorted(sizes)} features; give each call a TailDropout of its own")
    return sizes.pop()


def _check_arguments(model: nn.Module, layer: TailDropout | str, k: int, example_inputs: Any) -> tuple[str, Inputs]:
    """The layer's name, and the inputs as arguments."""
    there = _named(model, TailDropout, None)
    if isinstance(layer, str):
        _named(model, TailDropout, layer)
        name = layer
    elif isinstance(layer, TailDropout):
        names = [name for name, module in there.items() if module is layer]
        if not names:
            raise ValueError(f"layer is not in the model (a copy is another layer); there are {', '.join(map(repr, there))}")
        name = names[0]
    else:
        raise TypeError(f"layer is a {type(layer).__name__}; give a TailDropout of the model, or its name")
    if isinstance(k, Tensor):
        raise TypeError("k is a tensor; a network is cut at one width: give an int")
    if check_k(k) == 0:
        raise ValueError("k=0 leaves no feature and no network; give 1 or more")
    if isinstance(example_inputs, Tensor):
        return name, (example_inputs,)
    if isinstance(example_inputs, Mapping):
        return name, dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return name, tuple(example_inputs)
    raise TypeError(
        f"example_inputs is a {type(example_inputs).__name__}; give a tensor, a tuple of arguments or a dict of them"
    )


@contextmanager
def _undisturbed(inputs: Inputs, model: nn.Module) -> Iterator[None]:
    """Leave random numbers and the mode of autograd as they are."""
    tensors = [*model.parameters(), *model.buffers(), *pytree.tree_leaves(inputs)]
    devices = {each.device for each in tensors if isinstance(each, Tensor) and each.device.type == "cuda"}
    with torch.random.fork_rng(list(devices)), torch.inference_mode(False), torch.no_grad():
        yield


def _proposals(network: nn.Module, layer: str, n: int, k: int, inputs: Inputs) -> list[Proposal]:
    def detached(tensor: Tensor) -> Tensor:
        return tensor.detach().clone().requires_grad_(tensor.is_floating_point())  # or the input would not be in the graph

    with torch.enable_grad():
        return propose(
            copy.deepcopy(network), layer, n, k, partial(_run, inputs=pytree.tree_map_only(Tensor, detached, inputs))
        )


def _failure(
    model: nn.Module, trials: Sequence[tuple[nn.Module, Inputs]], layer: str, k: int, cuts: Sequence[Cut], sliced: bool
) -> str | None:
    """Why these cuts will not do; None if they leave the function as it is, for every trial's weights and inputs."""
    if tied := _tied(model, cuts):
        return f"{tied} are one parameter; give each place its own: nn.Parameter(weight.clone())"
    run = partial(_run, inputs=trials[0][1])
    for network, inputs in trials:
        try:
            added = constants(network, layer, k, cuts, run)
            smaller = cut_down(copy.deepcopy(network), layer, k, cuts, added, sliced, remove=False)
            ours = _run(smaller, inputs)
        except Exception as error:  # whatever a network raises that was cut where it must not be: the reason is reported
            return f"{type(error).__name__}: {error}"
        if difference := _difference(_run(network, inputs), ours, _rounding(network, inputs)):
            return difference
    return None


def _blame(layer: str, proposal: Proposal, failures: Sequence[str]) -> str:
    mixing = f"{', '.join(proposal.after)} after the layer needs all features" if proposal.after else "what follows mixes them"
    return (
        f"the features of {layer!r} cannot be cut without changing what the network computes: {mixing} ({failures[-1]}). "
        "Put the TailDropout directly before a Linear or a convolution, or between one and an activation"
    )


def prune(model: nn.Module, layer: TailDropout | str, k: int, example_inputs: Any, *, remove: bool = False) -> nn.Module:
    """A smaller copy of a model: the features of a layer beyond the first k are gone from the weights around it.

    The copy computes what the model computes under `set_k(k)`. This is checked in evaluation and in float64, on the example
    inputs, on others drawn in their range, and for two more sets of weights, as equality may be luck. Where an activation makes
    something other than 0 of a dropped feature, the bias behind it takes that up.

    Where what makes the features cannot be cut exactly (a LayerNorm, a GRU, the model's own input), it stays as it is, and the
    layer slices; a warning says so. Buffers, hooks, training modes and frozen weights are copied, gradients are not. The model
    itself stays untouched. Needs the extra `prune` (torch-pruning, by Fang et al. 2023, "DepGraph", for the graph).

    Args:
        model: any module that contains the layer.
        layer: a TailDropout of the model, or its name as in `model.named_modules()`.
        k: how many features stay, from 1 to the number n that the layer has.
        example_inputs: a tensor, a tuple or list of positional arguments, or a dict of keyword arguments, for `model`.
        remove: also remove the layer, which otherwise stays for further training, with its p and k features.

    Returns:
        A copy of the model with fewer weights; for k = n with as many.

    Raises:
        PruningError: if no cut leaves the function unchanged; the message names what mixes features and what can be done.
        TypeError: if an argument is of a wrong type.
        ValueError: if k is less than 1 or greater than n; if the layer is not in the model, or not called.
        KeyError: if `layer` is no TailDropout's name.
        ImportError: if torch-pruning is missing.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), TailDropout(), nn.Linear(8, 1))
        >>> prune(model, "2", 3, torch.randn(5, 4))[0]
        Linear(in_features=4, out_features=3, bias=True)
    """
    name, inputs = _check_arguments(model, layer, k, example_inputs)
    with _undisturbed(inputs, model):
        network, smaller = _evaluating(model), copy.deepcopy(model)
        smaller.zero_grad(set_to_none=True)
        with at_k(network, None, name):  # which also turns off the fast path of transformers
            n = _check_features(network, name, k, inputs)
            if k == n:
                return cut_down(smaller, name, k, (), {}, sliced=False, remove=remove)
            held = network.get_submodule(name)
            assert isinstance(held, TailDropout)
            held.set_k(k)
            exact, exact_inputs = _in_float64(network, inputs)
            trials = [(exact, exact_inputs), (exact, _other(exact_inputs))]
            trials += [(_other_weights(exact), _other(exact_inputs)) for _ in range(_TRIALS)]
            run, failures = partial(_run, inputs=exact_inputs), []
            for sliced, proposal in zip((False, True), _proposals(exact, name, n, k, exact_inputs), strict=True):
                cuts = measured(exact, name, k, proposal.cuts, run)
                failure = _failure(model, trials, name, k, cuts, sliced)
                if failure is None:
                    break
                failures.append(failure)
            else:
                raise PruningError(_blame(name, proposal, failures))
            cut_down(smaller, name, k, cuts, constants(exact, name, k, cuts, run), sliced, remove)
            if difference := _difference(_run(network, inputs), _run(_evaluating(smaller), inputs), _rounding(network, inputs)):
                raise PruningError(f"in the network's own precision the result is not the same: {difference}")
    if sliced:
        warnings.warn(
            f"{name!r} now takes the first {k} of its {n} features, and what makes them keeps its size: "
            f"{', '.join(proposal.before) or 'it'} cannot be cut without changing what the network computes",
            stacklevel=2,
        )
    return smaller
