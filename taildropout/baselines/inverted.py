"""Inverted dropout: dropout that scales up the kept elements in training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..dims import check_float, check_layout
from ..distribution import check_p
from ..tracing import node


class InvertedDropout(nn.Module):
    r"""`nn.Dropout` in plain tensor code: zero each element with probability p, and scale up the others.

    .. math:: y = x \cdot 1[u \ge p] / (1 - p), \qquad u \sim \mathrm{Uniform}[0, 1)

    The mean of the output is the input; in evaluation the output is the input. From Srivastava, Hinton, Krizhevsky,
    Sutskever & Salakhutdinov 2014, "Dropout: a simple way to prevent neural networks from overfitting" (scaling in training:
    section 10).

    Args:
        p: drop probability. Default: 0.5

    Raises:
        TypeError: if `p` is not a number; in training, if the input is not float.
        ValueError: if `p` is outside [0, 1].

    Shape:
        Input and output: :math:`(*)`, the same.

    Examples:
        >>> InvertedDropout(0.5)(torch.ones(3, 8)).unique()
        tensor([0., 2.])
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_p(p)

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements, and scale up the others."""
        if not isinstance(input, Tensor):
            return node(self, input)
        if not self.training:
            return input
        check_float(input)
        check_layout(input)
        # In float32 for every input dtype, because a uniform in bfloat16 has only 256 values.
        kept = torch.rand_like(input, dtype=torch.float32) >= self.p
        scale = 1 / (1 - self.p) if self.p < 1 else 0.0
        return input * scale * kept

    def extra_repr(self) -> str:
        """Return the arguments that construct this layer."""
        return f"p={self.p}"
