"""prune: cut a trained network down to the first k features of its layers, without changing what it computes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, overload

import torch
from torch import Tensor, nn

from .._torch import tree_leaves, without_fastpath
from ..layer import TailDropout
from ..names import Model
from .arguments import as_arguments, check_model, check_numbers, devices_of, resolve
from .config import adapt_config
from .cut import PruningError
from .cutting import Plan, cut_down
from .metadata import record_channels
from .planning import Planner
from .verification import Copies, Inputs, difference, evaluating, rounding, run, set_widths, sizes_given


@contextmanager
def undisturbed(model: nn.Module, inputs: Inputs) -> Iterator[None]:
    """In a `with` block, turn off gradients and torch's fast path for attention, which bypasses layers; restore all state.

    The states of torch's random number generators are restored too.
    """
    devices = devices_of(model) | {each.device for each in tree_leaves(inputs) if isinstance(each, Tensor) and each.is_cuda}
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.no_grad(), without_fastpath():
        yield


def features_of(network: nn.Module, names: Mapping[str, int], inputs: Inputs) -> dict[str, int]:
    """Return the number of features of each layer, found by running the network.

    Raises:
        ValueError: if a layer is not called, or has fewer features than its k.
        PruningError: if a layer is called with several numbers of features.
    """
    sizes: dict[str, int] = {}
    with sizes_given(network, names, sizes):
        run(network, inputs)
    for name, k in names.items():
        if name not in sizes:
            raise ValueError(
                f"{name!r} was not called on any sample of the example inputs; give inputs that reach it (all experts of a "
                "mixture, for instance), or another layer"
            )
        if k > sizes[name]:
            raise ValueError(f"k={k} is greater than the {sizes[name]} features of {name!r}; give {sizes[name]} or less")
    return sizes


class _Missing:
    """Default of an argument that was not given."""


@overload
def prune(model: Model, layer: TailDropout | str, k: int, example_inputs: Any, *, remove: bool = False) -> Model: ...
@overload
def prune(model: Model, layer: Mapping[Any, int], example_inputs: Any, *, remove: bool = False) -> Model: ...
def prune(  # type: ignore[misc]  # the third argument is k or, after a dict, example_inputs
    model: Any, layer: Any, k: Any = _Missing, example_inputs: Any = _Missing, *, remove: bool = False
) -> Any:
    """Return a smaller copy of a model, without the features of its layers beyond the first k.

    The copy computes what the model computes under `set_k(k)`. This is checked for all layers together, in evaluation mode and
    in float64: on the example inputs, and with two more sets of weights on inputs drawn in the range of the example inputs,
    since equality with one set of weights may be a coincidence. With each set of weights, made-up features of all signs and
    sizes show operations that mix features where the inputs would not. If an activation maps 0 to another constant, dropped
    features contribute this constant, which is added to the next bias.

    If the features come from a module that cannot be cut exactly (a LayerNorm, a GRU) or from the model's input, that module
    keeps its size, and the layer slices: it selects the first k features of its input. A warning says so. If several layers
    read the same features, these are cut to the greatest k, and the other layers slice. Buffers, hooks, training modes and
    frozen weights are copied, gradients are not. The model itself is unchanged. Widths in a `config` (`intermediate_size`,
    `n_inner`, ...) are set in the copy if one number fits all layers; otherwise a warning says that they are not. Memory is
    needed for the model and about three copies. Needs the extra `prune` (torch-pruning, by Fang et al. 2023, "DepGraph", for
    the graph).

    Args:
        model: any module that contains the layers.
        layer: a TailDropout of the model, or its name as in `model.named_modules()`; or, in place of `layer` and `k`, a dict
            from layers, names or patterns as in `fnmatch` to widths.
        k: how many features are kept, from 1 to the layer's number of features n.
        example_inputs: a tensor, a tuple or list of positional arguments, or a dict of keyword arguments, for `model`.
        remove: True to also remove the layers; by default they stay, with their p and k features, for further training.

    Returns:
        A copy of the model, of the same type, with fewer weights; for k = n with as many.

    Raises:
        PruningError: if no cut leaves the outputs unchanged; the message names the operations that mix features and a remedy.
            Also if the weights are quantised, sharded, offloaded or tied.
        TypeError: if an argument is of a wrong type.
        ValueError: if k is less than 1 or greater than n; if a layer is not in the model, or not called.
        KeyError: if a name or pattern matches no TailDropout.
        ImportError: if torch-pruning is missing.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), TailDropout(), nn.Linear(8, 1))
        >>> prune(model, "2", 3, torch.randn(5, 4))[0]
        Linear(in_features=4, out_features=3, bias=True)
        >>> prune(model, {"*": 3}, torch.randn(5, 4))[3]
        Linear(in_features=3, out_features=1, bias=True)
    """
    if isinstance(layer, Mapping):
        if example_inputs is _Missing:
            k, example_inputs = _Missing, k
        if example_inputs is _Missing:
            raise TypeError("example_inputs is missing; call prune(model, widths, example_inputs)")
        if k is not _Missing:
            raise TypeError(f"k={k!r} is given beside a dict of widths; call prune(model, widths, example_inputs)")
    elif not isinstance(layer, str | nn.Module):
        raise TypeError(
            f"layer has type {type(layer).__name__}; give a TailDropout of the model, or its name; for several layers give a "
            "dict of widths, prune(model, {name: k, ...}, example_inputs)"
        )
    elif k is _Missing or example_inputs is _Missing:
        raise TypeError("k or example_inputs is missing; call prune(model, layer, k, example_inputs)")
    widths = resolve(model, layer if isinstance(layer, Mapping) else {layer: k})
    inputs = as_arguments(example_inputs)
    check_model(model)
    with undisturbed(model, inputs):
        smaller, excuses = _pruned(model, widths, inputs, remove)
    for message in excuses:
        warnings.warn(message, stacklevel=2)
    return smaller


def _pruned(model: Model, widths: dict[str, int], inputs: Inputs, remove: bool) -> tuple[Model, list[str]]:
    """Return the smaller copy, and the messages of warnings."""
    copies = Copies(model)
    network = copies.another()
    set_widths(network, dict.fromkeys(widths))
    sizes = features_of(network, widths, inputs)
    cut = {name: k for name, k in widths.items() if k < sizes[name]}
    set_widths(network, cut)
    theirs = run(network, inputs)
    plan = Plan((), {}, frozenset())
    added: dict[str, Tensor] = {}
    excuses: dict[str, str] = {}
    planner = None
    if cut:
        check_numbers(inputs, theirs)
        planner = Planner(copies, network, cut, sizes, inputs)
    del network  # its memory is needed for the trials
    if planner is not None:
        plan, added, excuses = planner.solve()
        del planner
    copies.free()
    smaller = copy.deepcopy(model)
    cut_down(smaller, Plan(plan.cuts, widths, plan.sliced), added, remove)
    _check(smaller, inputs, theirs, bool(cut), remove)
    record_channels(smaller)
    messages = [f"{name!r} now slices {excuse}" for name, excuse in excuses.items()]
    return smaller, messages + adapt_config(smaller, cut, sizes)


def _check(smaller: nn.Module, inputs: Inputs, theirs: list[Any], cut: bool, remove: bool) -> None:
    """Check that the network to be returned has the outputs `theirs`: the trials ran in float64, and with the layers.

    Raises:
        PruningError: if the network fails or has other outputs.
    """
    candidate = evaluating(smaller)
    ways = ["in its own precision"] * cut + ["without its layers"] * remove
    remedies = ["prune model.double()"] * cut + ["give remove=False"] * remove
    what, remedy = " and ".join(ways) or "as a copy", ", or ".join(remedies) or "make it deterministic in evaluation mode"
    try:
        ours = run(candidate, inputs)
    except Exception as error:  # of any type, from the network's own code
        raise PruningError(f"{what} the network fails ({type(error).__name__}: {error}); {remedy}") from error
    if found := difference(theirs, ours, rounding(candidate, inputs)):
        raise PruningError(f"{what} the network changes: {found}; {remedy}")
