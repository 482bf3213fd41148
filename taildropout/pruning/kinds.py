"""Types of modules whose features can be cut, and where their features are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
CHANNEL_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, *INSTANCE_NORMS)


def is_conv1d(module: nn.Module) -> TypeGuard[Any]:
    """Return True for the `Conv1D` of Hugging Face transformers: a Linear whose weight is (inputs, outputs)."""
    weight = getattr(module, "weight", None)
    named = any(kind.__name__ == "Conv1D" for kind in type(module).__mro__)
    return named and isinstance(weight, Tensor) and weight.dim() == 2 and getattr(module, "nf", None) == weight.shape[1]


def is_product(module: nn.Module) -> bool:
    """Return True for modules that multiply features by a weight and add a bias."""
    return isinstance(module, (nn.Linear, *CONVOLUTIONS)) or is_conv1d(module)


def feature_dim(module: nn.Module) -> int | None:
    """Return the dim of features in the input of a module, or None if the type is not known."""
    if isinstance(module, nn.Linear | nn.LayerNorm | nn.RNNBase) or is_conv1d(module):
        return -1
    if isinstance(module, CONVOLUTIONS):
        return -1 - len(module.kernel_size)
    if isinstance(module, (*CHANNEL_NORMS, nn.GroupNorm)):
        return 1
    return None


def input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the input that a module of a known type is called with, by position or by keyword; None if there is none."""
    return args[0] if args else kwargs.get("input", kwargs.get("x"))  # x is the name in `Conv1D`
