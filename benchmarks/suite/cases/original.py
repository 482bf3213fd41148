"""Tail dropout as the original package formulates it: thresholds, a uniform, a multiplication. Rewritten here for timing.

Feature j is dropped with probability 1 − e^(−λj). A sample draws one uniform number, in the input's dtype, and keeps the
features whose probability is below it; the other features are multiplied by 0.
"""

import math

import torch
from torch import nn


class ThresholdDropout(nn.Module):
    """A layer for inputs of one dtype with as many dims and features as `shape`: the thresholds are computed once."""

    thresholds: torch.Tensor

    def __init__(
        self, p: float, batch_dim: int | tuple[int, ...], dropout_dim: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.batch_dims = (batch_dim,) if isinstance(batch_dim, int) else batch_dim
        n = shape[dropout_dim]
        chance = 1 - torch.exp(-rate(p, n) * torch.arange(1, n + 1, dtype=torch.float64))
        along = [1] * len(shape)
        along[dropout_dim] = n
        self.register_buffer("thresholds", chance.to(dtype).reshape(along), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x`, in training with its tail set to 0."""
        if not self.training:
            return x
        shape = [size if dim in self.batch_dims else 1 for dim, size in enumerate(x.shape)]
        return x * (self.thresholds < torch.rand(shape, dtype=x.dtype, device=x.device))


def rate(p: float, n: int) -> float:
    """Return the λ at which the mean share of features kept, (1/n) Σ e^(−λj), is 1 − p, by bisection."""
    low, high = 0.0, 1.0
    while kept(high, n) > 1 - p:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle, n) > 1 - p else (low, middle)
    return high


def kept(rate: float, n: int) -> float:
    """Return (1/n) Σ e^(−rate·j) for j = 1 … n, a geometric series."""
    return -math.expm1(-rate * n) / math.expm1(rate) / n
