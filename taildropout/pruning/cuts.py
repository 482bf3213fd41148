"""Cutting a network: the features that a layer's tail reaches, what they leave behind, and the layer itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layer import TailDropout
from ..names import Model
from .graph import Cut, PruningError

Run = Callable[[nn.Module], object]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm),
)


class SlicedTailDropout(TailDropout):
    """A TailDropout of the first k features of its input, which has more."""

    features: int

    def forward(self, input: Tensor) -> Tensor:
        first = input.narrow(self.dropout_dim, 0, self.features)
        return super().forward(first)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, features={self.features}"


class Slice(nn.Module):
    """The first features of its input."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.features, self.dim = features, dim

    def forward(self, input: Tensor) -> Tensor:
        return input.narrow(self.dim, 0, self.features)

    def extra_repr(self) -> str:
        return f"features={self.features}, dim={self.dim}"


def _feature_dim(module: nn.Module) -> int | None:
    """The dim of features in what a module reads."""
    if isinstance(module, nn.Linear | nn.LayerNorm | nn.RNNBase):
        return -1
    if isinstance(module, _CONVOLUTIONS):
        return -1 - len(module.kernel_size)
    if isinstance(module, _NORMS):
        return 1
    return None


def _read(network: nn.Module, layer: str, k: int, cuts: Sequence[Cut], run: Run, tail: float) -> dict[str, Tensor]:
    """What the modules to be cut read, as (positions, features), when the layer's tail holds `tail`."""
    read: dict[str, Tensor] = {}

    def fill(module: TailDropout, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        first, rest = output.tensor_split([k], module.dropout_dim)
        return torch.cat([first, torch.full_like(rest, tail)], module.dropout_dim)

    def record(name: str, dim: int, module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor) and args[0].dim() >= abs(dim):
            features = args[0].movedim(dim, -1)
            features = features.reshape(-1, features.shape[-1]).clone()  # the network may write into it later
            read.setdefault(name, features)

    handles = [network.get_submodule(layer).register_forward_hook(fill)]
    modules = dict(network.named_modules())
    for name in {cut.name for cut in cuts if cut.reads} & {*modules}:
        dim = _feature_dim(modules[name])
        if dim is not None:
            handles.append(modules[name].register_forward_pre_hook(partial(record, name, dim)))
    try:
        run(network)
    finally:
        for handle in handles:
            handle.remove()
    return read


def measured(network: nn.Module, layer: str, k: int, cuts: Sequence[Cut], run: Run) -> list[Cut]:
    """The cuts with the features that the layer's tail really reaches, seen by filling it with NaN.

    The graph knows what reads the tail; in which order it is laid out there (flattened, permuted) only a run shows.

    Raises:
        PruningError: if the tail reaches all that a module reads.
    """
    read = _read(network, layer, k, cuts, run, math.nan)
    found = []
    for cut in cuts:
        reached = read[cut.name].isnan().any(0) if cut.reads and cut.name in read else torch.zeros(1, dtype=torch.bool)
        if reached.all():
            raise PruningError(f"all that {_described(network, cut)} reads depends on the features to be dropped")
        found.append(replace(cut, features=tuple(reached.nonzero().flatten().tolist())) if reached.any() else cut)
    return found


def constants(network: nn.Module, layer: str, k: int, cuts: Sequence[Cut], run: Run) -> dict[str, Tensor]:
    """What dropped features add to the output of the modules that read them: f(0) of an activation is not always 0.

    Raises:
        PruningError: if that is no constant.
    """
    read = _read(network, layer, k, cuts, run, 0.0)
    added = {}
    for cut in cuts:
        module: Any = network.get_submodule(cut.name) if cut.reads and cut.name in read else None
        if not isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
            continue
        features = list(cut.features)
        constant = read[cut.name][0, features]
        which = _described(network, cut)
        slack = torch.finfo(constant.dtype).eps ** 0.5  # vectorised and scalar code may differ in the last digit
        if not torch.allclose(read[cut.name][:, features], constant, rtol=slack, atol=0, equal_nan=True):
            raise PruningError(f"where the dropped features were, {which} reads what did not pass the layer")
        if not isinstance(module, nn.Linear):
            if 1 < module.groups < module.in_channels:
                raise PruningError(f"{which} has {module.groups} groups of features, each with outputs of its own")
            if module.groups > 1:
                continue  # channel by channel: what follows reads the constant
            padded = module.padding_mode == "zeros" and (module.padding == "same" or any(module.padding))
            if constant.any() and (module.transposed or padded):
                raise PruningError(
                    f"{which} reads dropped features as a constant, {float(constant.abs().max()):.3g}, but other things at "
                    "its borders (an activation with f(0) = 0 leaves nothing of them)"
                )
        if not constant.any():
            continue
        weight = module.weight[:, features]
        added[cut.name] = weight.reshape(*weight.shape[:2], -1).sum(-1) @ constant
    return added


def _described(network: nn.Module, cut: Cut) -> str:
    return f"{cut.name!r} ({type(network.get_submodule(cut.name)).__name__})"


def cut_down(
    network: Model, layer: str, k: int, cuts: Sequence[Cut], added: Mapping[str, Tensor], sliced: bool, remove: bool
) -> Model:
    """Cut a network, in place; what dropped features added goes to the biases."""
    for cut in cuts:
        cut.apply(network)
    for name, constant in added.items():
        consumer: Any = network.get_submodule(name)
        constant = constant.to(consumer.weight)
        if consumer.bias is None:
            consumer.bias = nn.Parameter(constant, requires_grad=consumer.weight.requires_grad)
        else:
            consumer.bias += constant
    old: Any = network.get_submodule(layer)
    for module in network.modules():
        if isinstance(module, TailDropout):
            module.fixed_k = module.fixed_k.held(None)  # the `at_k` that may hold the model cannot release its copy
    old.set_k(None)
    new: nn.Module = old
    if sliced and not remove:
        new = SlicedTailDropout(old.p, old.batch_dim, old.dropout_dim, inplace=old.inplace)
        new.features = k
    elif remove:
        new = Slice(k, old.dropout_dim) if sliced else nn.Identity()
    new.training = old.training
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, name, new)
    return network
