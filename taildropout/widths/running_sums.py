"""Compute a Linear at ascending widths of its input: each step adds the features between two widths to the last output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Every _STEPS steps, one product over the features of all these steps replaces their sum. So the rounding errors of
# n / _STEPS + _STEPS additions add up, and not those of n.
_STEPS = 32


@dataclass
class _Sum:
    """The output of a Linear at `width` (`total`), and `steps` steps earlier at `base_width` (`base`)."""

    width: int
    total: Tensor
    base_width: int
    base: Tensor
    steps: int = 0


class RunningSums:
    """Compute the outputs of Linears for the first k features of one `input`, (*, n), at ascending k, a few widths per call."""

    def __init__(self, input: Tensor) -> None:
        self.shape, self.dtype = input.shape[:-1], input.dtype
        # In half precision a sum would round at every width.
        columns = input.reshape(-1, input.shape[-1]).T
        self.columns = columns.to(torch.promote_types(input.dtype, torch.float32)).contiguous()
        self.reached: dict[nn.Linear, _Sum] = {}

    def __call__(self, linear: nn.Linear, widths: Sequence[int]) -> Tensor:
        """Return the outputs of `linear` at these widths, (widths, *, outputs), in the dtype of the input."""
        weight = linear.weight.T.to(self.columns.dtype)
        bias: Tensor | None = linear.bias
        nothing = weight.new_zeros(weight.shape[1]) if bias is None else bias.to(weight.dtype)
        sums = weight.new_empty(len(widths), self.columns.shape[1], weight.shape[1])
        reached = self.reached.get(linear)
        if reached is None or reached.width > widths[0]:  # the first call, or a second one in a forward
            reached = self.reached[linear] = _Sum(0, nothing, 0, nothing)
        for k, output in zip(widths, sums, strict=True):
            again = reached.steps == _STEPS
            start, total = (reached.base_width, reached.base) if again else (reached.width, reached.total)
            torch.addmm(total, self.columns[start:k].T, weight[start:k], out=output)
            reached.width, reached.total, reached.steps = k, output, reached.steps + 1
            if again:
                reached.base_width, reached.base, reached.steps = k, output, 0
        return sums.to(self.dtype).reshape(len(widths), *self.shape, -1)
