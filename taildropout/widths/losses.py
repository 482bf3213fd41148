"""Losses at several widths: checked, computed copy by copy where the model computes its own, and averaged over batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_LOSSES = {
    functional.binary_cross_entropy,
    functional.binary_cross_entropy_with_logits,
    functional.cross_entropy,
    functional.huber_loss,
    functional.kl_div,
    functional.l1_loss,
    functional.mse_loss,
    functional.nll_loss,
    functional.smooth_l1_loss,
}


class LossPerCopy(TorchFunctionMode):
    """Compute the losses inside a model for each copy of its samples: a row of numbers in place of one number.

    `copies` is called for how many copies lie along dim 0 at the moment.
    """

    def __init__(self, copies: Callable[[], int]) -> None:
        super().__init__()
        self.copies = copies

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `function`, or call it once for each copy if it is a loss that reduces to one number."""
        kwargs = kwargs or {}
        if function in _LOSSES and kwargs.get("reduction", "mean") != "none" and (copies := self.copies()) > 1:
            named = dict(zip(("input", "target"), args, strict=False)) | kwargs
            output, target, rest = named.pop("input"), named.pop("target"), args[2:]
            outputs = output.chunk(copies)
            targets = [target] * copies if len(target) * copies == len(output) else target.chunk(copies)
            return torch.stack([function(*pair, *rest, **named) for pair in zip(outputs, targets, strict=True)])
        return function(*args, **kwargs)


class FewClasses(TorchFunctionMode):
    """Compute the same cross-entropy, with the classes in a dim that is not the last.

    A softmax over fewer than 16 numbers in a row takes torch's CPU code up to eight times as long, longer than all the rest.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `function`; transpose the arguments of a cross-entropy first."""
        kwargs = kwargs or {}
        if function is functional.cross_entropy and len(args) == 2:
            output, target = args
            if output.dim() == 2 and 2 < output.shape[1] < 16 and output.shape[:1] == target.shape[:1]:
                few: Tensor = function(output.T[None], (target.T if target.dim() == 2 else target)[None], **kwargs)
                return few.squeeze(0)
        return function(*args, **kwargs)


def check_loss(value: Any) -> Tensor:
    """Return a loss as a tensor, 0-d for a mean or 1-d with one element per sample."""
    if isinstance(value, Real):
        return torch.tensor(float(value), dtype=torch.float64)
    if not isinstance(value, Tensor) or value.is_complex():
        what = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise TypeError(f"the loss gave {what}; it should give a number, or a tensor of one number per sample")
    losses: Tensor = value if value.is_floating_point() else value.float()  # right or wrong, say
    return losses if losses.dim() < 2 else losses.flatten(1).mean(1, dtype=torch.promote_types(losses.dtype, torch.float32))


def stack_losses(values: Sequence[Tensor], labels: Sequence[Any], batch: int) -> Tensor:
    """Return the losses of a batch: (labels,) if they are means, else (labels, samples). A label says where: "width 3"."""
    if len({value.shape for value in values}) > 1 or values[0].shape == (0,):
        shapes = ", ".join(str(tuple(shape)) for shape in sorted({value.shape for value in values}))
        raise ValueError(f"the loss gave {shapes} in batch {batch}; it should give a mean, or one number per sample, always")
    together = torch.stack(list(values)).to("cpu").double()
    if together.isnan().any():
        at = int(together.isnan().reshape(len(values), -1).any(1).nonzero()[0])
        raise ValueError(f"the loss is NaN at {labels[at]} in batch {batch}; look for NaN or inf in the batch and in the model")
    return together


class RunningMean:
    """Mean and standard error of losses that come batch by batch, by the update of Chan, Golub & LeVeque (1979)."""

    def __init__(self, keep: bool = False) -> None:
        self.weight = 0
        self.units = 0  # independent ones: samples, or batches if only their means are known
        self.sum: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0  # of deviations from the mean
        self.dims = 0
        self.keep, self.kept = keep, list[Tensor]()

    def add(self, losses: Tensor, weight: int) -> None:
        """Add a batch: (widths, samples), or means of the given weight (widths,)."""
        if self.units and losses.dim() != self.dims:
            raise ValueError("the loss gave means in some batches and one number per sample in others; let it give one kind")
        if self.keep and losses.dim() == 1:
            raise ValueError("per_sample=True needs a loss that gives one number per sample: with reduction='none', say")
        self.dims = losses.dim()
        units = 1
        mean, squares = losses, torch.zeros_like(losses)
        if losses.dim() == 2:
            weight = units = losses.shape[1]
            mean = losses.mean(1)
            squares = (losses - mean[:, None]).square().sum(1)
        if self.units:
            squares += (mean - self.sum / self.weight).square() * (self.weight * weight / (self.weight + weight))
        self.sum = self.sum + mean * weight
        self.squares = self.squares + squares
        self.weight += weight
        self.units += units
        if self.keep:
            self.kept.append(losses)

    def result(self) -> tuple[Tensor, Tensor]:
        """Return the mean and its standard error, which is NaN if there is only one unit."""
        variance = torch.as_tensor(self.squares) / (self.units - 1 or torch.nan)
        return torch.as_tensor(self.sum) / self.weight, (variance / self.weight).sqrt()

    def all(self) -> Tensor | None:
        """Return every loss, (widths, samples), if they were kept."""
        return torch.cat(self.kept, 1) if self.keep else None
