"""DropConnect: dropout on the weights of a linear layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..distribution import check_n, check_p


class DropConnectLinear(nn.Linear):
    r"""A linear layer that in training drops weights and scales up the others.

    .. math:: y = x\,(M \odot W)^\top / (1 - p) + b, \qquad M_{ij} \sim \mathrm{Bernoulli}(1 - p)

    Each call draws one M for the whole batch; the bias is not dropped. In evaluation, and on average in training, the layer
    equals an `nn.Linear` with the same state_dict. From Wan, Zeiler, Zhang, LeCun & Fergus 2013, "Regularization of neural
    networks using DropConnect", who draw one M per sample and in evaluation sample from a normal approximation.

    Args:
        in_features, out_features, bias, device, dtype: as in `nn.Linear`.
        p: drop probability of a weight. Default: 0.5

    Raises:
        TypeError: if `p` is not a number, or a number of features is not an int.
        ValueError: if `p` is outside [0, 1], or a number of features is below 1.

    Shape:
        Input: :math:`(*, \text{in\_features})`. Output: :math:`(*, \text{out\_features})`.

    Examples:
        >>> DropConnectLinear(784, 256, p=0.5)(torch.randn(20, 784)).shape
        torch.Size([20, 256])
    """

    def __init__(self, in_features: int, out_features: int, p: float = 0.5, bias: bool = True, **factory: Any) -> None:
        p = check_p(p)
        in_features, out_features = check_n(in_features, "in_features"), check_n(out_features, "out_features")
        super().__init__(in_features, out_features, bias, **factory)
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        """Apply the linear map with some of its weights dropped."""
        return F.linear(input, F.dropout(self.weight, self.p, self.training), self.bias)

    def extra_repr(self) -> str:
        """Return the arguments that construct this layer."""
        return f"{super().extra_repr()}, p={self.p}"
