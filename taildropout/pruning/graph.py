"""Which weights belong to the features of a TailDropout: torch-pruning's graph of a network, and cuts along it.

What is found here is a proposal. The graph follows autograd by the names of operations and takes those it does not know for
feature-wise; `prune` checks every proposal by running it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from .._torch import tree_flatten, tree_leaves, tree_unflatten
from ..layer import TailDropout

# Operations that mix features, by what autograd calls them.
_MIXING = ("softmax", "norm", "mean", "sum", "mm", "dot", "cum", "sort", "topk", "prod", "var", "std", "fft", "glu")


class PruningError(ValueError):
    """The network cannot be cut there without changing what it computes, or this cannot be checked."""


@dataclass(frozen=True)
class Cut:
    """The features that go from one module or parameter."""

    name: str
    features: tuple[int, ...]
    handler: Callable[[Any, list[int]], Any]
    dim: int  # of features, in a parameter
    reads: bool  # whether they are features of what the module reads, and not of what it makes

    def apply(self, network: nn.Module) -> None:
        """Cut them out of a network, in place; what is frozen stays frozen."""
        parent, _, child = self.name.rpartition(".")
        owner = network.get_submodule(parent)
        target = getattr(owner, child) if child else owner
        if isinstance(target, nn.Parameter):
            self.handler.__self__.pruning_dim = self.dim  # type: ignore[attr-defined]
            setattr(owner, child, self.handler(target, list(self.features)).requires_grad_(target.requires_grad))
            return
        if isinstance(getattr(target, "weight", None), Tensor) and "weight" not in target._parameters:
            raise PruningError(
                f"the weight of {self.name!r} is computed from other parameters; fold it first "
                "(torch.nn.utils.parametrize.remove_parametrizations)"
            )
        frozen = [name for name, parameter in target.named_parameters() if not parameter.requires_grad]
        self.handler(target, list(self.features))
        for name in frozen:
            target.get_parameter(name).requires_grad_(False)


@dataclass(frozen=True)
class Proposal:
    """Cuts that may do, and what may stand in their way, before and after the layer."""

    cuts: tuple[Cut, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]


def _keep(tensor: Tensor, dim: int, gone: Sequence[int]) -> nn.Parameter:
    kept = sorted({*range(tensor.shape[dim])} - {*gone})
    return nn.Parameter(tensor.detach().index_select(dim, torch.tensor(kept, device=tensor.device)))


class _Pruner:
    """What torch-pruning asks of a pruner, for what it cannot cut, or not as it must be cut here: nothing goes."""

    pruning_dim = 1

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        raise PruningError(f"a {type(layer).__name__} mixes features")

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        raise PruningError(f"a {type(layer).__name__} mixes features")

    def get_out_channels(self, layer: Any) -> int | None:
        return None

    def get_in_channels(self, layer: Any) -> int | None:
        return None


class _LayerPruner(_Pruner):
    """TailDropout: what goes in comes out. Of one layer the number of features is known."""

    def __init__(self, layer: nn.Module, n: int) -> None:
        self.layer, self.n = layer, n

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int | None:
        return self.n if layer is self.layer else None

    get_in_channels = get_out_channels


class _RecurrentPruner(_Pruner):
    """RNN, LSTM and GRU: what they read can go, what they make they read themselves."""

    def prune_in_channels(self, layer: nn.RNNBase, idxs: Sequence[int]) -> nn.Module:
        for name in ("weight_ih_l0", "weight_ih_l0_reverse")[: 1 + layer.bidirectional]:
            setattr(layer, name, _keep(getattr(layer, name), 1, idxs))
        layer.input_size -= len(idxs)
        layer.flatten_parameters()  # cuDNN wants all weights in one piece of memory
        return layer


class _GroupPruner(_Pruner):
    """GroupNorm: whole groups go. Where k cuts through one, sizes no longer fit."""

    def prune_out_channels(self, layer: nn.GroupNorm, idxs: Sequence[int]) -> nn.Module:
        size = layer.num_channels // layer.num_groups
        gone = {index // size for index in idxs}
        if layer.affine:
            layer.weight, layer.bias = _keep(layer.weight, 0, idxs), _keep(layer.bias, 0, idxs)
        layer.num_groups -= len(gone)
        layer.num_channels -= len(idxs)
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: nn.GroupNorm) -> int:
        return layer.num_channels

    get_in_channels = get_out_channels


# Their insides are many operations, which the graph would take for feature-wise.
_OPAQUE: dict[type[nn.Module], type[_Pruner]] = {nn.RNNBase: _RecurrentPruner, nn.MultiheadAttention: _Pruner}


class _Join(torch.autograd.Function):
    """One node of autograd's graph for all that a module does."""

    @staticmethod
    def forward(ctx: Any, outputs: list[Any], *inputs: Tensor) -> tuple[Any, ...]:
        return tuple(outputs)


def _opaque(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    with torch.no_grad():
        outputs, structure = tree_flatten(type(module).forward(module, *args, **kwargs))
    inputs = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor) and each.requires_grad]
    joined = _Join.apply(outputs, *inputs)  # type: ignore[no-untyped-call]
    return tree_unflatten(joined, structure)


def _visible(module: nn.Module, *args: Any) -> Tensor:
    return cast(Tensor, type(module).forward(module, *args).clone())


def _graph(network: nn.Module, layer: nn.Module, n: int, run: Callable[[nn.Module], list[Any]]) -> Any:
    """torch-pruning's graph of a network that is used up by it."""
    try:
        import torch_pruning
    except ImportError as error:
        raise ImportError("prune needs torch-pruning; install it: pip install 'taildropout[prune]'") from error

    network.requires_grad_()  # what needs no gradient has no place in autograd's graph
    pruners: dict[type[nn.Module], _Pruner] = {}
    for module in network.modules():
        if isinstance(module, TailDropout):
            module.set_k(None)
            cast(Any, module).forward = partial(_visible, module)  # autograd's graph does not show the identity
            pruners[type(module)] = _LayerPruner(layer, n)
        elif isinstance(module, nn.GroupNorm):
            pruners[type(module)] = _GroupPruner()
        for kind, pruner in _OPAQUE.items():
            if isinstance(module, kind):
                pruners[type(module)] = pruner()
                cast(Any, module).forward = partial(_opaque, module)
    with _followed():
        return torch_pruning.DependencyGraph().build_dependency(
            network,
            (),
            forward_fn=lambda network, _: [
                each for each in run(network) if isinstance(each, Tensor) and each.grad_fn is not None
            ],
            customized_pruners=pruners,
            verbose=False,
        )


@contextmanager
def _followed() -> Iterator[None]:
    """torch-pruning's own failure, such as at a concatenation with the network's input, as a PruningError."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise PruningError(
            f"torch-pruning cannot follow the features through this network ({type(error).__name__}: {error}). "
            "A concatenation with what no layer made, the network's input for instance, is one such place: "
            "add two products instead of concatenating, or leave that input to a second Linear"
        ) from error


def _contracts(graph: Any, node: Any) -> bool:
    """Whether a feature ends there: what is read and what is made are features of their own, as in a Linear."""
    pruner = graph.get_pruner_of_module(node.module)
    return bool(pruner.prune_in_channels != pruner.prune_out_channels)


def _cuts(graph: Any, layer: nn.Module, features: list[int]) -> tuple[Cut, ...]:
    """All that belongs to these features of the layer, in its graph."""
    root = graph.get_pruner_of_module(layer).prune_out_channels
    found = []
    with _followed():
        group = graph.get_pruning_group(layer, root, features)
    for dependency, gone in group.items:
        module = dependency.target.module
        names = graph._param_to_name if isinstance(module, nn.Parameter) else graph._module2name
        if module in names:
            reads = dependency.handler == graph.get_pruner_of_module(module).prune_in_channels
            found.append(Cut(names[module], tuple(sorted(gone)), dependency.handler, dependency.target.pruning_dim, reads))
    return tuple(found)


def _around(graph: Any, start: Any, neighbours: str) -> Iterator[Any]:
    """The nodes from one on in one direction, up to and including those where features end."""
    seen, waiting = {start}, list(getattr(start, neighbours))
    while waiting:
        node = waiting.pop(0)
        if node not in seen:
            seen.add(node)
            yield node
            if not _contracts(graph, node):
                waiting += getattr(node, neighbours)


def _obstacles(graph: Any, layer: Any, neighbours: str) -> tuple[str, ...]:
    """What needs all features of a layer, before or after it, as far as names tell."""
    found = []
    nodes = list(_around(graph, layer, neighbours))
    for node in nodes:
        module = node.module
        operation = str(getattr(module, "_grad_fn", "")).partition("Backward")[0]
        inside_linear = operation.lower().endswith("mm") and any(isinstance(each.module, nn.Linear) for each in node.outputs)
        if isinstance(module, nn.GroupNorm):
            size = module.num_channels // module.num_groups
            found.append(f"{graph._module2name[module]!r} (GroupNorm) mixes features, unless k is a multiple of {size}")
        elif isinstance(module, nn.LayerNorm | nn.RNNBase | nn.MultiheadAttention):
            found.append(f"{graph._module2name[module]!r} ({type(module).__name__}) mixes features")
        elif any(word in operation.lower() for word in _MIXING) and not inside_linear:
            found.append(f"{operation.lower()} mixes features")
        elif neighbours == "outputs" and operation in ("Add", "Sub") and len(node.inputs) > 1:
            found.append("a sum with what does not pass the layer needs them all")
    ends = [each for each in [layer, *nodes] if not getattr(each, neighbours) and not _contracts(graph, each)]
    if ends and neighbours == "outputs":
        found.append("the model's output has them itself")
    elif not all(isinstance(each.module, nn.Parameter | nn.Embedding) for each in ends):
        found.append("they come from the model's input")
    return tuple(dict.fromkeys(found))


def propose(network: nn.Module, name: str, n: int, k: int, run: Callable[[nn.Module], list[Any]]) -> list[Proposal]:
    """What could be cut of a network, most first: all that belongs to the layer's tail; only what comes after the layer.

    Args:
        network: a copy, to be used up.
        name: the TailDropout's name in it; of its n features the first k stay.
        run: runs the network on inputs that need gradients and returns its outputs as a list.

    Raises:
        ImportError: if torch-pruning is missing.
        PruningError: if no output depends on the layer by a gradient.
    """
    layer = network.get_submodule(name)
    graph = _graph(network, layer, n, run)
    if layer not in graph.module2node:
        raise PruningError(f"no output of the network has a gradient that passes {name!r}")
    node, features = graph.module2node[layer], list(range(k, n))
    before, after = _obstacles(graph, node, "inputs"), _obstacles(graph, node, "outputs")
    everything = Proposal(_cuts(graph, layer, features), before, after)
    for here, there in [(node, each) for each in node.inputs] + [(each, node) for each in node.inputs]:
        here.dependencies = [each for each in here.dependencies if each.target is not there]
    return [everything, Proposal(_cuts(graph, layer, features), before, after)]
