"""A Linear at many widths of its input: from one to the next, the features between them are added."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# A sum starts anew after so many steps, so that rounding errors do not grow with the number of widths.
_STEPS = 256


class RunningSums:
    """What Linears give for the first features of one `input`, (*, n), at widths that are asked for a few at a time."""

    def __init__(self, input: Tensor) -> None:
        self.shape, self.dtype = input.shape[:-1], input.dtype
        # In half precision a sum would round at every width.
        columns = input.reshape(-1, input.shape[-1]).T
        self.columns = columns.to(torch.promote_types(input.dtype, torch.float32)).contiguous()
        self.reached: dict[nn.Linear, tuple[int, int, Tensor]] = {}  # width, steps since the start, sum

    def __call__(self, linear: nn.Linear, widths: Sequence[int]) -> Tensor:
        """The outputs, (widths, *, outputs), in the dtype of the input; going on from the width reached, if that is less."""
        weight = linear.weight.T.to(self.columns.dtype)
        bias: Tensor | None = linear.bias
        start = weight.new_zeros(weight.shape[1]) if bias is None else bias.to(weight.dtype)
        width, steps, total = self.reached.get(linear, (0, 0, start))
        sums = weight.new_empty(len(widths), self.columns.shape[1], weight.shape[1])
        for at, k in enumerate(widths):
            if k < width or steps == _STEPS:
                width, steps, total = 0, 0, start
            total = torch.addmm(total, self.columns[width:k].T, weight[width:k], out=sums[at])
            width, steps = k, steps + 1
        self.reached[linear] = width, steps, total
        return sums.to(self.dtype).reshape(len(widths), *self.shape, -1)
