"""Whether two networks compute the same: for the weights and inputs there are, and for others, as equality may be luck."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import tree_leaves, tree_map_only
from .graph import PruningError

Inputs = tuple[Any, ...] | dict[str, Any]

_SEED = 0  # the draws below are the same every time, and take nothing from the global generator


def run(network: nn.Module, inputs: Inputs) -> list[Any]:
    """The outputs in a list; the network gets inputs of its own, which it may write into."""
    inputs = tree_map_only(Tensor, torch.clone, inputs)
    return tree_leaves(network(**inputs) if isinstance(inputs, dict) else network(*inputs))


def evaluating(model: nn.Module) -> nn.Module:
    """A copy in evaluation, to try things out; not by `eval()`, which a model may have overridden and which forgets k."""
    network = copy.deepcopy(model)
    for module in network.modules():
        module.training = False
    return network


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, dtype=torch.float32, generator=generator).to(like)


def other_inputs(inputs: Inputs) -> Inputs:
    """Other inputs of the same kind: floats drawn between the least and the largest that were there."""
    generator = torch.Generator().manual_seed(_SEED)

    def draw(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or not tensor.numel() or not tensor.isfinite().all():
            return tensor
        least, largest = tensor.aminmax()
        return least + _uniform(tensor, generator) * torch.where(least == largest, 1, largest - least)

    drawn: Inputs = tree_map_only(Tensor, draw, inputs)
    return drawn


def other_weights(network: nn.Module, trial: int) -> nn.Module:
    """A network of the same form whose weights and running statistics are 0 or equal nowhere.

    They stay within the sizes that were there, so that what must be positive, such as a variance, does.
    """
    generator = torch.Generator().manual_seed(_SEED + trial)
    other = copy.deepcopy(network)
    for name, tensor in [*other.named_parameters(), *other.named_buffers()]:
        learned = isinstance(tensor, nn.Parameter) or name.rpartition(".")[2] in ("running_mean", "running_var")
        if learned and tensor.is_floating_point() and tensor.numel():
            size = tensor.square().mean().sqrt()
            noise = _uniform(tensor, generator) * torch.where(size == 0, 1, size)
            tensor.copy_(tensor * (_uniform(tensor, generator) + 0.5) + noise / 5)
    return other


def rounding(network: nn.Module, inputs: Inputs) -> float:
    """The relative rounding of the coarsest dtype there is."""
    every = [*network.parameters(), *network.buffers(), *tree_leaves(inputs)]
    floats = [each for each in every if isinstance(each, Tensor) and each.is_floating_point()]
    return max((torch.finfo(each.dtype).eps for each in floats), default=0.0)


def in_float64(network: nn.Module, inputs: Inputs) -> tuple[nn.Module, Inputs]:
    """The network and its inputs where rounding hides nothing; as they are if the network insists on its own precision.

    Raises:
        PruningError: if that is less than float32.
    """

    def double(tensor: Tensor) -> Tensor:
        return tensor.double() if tensor.is_floating_point() else tensor

    try:
        exact = copy.deepcopy(network).double(), tree_map_only(Tensor, double, inputs)
        run(*exact)
    except Exception as error:  # of whatever type: that of a dtype which does not fit is the network's choice
        if rounding(network, inputs) > torch.finfo(torch.float32).eps:
            raise PruningError(
                "the network does not run in float64, and its own precision is too low to tell a wrong cut from rounding; "
                "prune model.float(), or let the network follow the dtype of its weights"
            ) from error
        return network, inputs
    return exact


def difference(theirs: Sequence[Any], ours: Sequence[Any], eps: float) -> str | None:
    """How two lists of outputs differ by more than rounding; None if they do not.

    Rounding is what stays within half of the digits, √eps relative to the largest element of a tensor. The sum over m terms in
    another order is off by m·eps at most, which in float64 leaves room for networks that amplify it a thousandfold; and what a
    feature contributes, at weights drawn anew, is larger by orders of magnitude.
    """
    if len(theirs) != len(ours):
        return f"{len(theirs)} outputs became {len(ours)}"
    for a, b in zip(theirs, ours, strict=True):
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            if isinstance(a, float | int | str | None) and a != b:
                return f"an output {a!r} became {b!r}"
            continue
        if a.shape != b.shape:
            return f"an output of shape {tuple(a.shape)} became {tuple(b.shape)}"
        if not (a.is_floating_point() or a.is_complex()):
            if not torch.equal(a, b):
                return f"an output of dtype {a.dtype} changed"
            continue
        finite = a[a.isfinite()].abs()
        size = float(finite.max()) if finite.numel() else 0.0
        if not torch.allclose(a, b, rtol=0, atol=size * max(eps, torch.finfo(a.dtype).eps) ** 0.5, equal_nan=True):
            return f"an output of size {size:.3g} changed by {float((a - b).abs().max()):.3g}"
    return None
