"""Compute a model's own loss for each copy of its samples, check the values of losses, and average losses over batches."""

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
    """Compute the losses inside a model for each copy of its samples: a tensor of one loss per copy in place of one number.

    `copies` returns the number of copies that lie along dim 0 when a loss is called.
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
    """Compute cross-entropy faster for fewer than 16 classes, by moving the classes out of the last dim.

    On a CPU, torch's softmax over fewer than 16 numbers in the last dim takes up to eight times as long.
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
    """Return a loss as a tensor, 0-d for a mean or 1-d with one element per sample, averaged over any further dims.

    Raises:
        TypeError: if the loss is neither a real number nor a tensor of real numbers.
    """
    if isinstance(value, Real):
        return torch.tensor(float(value), dtype=torch.float64, device="cpu")
    if not isinstance(value, Tensor) or value.is_complex():
        what = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"an object of type {type(value).__name__}"
        raise TypeError(f"the loss gave {what}; it should give a number, or a tensor of one number per sample")
    losses: Tensor = value if value.is_floating_point() else value.float()  # bools or ints, of a metric
    return losses if losses.dim() < 2 else losses.flatten(1).mean(1, dtype=torch.promote_types(losses.dtype, torch.float32))


def stack_losses(values: Sequence[Tensor], labels: Sequence[Any], batch: int) -> Tensor:
    """Stack the losses of a batch at several widths, in float64 on the CPU: (widths,) for means, else (widths, samples).

    Args:
        values: the loss at each width, from `check_loss`.
        labels: a description of each width, such as "width 3", for messages.
        batch: the number of the batch, for messages.

    Raises:
        ValueError: if shapes differ, there is no sample, or a loss is NaN.
    """
    if values[0].shape == (0,):
        raise ValueError(f"the loss gave no number in batch {batch}; leave batches without samples out")
    if len({value.shape for value in values}) > 1:
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
        self.weight = 0.0
        self.units = 0  # independent values: samples, or batches if only their means are known
        self.sum = torch.zeros((), dtype=torch.float64, device="cpu")
        self.squares = torch.zeros_like(self.sum)  # weighted sum of squared deviations from the mean
        self.dims = 0
        self.keep, self.kept = keep, list[Tensor]()

    def add(self, losses: Tensor, weight: float) -> None:
        """Add a batch: losses of shape (widths, samples), or means of shape (widths,), which count `weight` times.

        The first batches may have a single width, which then stands for all.

        Raises:
            ValueError: if some batches give means and others a loss per sample, or if `keep` is True and batches give means.
        """
        if self.units and losses.dim() != self.dims:
            raise ValueError("the loss gave means in some batches and one number per sample in others; let it give one kind")
        if self.keep and losses.dim() == 1:
            raise ValueError("per_sample=True needs a loss that gives one number per sample: with reduction='none', say")
        self.dims = losses.dim()
        if losses.dim() == 1 and not weight:  # all labels of the batch are ignored
            return
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
        """Return the mean and its standard error, (widths,) each; the error is NaN for a single sample or batch mean.

        Raises:
            ValueError: if nothing counts.
        """
        if not self.units:
            raise ValueError("no batch has a label that counts: all are ignored; give batches with other labels")
        variance = self.squares / (self.units - 1 or torch.nan)
        return self.sum / self.weight, (variance / self.weight).sqrt()

    def all(self) -> Tensor | None:
        """Return every loss, (widths, samples), or None if `keep` is False."""
        if not self.keep:
            return None
        widths = max(map(len, self.kept))
        return torch.cat([losses.expand(widths, -1) for losses in self.kept], 1)
