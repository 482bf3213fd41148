"""A ReLU that drops activations, and scales nothing."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor, nn

from ..dims import refuse_strided
from ..functional import check_float
from ..tracing import node


class StochasticReLU(nn.Module):
    r"""In training, a ReLU with probability p and 0 otherwise, drawn for each element; in evaluation, a ReLU.

    .. math:: y = b \cdot \max(0, x), \qquad b \sim \mathrm{Bernoulli}(p)

    p is the probability to *keep*. Nothing is rescaled: the mean of the output in training is p·max(0, x), which is neither the
    input nor what evaluation gives, so that the next layer's mean input is 1/p times as large in evaluation. It is an answer to
    an exercise in Zhang, Lipton, Li & Smola, "Dive into deep learning" (section on dropout: other noise on activations).

    Args:
        p: probability to keep an activation. Default: 0.5

    Raises:
        TypeError: if p is not a number; in training, if the input is not float.
        ValueError: if p is outside [0, 1].

    Shape:
        Input and output: :math:`(*)`, the same.

    Example:
        >>> StochasticReLU(0.8).eval()(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if isinstance(p, bool) or not isinstance(p, Real):
            raise TypeError(f"p={p!r} is a {type(p).__name__}; the probability to keep is a number between 0 and 1")
        if not 0 <= float(p) <= 1:
            raise ValueError(f"p={p} is no probability; give a number between 0 and 1, the share of activations to keep")
        self.p: float = float(p)

    def forward(self, input: Tensor) -> Tensor:
        """Drop activations, and rectify."""
        if not isinstance(input, Tensor):
            return node(self, input)
        if not self.training:
            return torch.relu(input)
        check_float(input)
        refuse_strided(input)
        # Selected, not multiplied: an inf that is dropped leaves no trace. In float32, since bfloat16 has few values.
        kept = torch.rand_like(input, dtype=torch.float32) < self.p
        return torch.relu(torch.where(kept, input, 0))

    def extra_repr(self) -> str:
        """The arguments that construct this layer."""
        return f"p={self.p}"
