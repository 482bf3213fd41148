"""A ReLU that drops activations without rescaling."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor, nn

from ..dims import check_float, check_layout
from ..tracing import node


class StochasticReLU(nn.Module):
    r"""A ReLU that in training keeps each activation with probability p and zeroes the others.

    .. math:: y = b \cdot \max(0, x), \qquad b \sim \mathrm{Bernoulli}(p)

    p is the probability to *keep*. The output is not rescaled: its mean in training is p·max(0, x), so the mean input of the
    next layer is 1/p times as large in evaluation. The layer answers an exercise in Zhang, Lipton, Li & Smola, "Dive into deep
    learning" (section on dropout: other noise on activations).

    Args:
        p: probability to keep an activation. Default: 0.5

    Raises:
        TypeError: if `p` is not a number; in training, if the input is not float.
        ValueError: if `p` is outside [0, 1].

    Shape:
        Input and output: :math:`(*)`, the same.

    Examples:
        >>> StochasticReLU(0.8).eval()(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if isinstance(p, bool) or not isinstance(p, Real):
            raise TypeError(f"p={p!r} has type {type(p).__name__}; the probability to keep is a number between 0 and 1")
        if not 0 <= float(p) <= 1:
            raise ValueError(f"p={p} is no probability; give a number between 0 and 1, the share of activations to keep")
        self.p: float = float(p)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the ReLU, and in training drop activations."""
        if not isinstance(input, Tensor):
            return node(self, input)
        if not self.training:
            return torch.relu(input)
        check_float(input)
        check_layout(input)
        # `where` and not a product, so that a dropped inf leaves no trace. In float32, because bfloat16 has few values.
        kept = torch.rand_like(input, dtype=torch.float32) < self.p
        return torch.relu(torch.where(kept, input, 0))

    def extra_repr(self) -> str:
        """Return the arguments that construct this layer."""
        return f"p={self.p}"
