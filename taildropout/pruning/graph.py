"""Find the weights of a TailDropout's tail (its features beyond the first k), by a walk through torch-pruning's graph.

The result is a proposal. The graph follows autograd by the names of operations, and assumes that unknown operations are
feature-wise; `prune` checks every proposal by running the network.

The walk is our own: torch-pruning's `get_pruning_group` does not end on some networks with attention, GPT-2 with one layer for
instance (torch-pruning's issues 430, 456 and 527: the same operation is walked again for every new list of the same indices).
Here every index of a module is walked once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..layer import TailDropout
from .cut import Cut, PruningError
from .handlers import install
from .obstacles import obstacles

# The errors that torch-pruning raises on networks that it cannot follow.
_FAILURES = (AttributeError, IndexError, KeyError, RecursionError, TypeError)
# The most indices that are walked for one layer: so many take seconds.
_MOST_INDICES = 1_000_000


@dataclass(frozen=True)
class Proposal:
    """Cuts for the tail of one layer, and descriptions of the operations that may make cuts wrong.

    Attributes:
        everything: the cuts before and after the layer, or the reason why the graph cannot be followed before the layer.
        after: the cuts after the layer.
        obstacles_before, obstacles_after: the operations before and after the layer that need all features.
    """

    everything: tuple[Cut, ...] | str
    after: tuple[Cut, ...]
    obstacles_before: tuple[str, ...]
    obstacles_after: tuple[str, ...]


class _Graph(NamedTuple):
    """torch-pruning's graph, and the error for each node whose mapping of indices torch-pruning cannot find."""

    graph: Any
    unmapped: dict[Any, Exception]


class _Index(NamedTuple):
    """An index in the form that torch-pruning's mappings need."""

    idx: int
    root_idx: int


def _build(network: nn.Module, features: dict[nn.Module, int], run: Callable[[nn.Module], list[Any]]) -> _Graph:
    """Build torch-pruning's graph of `network`, which cannot be used afterwards; the arguments are as for `propose`."""
    try:
        import torch_pruning
    except ImportError as error:
        raise ImportError("prune needs torch-pruning; install it: pip install 'taildropout[prune]'") from error

    class DependencyGraph(torch_pruning.DependencyGraph):  # type: ignore[misc]
        linked = False

        def _trace(self, *args: Any, **kwargs: Any) -> Any:
            # A TailDropout may stand inside the module that reads it, and torch-pruning ignores what is inside known modules.
            ignored: list[nn.Module] = self.IGNORED_LAYERS_IN_TRACING
            ignored[:] = [module for module in ignored if not isinstance(module, TailDropout)]
            return super()._trace(*args, **kwargs)

        def _build_dependency(self, *args: Any) -> None:
            super()._build_dependency(*args)
            self.linked = True

    network.requires_grad_()  # autograd records nothing of a tensor that needs no gradient
    handlers = install(network, features)
    graph = DependencyGraph()
    try:
        graph.build_dependency(
            network,
            (),
            forward_fn=lambda network, _: [
                each for each in run(network) if isinstance(each, Tensor) and each.grad_fn is not None
            ],
            customized_pruners=handlers,
            verbose=False,
        )
    except _FAILURES as error:
        if not graph.linked:
            raise _cannot_follow(error) from error
    return _Graph(graph, _map_indices(graph, torch_pruning.dependency.index_mapping.update_index_mapping))


def _map_indices(graph: Any, update: Callable[[Any], None]) -> dict[Any, Exception]:
    """Have torch-pruning find how each node maps indices, and return the error of each node for which it fails.

    Called for all nodes at once, `update` would fail for all because of one node, such as the concatenation of a cache.
    """
    nodes = graph.module2node
    failed: dict[Any, Exception] = {}
    for module, node in nodes.items():
        graph.module2node = {module: node}
        try:
            update(graph)
        except _FAILURES as error:
            failed[node] = error
    graph.module2node = nodes
    return failed


def _cannot_follow(error: Exception) -> PruningError:
    return PruningError(
        f"torch-pruning cannot follow the features through this network ({type(error).__name__}: {error}). "
        "One cause is a concatenation with a tensor that no layer made, such as the network's input: "
        "add two products instead of concatenating, or give that tensor to a second Linear. Another is a module called in a "
        "loop, such as a GRUCell: use a GRU"
    )


def _cuts(traced: _Graph, layer: nn.Module, features: Sequence[int]) -> tuple[Cut, ...]:
    """Return a cut for every module and parameter that holds weights of these features of the layer.

    Raises:
        PruningError: if the graph cannot be followed.
    """
    graph = traced.graph
    found: dict[tuple[Any, Any], set[int]] = {}
    waiting = [(graph.module2node[layer], graph.get_pruner_of_module(layer).prune_out_channels, features)]
    walked = 0
    while waiting:
        node, handler, indices = waiting.pop()
        if node in traced.unmapped:
            raise _cannot_follow(traced.unmapped[node]) from traced.unmapped[node]
        known = found.setdefault((node, handler), set())
        new = [index for index in indices if index not in known]
        known.update(new)
        walked += len(new)
        if walked > _MOST_INDICES:
            raise PruningError(
                "torch-pruning's graph has a cycle on which the number of features grows without end (its issues 430 and 527); "
                "causes are attention that reads the features of the layer, reshaped into heads, and a GRUCell that reads them "
                "in a loop"
            )
        for dependency in node.dependencies if new else ():
            if dependency.is_triggered_by(handler):
                mapped = [_Index(index, index) for index in new]
                try:
                    for mapping in dependency.index_mapping:
                        mapped = mapped if mapping is None else mapping(mapped)
                except _FAILURES as error:  # from a mapping between sizes that do not fit, of a loop over time for instance
                    raise _cannot_follow(error) from error
                if mapped:
                    waiting.append((dependency.target, dependency.handler, [index.idx for index in mapped]))
    cuts = []
    for (node, handler), gone in found.items():
        module = node.module
        names = graph._param_to_name if isinstance(module, nn.Parameter) else graph._module2name
        if module in names and gone:
            reads = handler == graph.get_pruner_of_module(module).prune_in_channels
            cuts.append(Cut(names[module], tuple(sorted(gone)), handler, node.pruning_dim, reads))
    return tuple(cuts)


@contextmanager
def _severed(node: Any) -> Iterator[None]:
    """In a `with` block, hide the dependencies between a node and its inputs."""
    around = [node, *node.inputs]
    dependencies = [each.dependencies for each in around]
    for each in node.inputs:
        each.dependencies = [dependency for dependency in each.dependencies if dependency.target is not node]
    node.dependencies = [dependency for dependency in node.dependencies if dependency.target not in node.inputs]
    try:
        yield
    finally:
        for each, before in zip(around, dependencies, strict=True):
            each.dependencies = before


def propose(
    network: nn.Module, widths: Mapping[str, int], features: Mapping[str, int], run: Callable[[nn.Module], list[Any]]
) -> dict[str, Proposal]:
    """Propose cuts for the tails of layers, from one graph.

    Args:
        network: a copy of the network, which cannot be used afterwards.
        widths: how many features each layer keeps, by the name of the TailDropout.
        features: how many features each layer has, by the name of the TailDropout.
        run: runs the network on inputs that need gradients and returns its outputs as a list.

    Returns:
        A proposal for each layer, by name.

    Raises:
        ImportError: if torch-pruning is missing.
        PruningError: if no output depends on a layer by a gradient, or if the graph cannot be followed after a layer.
    """
    with torch.enable_grad():
        traced = _build(network, {network.get_submodule(name): n for name, n in features.items()}, run)
    graph = traced.graph
    proposals = {}
    for name, k in widths.items():
        layer = network.get_submodule(name)
        if layer not in graph.module2node:
            raise PruningError(
                f"no output of the network has a gradient that passes {name!r}; have the model return tensors that depend on "
                "the layer (alone, in a list, a dict or as attributes of an object), made without detach() or no_grad()"
            )
        node, tail = graph.module2node[layer], range(k, features[name])
        everything: tuple[Cut, ...] | str
        with _severed(node):
            after = _cuts(traced, layer, tail)
        try:
            everything = _cuts(traced, layer, tail)
        except PruningError as error:
            everything = str(error)
        proposals[name] = Proposal(everything, after, obstacles(graph, node, "inputs"), obstacles(graph, node, "outputs"))
    return proposals
