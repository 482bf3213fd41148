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

from .._torch import tree_leaves, tree_map_only
from ..fixed_k import check_k
from ..layer import TailDropout
from ..models import at_k
from ..names import Model, named
from .cuts import constants, cut_down, measured
from .graph import Cut, Proposal, PruningError, propose
from .verification import Inputs, difference, evaluating, in_float64, other_inputs, other_weights, rounding, run

# Networks of the same form with other weights that a cut must fit as well.
_TRIALS = 2


def _check_arguments(model: nn.Module, layer: TailDropout | str, k: int, example_inputs: Any) -> tuple[str, Inputs]:
    """The layer's name, and the inputs as arguments."""
    there = named(model, TailDropout, None)
    if any(hasattr(module, "_orig_mod") for module in model.modules()):
        raise ValueError("the model is compiled; prune what it was made of (model._orig_mod), and compile the result")
    if isinstance(layer, str):
        named(model, TailDropout, layer)
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
    if type(example_inputs).__module__ == "numpy":
        raise TypeError("example_inputs is a NumPy array; give tensors: torch.from_numpy(array)")
    raise TypeError(
        f"example_inputs is a {type(example_inputs).__name__}; give a tensor, a tuple of arguments or a dict of them"
    )


def _features(network: nn.Module, layer: str, inputs: Inputs) -> int:
    """The number of features that a layer gives, found by running the network.

    Raises:
        ValueError: if the layer is not called.
        PruningError: if it is called with several numbers of features.
    """
    sizes = set()

    def record(module: TailDropout, args: tuple[Tensor, ...], output: Tensor) -> None:
        sizes.add(output.shape[module.dropout_dim])

    handle = network.get_submodule(layer).register_forward_hook(record)
    try:
        run(network, inputs)
    finally:
        handle.remove()
    if not sizes:
        raise ValueError(f"{layer!r} was not called on the example inputs; give inputs that reach it, or another layer")
    if len(sizes) > 1:
        raise PruningError(f"{layer!r} is called with {sorted(sizes)} features; give each call a TailDropout of its own")
    return sizes.pop()


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


@contextmanager
def _undisturbed(model: nn.Module, inputs: Inputs) -> Iterator[None]:
    """Leave random numbers and the mode of autograd as they are."""
    tensors = [*model.parameters(), *model.buffers(), *tree_leaves(inputs)]
    devices = {each.device for each in tensors if isinstance(each, Tensor) and each.is_cuda}
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.no_grad():
        yield


def _proposals(network: nn.Module, layer: str, n: int, k: int, inputs: Inputs) -> list[Proposal]:
    def visible(tensor: Tensor) -> Tensor:  # what needs no gradient has no place in autograd's graph
        return tensor.detach().clone().requires_grad_(tensor.is_floating_point())

    with torch.enable_grad():
        return propose(copy.deepcopy(network), layer, n, k, partial(run, inputs=tree_map_only(Tensor, visible, inputs)))


class _Check:
    """Whether cuts leave a network's function as it is: for its own weights and inputs, and for others."""

    def __init__(self, model: nn.Module, network: nn.Module, layer: str, k: int, inputs: Inputs) -> None:
        self.model, self.network, self.layer, self.k, self.inputs = model, network, layer, k, inputs
        self.trials = [(network, inputs)]
        self.trials += [(other_weights(network, trial), other_inputs(inputs)) for trial in range(_TRIALS)]
        if found := difference(run(network, inputs), run(network, inputs), rounding(network, inputs)):
            raise PruningError(
                f"the network computes something else at every call: {found}; make it deterministic in evaluation"
            )

    def cuts(self, proposal: Proposal, sliced: bool) -> list[Cut]:
        """The proposal's cuts, once they have proved right.

        Raises:
            Exception: if they have not; of whatever type a network raises that was cut where it must not be.
        """
        feed = partial(run, inputs=self.inputs)
        cuts = measured(self.network, self.layer, self.k, proposal.cuts, feed)
        if tied := _tied(self.model, cuts):
            raise PruningError(f"{tied} are one parameter; give each place its own, as nn.Parameter(weight.clone())")
        for network, inputs in self.trials:
            added = constants(network, self.layer, self.k, cuts, feed)
            smaller = cut_down(copy.deepcopy(network), self.layer, self.k, cuts, added, sliced, remove=False)
            if _features(smaller, self.layer, inputs) > self.k:
                raise PruningError("nothing that makes the features can be cut")
            if found := difference(run(network, inputs), run(smaller, inputs), rounding(network, inputs)):
                raise PruningError(found)
        return cuts


def _set_k(network: nn.Module, name: str, k: int) -> None:
    layer = network.get_submodule(name)
    assert isinstance(layer, TailDropout)
    layer.set_k(k)


def _refusal(layer: str, k: int, proposal: Proposal, error: Exception) -> str:
    obstacles = f" After the layer, {' and '.join(proposal.after)}." if proposal.after else ""
    return (
        f"{layer!r} cannot be cut to k={k} without changing what the network computes: {error}.{obstacles} Have only "
        "operations feature by feature between it and a Linear or a convolution, by moving it, or prune another layer"
    )


def prune(model: Model, layer: TailDropout | str, k: int, example_inputs: Any, *, remove: bool = False) -> Model:
    """A smaller copy of a model: the features of a layer beyond the first k are gone from the weights around it.

    The copy computes what the model computes under `set_k(k)`. This is checked in evaluation and in float64, on the example
    inputs and, as equality may be luck, for two more sets of weights with inputs drawn in the range of those given. Where an
    activation makes something other than 0 of a dropped feature, the bias behind it takes that up.

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
    with _undisturbed(model, inputs):
        network, smaller = evaluating(model), copy.deepcopy(model)
        with at_k(network, None, name):  # which also turns off the fast path of transformers
            n = _features(network, name, inputs)
            if k > n:
                raise ValueError(f"k={k} is greater than the {n} features of {name!r}; give {n} or less")
            if k == n:
                return cut_down(smaller, name, k, (), {}, sliced=False, remove=remove)
            _set_k(network, name, k)
            exact, exact_inputs = in_float64(network, inputs)
            check = _Check(model, exact, name, k, exact_inputs)
            everything, after = _proposals(exact, name, n, k, exact_inputs)
            try:
                sliced, cuts = False, check.cuts(everything, sliced=False)
            except Exception as error:
                excuse = "; ".join(after.before) or f"cutting it too went wrong ({error})"
                try:
                    sliced, cuts = True, check.cuts(after, sliced=True)
                except Exception as error:
                    raise PruningError(_refusal(name, k, after, error)) from error
            added = constants(exact, name, k, cuts, partial(run, inputs=exact_inputs))
            cut_down(smaller, name, k, cuts, added, sliced, remove)
            ours = run(evaluating(smaller), inputs)
            if found := difference(run(network, inputs), ours, rounding(network, inputs)):
                raise PruningError(f"in its own precision the network changes: {found}; prune model.double()")
    if sliced:
        warnings.warn(f"{name!r} now slices {k} of {n} features, and what makes them keeps its size: {excuse}", stacklevel=2)
    return smaller
