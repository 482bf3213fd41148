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
from .kinds import CHANNEL_NORMS, INSTANCE_NORMS, is_conv1d


def _kept(tensor: Tensor, dim: int, gone: Sequence[int]) -> Tensor:
    kept = sorted({*range(tensor.shape[dim])} - {*gone})
    return tensor.detach().index_select(dim, torch.tensor(kept, device=tensor.device))


def _keep(tensor: Tensor, dim: int, gone: Sequence[int]) -> nn.Parameter:
    return nn.Parameter(_kept(tensor, dim, gone))


def _keep_channels(norm: nn.Module, gone: Sequence[int]) -> None:
    """Remove channels from the weight, the bias and the running statistics of a normalisation, as far as it has them."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = getattr(norm, name, None)
        if tensor is not None:
            setattr(norm, name, _keep(tensor, 0, gone) if isinstance(tensor, nn.Parameter) else _kept(tensor, 0, gone))


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


class _ChannelNormHandler(Handler):
    """BatchNorm and InstanceNorm: a channel has nothing to do with the others."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        _keep_channels(layer, idxs)
        layer.num_features -= len(idxs)
        return cast(nn.Module, layer)

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int:
        return int(layer.num_features)

    get_in_channels = get_out_channels


class _GroupNormHandler(Handler):
    """GroupNorm: whole groups can be removed."""

    def prune_out_channels(self, layer: nn.GroupNorm, idxs: Sequence[int]) -> nn.Module:
        """Remove the channels `idxs` in place, and return the layer. Raises PruningError if this cuts through a group."""
        size = layer.num_channels // layer.num_groups
        gone = {index // size for index in idxs}
        if len(gone) * size != len(idxs):
            raise PruningError(f"a GroupNorm has groups of {size} features, and k must be a multiple of {size}")
        _keep_channels(layer, idxs)
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
        elif isinstance(module, CHANNEL_NORMS):
            handlers[type(module)] = _ChannelNormHandler()
            if isinstance(module, INSTANCE_NORMS):
                cast(Any, module).forward = partial(_as_one_node, module)  # inside, samples and channels become one dim
        elif is_conv1d(module):
            handlers[type(module)] = _Conv1DHandler()
        elif isinstance(module, nn.RNNBase | nn.MultiheadAttention | nn.Bilinear):
            # Inside are many operations, which torch-pruning would take for feature-wise.
            handlers[type(module)] = _RecurrentHandler() if isinstance(module, nn.RNNBase) else Handler()
            cast(Any, module).forward = partial(_as_one_node, module)
    return handlers
