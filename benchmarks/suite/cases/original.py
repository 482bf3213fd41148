"""Tail dropout in the formulation of the original package: thresholds, a uniform, a multiplication. Written anew, to be timed.

Feature j is dropped with probability 1 − e^(−λj). A sample draws one uniform number, in the input's dtype as there, and keeps
the features whose probability lies below it; the rest is multiplied by 0.
"""

import math

import torch
from torch import nn


class ThresholdDropout(nn.Module):
    """For inputs with as many dims and features as `shape`, of one dtype: its thresholds are made once."""

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
        """What stays of `x`, in training; else `x`."""
        if not self.training:
            return x
        shape = [size if dim in self.batch_dims else 1 for dim, size in enumerate(x.shape)]
        return x * (self.thresholds < torch.rand(shape, dtype=x.dtype, device=x.device))


def rate(p: float, n: int) -> float:
    """λ at which the mean share of n features that stay, (1/n) Σ e^(−λj), is 1 − p; by bisection."""
    low, high = 0.0, 1.0
    while kept(high, n) > 1 - p:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle, n) > 1 - p else (low, middle)
    return high


def kept(rate: float, n: int) -> float:
    """The geometric series (1/n) Σ e^(−rate·j), j = 1 … n."""
    return -math.expm1(-rate * n) / math.expm1(rate) / n
