"""Cutting a network: the features that a layer's tail reaches, what they leave behind, and the layer itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .dependencies import Cut
from .layer import TailDropout

Run = Callable[[nn.Module], object]


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
    if isinstance(module, nn.modules.conv._ConvNd):
        return -1 - len(module.kernel_size)
    if isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm):
        return 1
    return None


def _read(network: nn.Module, layer: str, k: int, cuts: Sequence[Cut], run: Run, tail: float) -> dict[str, Tensor]:
    """What the modules to be cut read, as (positions, features), when the layer's tail holds `tail`."""
    read: dict[str, Tensor] = {}

    def fill(module: TailDropout, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        first, rest = output.tensor_split([k], module.dropout_dim)
        return torch.cat([first, torch.full_like(rest, tail)], module.dropout_dim)

    def record(name: str, dim: int, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor) and args[0].dim() >= abs(dim):
            features = args[0].movedim(dim, -1)
            features = features.reshape(-1, features.shape[-1])
            if name not in read or (features.isnan().any() and not read[name].isnan().any()):
                read[name] = features

    handles = [network.get_submodule(layer).register_forward_hook(fill)]
    modules = dict(network.named_modules())
    for name in {cut.name for cut in cuts if cut.reads} & {*modules}:
        dim = _feature_dim(modules[name])
        if dim is not None:
            hook = lambda module, args, name=name, dim=dim: record(name, dim, args)  # noqa: E731
            handles.append(modules[name].register_forward_pre_hook(hook))
    try:
        run(network)
    finally:
        for handle in handles:
            handle.remove()
    return read


def measured(network: nn.Module, layer: str, k: int, cuts: Sequence[Cut], run: Run) -> list[Cut]:
    """The cuts with the features that the layer's tail really reaches, seen by filling it with NaN.

    The graph knows what reads the tail; in which order it is laid out there (flattened, permuted) only a run shows.
    """
    read = _read(network, layer, k, cuts, run, float("nan"))
    measured = []
    for cut in cuts:
        reached = read[cut.name].isnan().any(0).nonzero().flatten().tolist() if cut.reads and cut.name in read else []
        measured.append(replace(cut, features=tuple(reached)) if reached else cut)
    return measured


def constants(network: nn.Module, layer: str, k: int, cuts: Sequence[Cut], run: Run) -> dict[str, Tensor]:
    """What dropped features add to the output of the modules that read them: f(0) of an activation is not always 0."""
    read = _read(network, layer, k, cuts, run, 0.0)
    added = {}
    for cut in cuts:
        module = network.get_submodule(cut.name) if cut.reads and cut.name in read else None
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and getattr(module, "groups", 1) == 1:
            constant = read[cut.name][0, list(cut.features)]
            if constant.any():
                weight = module.weight[:, list(cut.features)]
                added[cut.name] = weight.reshape(*weight.shape[:2], -1).sum(-1) @ constant
    return added


def _replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)


def cut_down(
    network: nn.Module, layer: str, k: int, cuts: Sequence[Cut], added: Mapping[str, Tensor], sliced: bool, remove: bool
) -> nn.Module:
    """Cut a network, in place; what dropped features added goes to the biases."""
    for cut in cuts:
        cut.apply(network)
    for name, constant in added.items():
        module: Any = network.get_submodule(name)
        constant = constant.to(module.weight)
        if module.bias is None:
            module.bias = nn.Parameter(constant, requires_grad=module.weight.requires_grad)
        else:
            module.bias += constant
    old: Any = network.get_submodule(layer)
    old.set_k(None)
    new: nn.Module = old
    if sliced and not remove:
        new = SlicedTailDropout(old.p, old.batch_dim, old.dropout_dim, inplace=old.inplace)
        new.features = k
    elif remove:
        new = Slice(k, old.dropout_dim) if sliced else nn.Identity()
    new.training = old.training
    _replace(network, old, new)
    return network
