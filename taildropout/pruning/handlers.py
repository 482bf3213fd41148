"""Handlers, by which torch-pruning removes features from modules that it does not know or would cut wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from .._torch import has_hooks, tree_flatten, tree_leaves, tree_unflatten
from ..layer import TailDropout
from .cut import PruningError
from .kinds import is_conv1d


def _keep(tensor: Tensor, dim: int, gone: Sequence[int]) -> nn.Parameter:
    kept = sorted({*range(tensor.shape[dim])} - {*gone})
    return nn.Parameter(tensor.detach().index_select(dim, torch.tensor(kept, device=tensor.device)))


class Handler:
    """Remove features from a type of module, for torch-pruning. This base class refuses: the module mixes features."""

    pruning_dim = 1

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        raise PruningError(f"{type(layer).__name__} mixes features")

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        raise PruningError(f"{type(layer).__name__} mixes features")

    def get_out_channels(self, layer: Any) -> int | None:
        return None

    def get_in_channels(self, layer: Any) -> int | None:
        return None


class _TailDropoutHandler(Handler):
    """TailDropout: no weights to cut. `features` holds the number of features of each layer, as found in a run."""

    def __init__(self, features: dict[nn.Module, int]) -> None:
        self.features = features

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int | None:
        return self.features.get(layer)

    get_in_channels = get_out_channels


class _RecurrentHandler(Handler):
    """RNN, LSTM and GRU: input features can be removed, but not output features, which the module reads at the next step."""

    def prune_in_channels(self, layer: nn.RNNBase, idxs: Sequence[int]) -> nn.Module:
        for name in ("weight_ih_l0", "weight_ih_l0_reverse")[: 1 + layer.bidirectional]:
            setattr(layer, name, _keep(getattr(layer, name), 1, idxs))
        layer.input_size -= len(idxs)
        layer.flatten_parameters()  # cuDNN wants all weights in one piece of memory
        return layer


class _GroupNormHandler(Handler):
    """GroupNorm: whole groups can be removed."""

    def prune_out_channels(self, layer: nn.GroupNorm, idxs: Sequence[int]) -> nn.Module:
        """Remove the channels `idxs` in place, and return the layer. Raises PruningError if this cuts through a group."""
        size = layer.num_channels // layer.num_groups
        gone = {index // size for index in idxs}
        if len(gone) * size != len(idxs):
            raise PruningError(f"a GroupNorm has groups of {size} features, and k must be a multiple of {size}")
        if layer.affine:
            layer.weight, layer.bias = _keep(layer.weight, 0, idxs), _keep(layer.bias, 0, idxs)
        layer.num_groups -= len(gone)
        layer.num_channels -= len(idxs)
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: nn.GroupNorm) -> int:
        return layer.num_channels

    get_in_channels = get_out_channels


class _Conv1DHandler(Handler):
    """`Conv1D` of Hugging Face transformers: a Linear whose weight is (inputs, outputs)."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        layer.weight, layer.bias = _keep(layer.weight, 1, idxs), _keep(layer.bias, 0, idxs)
        layer.nf -= len(idxs)
        return cast(nn.Module, layer)

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        layer.weight = _keep(layer.weight, 0, idxs)
        if hasattr(layer, "nx"):
            layer.nx -= len(idxs)
        return cast(nn.Module, layer)

    def get_out_channels(self, layer: Any) -> int:
        return int(layer.weight.shape[1])

    def get_in_channels(self, layer: Any) -> int:
        return int(layer.weight.shape[0])


class _Join(torch.autograd.Function):
    """One node of autograd's graph for all operations inside a module."""

    @staticmethod
    def forward(ctx: Any, outputs: list[Any], *inputs: Tensor) -> tuple[Any, ...]:
        return tuple(outputs)


def _as_one_node(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    with torch.no_grad():
        outputs, structure = tree_flatten(type(module).forward(module, *args, **kwargs))
    inputs = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor) and each.requires_grad]
    joined = _Join.apply(outputs, *inputs)  # type: ignore[no-untyped-call]
    return tree_unflatten(joined, structure)


def _cloned(module: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    return cast(Tensor, type(module).forward(module, *args, **kwargs).clone())


def install(network: nn.Module, features: dict[nn.Module, int]) -> dict[type[nn.Module], Handler]:
    """Make modules of `network` visible to autograd, each as one node, and return the handlers by type of module.

    `features` holds the number of features of each TailDropout.
    """
    handlers: dict[type[nn.Module], Handler] = {}
    for module in network.modules():
        if has_hooks(module):
            # torch-pruning takes a module's output from a hook. The hook of `insert_dropout(after=...)` must run after it.
            cast(Any, module).register_forward_hook = partial(module.register_forward_hook, prepend=True)
        if isinstance(module, TailDropout):
            module.set_k(None)
            cast(Any, module).forward = partial(_cloned, module)  # autograd does not record the identity
            handlers[type(module)] = _TailDropoutHandler(features)
        elif isinstance(module, nn.GroupNorm):
            handlers[type(module)] = _GroupNormHandler()
        elif is_conv1d(module):
            handlers[type(module)] = _Conv1DHandler()
        elif isinstance(module, nn.RNNBase | nn.MultiheadAttention):
            # Inside are many operations, which torch-pruning would take for feature-wise.
            handlers[type(module)] = _RecurrentHandler() if isinstance(module, nn.RNNBase) else Handler()
            cast(Any, module).forward = partial(_as_one_node, module)
    return handlers
