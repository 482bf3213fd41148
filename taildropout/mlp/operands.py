"""The tensors that go into a feed-forward block: its input, and the weights and biases of its Linears."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

_CAST_BY_AUTOCAST = (torch.float32, torch.float16, torch.bfloat16)
COMPUTED = (*_CAST_BY_AUTOCAST, torch.float64)  # the dtypes of ragged products: not complex, integer or float of 8 bits


class Operands(NamedTuple):
    """Input `x` of shape (…, in), weights `w1` (n, in) and `w2` (out, n), biases `b1` (n) and `b2` (out) or None.

    A gated block has a second inner Linear, with weight `up` (n, in) and bias `up_bias` (n) or None.
    """

    x: Tensor
    w1: Tensor
    b1: Tensor | None
    w2: Tensor
    b2: Tensor | None
    up: Tensor | None = None
    up_bias: Tensor | None = None

    @property
    def ends(self) -> int:
        """Number of input features, twice if the block is gated, plus number of output features."""
        return self.w1.shape[1] * (1 if self.up is None else 2) + self.w2.shape[0]

    def tensors(self) -> list[Tensor]:
        """Return the operands that are not None."""
        return [tensor for tensor in self if tensor is not None]

    def in_rows(self) -> Operands:
        """Return the operands with `x` reshaped to (rows, in)."""
        # Written out, because dynamo of torch 2.8 traces no slice of a named tuple.
        rows = self.x.reshape(-1, self.x.shape[-1])
        return Operands(rows, self.w1, self.b1, self.w2, self.b2, self.up, self.up_bias)

    def plain(self) -> bool:
        """Return True if all operands are on one device and are plain tensors or parameters: no DTensor, no other subclass."""
        return all(type(each) in (Tensor, nn.Parameter) and each.device == self.x.device for each in self.tensors())

    def fit(self) -> bool:
        """Return True if the shapes fit each other and no operand is empty."""
        return (
            self.x.numel() > 0
            and self.w1.numel() > 0
            and self.x.shape[-1] == self.w1.shape[1]
            and self.w1.shape[0] == self.w2.shape[1]
            and (self.up is None or self.up.shape == self.w1.shape)
        )

    def in_one_dtype(self, autocast: torch.dtype | None) -> Operands | None:
        """Return the operands in one of the `COMPUTED` dtypes, cast to `autocast` if it casts all; None if impossible."""
        if autocast is not None and all(each.dtype in _CAST_BY_AUTOCAST for each in self.tensors()):
            return Operands(*(None if each is None else each.to(autocast) for each in self))  # type: ignore[arg-type]
        same = all(each.dtype == self.x.dtype for each in self.tensors())
        return self if same and self.x.dtype in COMPUTED else None
