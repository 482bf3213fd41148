"""Modules that replace a TailDropout whose input keeps its size: they select the first features of the input."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..layer import TailDropout
from .metadata import write_features


class SlicedTailDropout(TailDropout):
    """Select the first `features` features of an input that has more, and apply TailDropout to them."""

    features: int

    def forward(self, input: Tensor) -> Tensor:
        first = input.narrow(self.dropout_dim, 0, self.features)
        return super().forward(first)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        write_features(destination, prefix, self.features)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, features={self.features}"


class Slice(nn.Module):
    """Select the first `features` features of the input along `dim`."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.features, self.dim = features, dim

    def forward(self, input: Tensor) -> Tensor:
        return input.narrow(self.dim, 0, self.features)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        write_features(destination, prefix, self.features)

    def extra_repr(self) -> str:
        return f"features={self.features}, dim={self.dim}"


def sliced(layer: TailDropout, features: int) -> SlicedTailDropout:
    """Return a layer that selects the first `features` features of its input and applies TailDropout like `layer` to them."""
    new = SlicedTailDropout(layer.p, layer.batch_dim, layer.dropout_dim, inplace=layer.inplace)
    new.features = features
    new.training = layer.training
    return new
