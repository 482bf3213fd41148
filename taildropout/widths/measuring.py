"""`scree`: the loss of a trained network at every width of one of its layers."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .._torch import tree_leaves, tree_map_only, without_compiler
from ..layer import TailDropout
from ..models import at_k
from ..names import named
from .evaluation import Evaluation
from .recording import Interception
from .result import Scree


def scree(
    model: nn.Module,
    layer: TailDropout | str,
    batches: Iterable[Any],
    loss: Callable[[Any, Any], Any],
    *,
    widths: Iterable[int] | Literal["log"] | None = None,
    device: torch.device | str | None = None,
    max_rows: int | None = None,
    per_sample: bool = False,
    progress: bool = True,
) -> Scree:
    """The mean loss of a model at every width of one of its layers.

    It gives what a loop over `layer.set_k(k)` gives with the model in evaluation mode, but runs what stands before the layer
    once for each batch, and what follows it for many widths at a time. Where a Linear takes the layer's output, its output at
    every width is a running sum over features, in float32 at least and begun anew after 32 widths: so it is as exact as the
    Linear itself, and much faster. All this is compared with the model as it is on the first batch, at four of
    the widths; where samples depend on one another, or a connection goes around the layer, one width is computed at a time.
    `Scree.method` says what was done and why.

    Mode, k, grad mode and the state of torch's random numbers are as before in the end, also after an exception. Other
    TailDropouts keep what is set there, or all. Compiled models are evaluated without their compiled code.

    Args:
        model: any module that takes the input of a batch as its one argument.
        layer: a TailDropout of the model, or its name as in `model.named_modules()`.
        batches: pairs (input, target): a list, a DataLoader, any iterable. They may hold tensors in tuples, lists and dicts.
        loss: called as `loss(output, target)` with the output at one width. It gives the loss of each sample (a tensor whose
            first dim counts samples; its mean is taken over the others), or the mean over the batch (a 0-d tensor or a number).
            Means are weighted by the number of elements of the target, so that the last batch may be smaller. Any metric that
            is a mean will do, such as `lambda output, target: output.argmax(1) == target`.
        widths: from 0 to the layer's number of features n; an iterable of ints; "log" for 0, 1, 2, 4, 8 … n; all if None.
        device: where batches go; if None, to that of the model's first parameter that is on one ("meta" is none). The model is
            not moved.
        max_rows: how many samples, all copies counted, go through what follows the layer at a time; one copy at least. By
            default as many as hold about half a million numbers at the layer (16 million on a GPU).
        per_sample: keep the loss of each sample at each width.
        progress: count batches on stderr, if that is a terminal.

    Returns:
        Widths, mean losses and their standard errors; see `Scree`.

    Raises:
        KeyError: if the model has no TailDropout of this name.
        TypeError: if an argument is of a wrong type, a batch is no pair, or the loss gives no number.
        ValueError: if the layer is not in the model or never called, a width is repeated or outside 0 … n, there is no batch,
            or a loss is NaN.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), TailDropout(), nn.Linear(8, 1))
        >>> batches = [(torch.randn(16, 4), torch.randn(16, 1)) for _ in range(3)]
        >>> result = scree(model, "1", batches, nn.MSELoss())
        >>> len(result.widths)
        9
    """
    layer = _find(model, layer)
    asked = _check_widths(widths)
    if isinstance(loss, type):
        raise TypeError(f"loss is the class {loss.__name__}; give an instance of it: {loss.__name__}()")
    if not callable(loss):
        raise TypeError(f"loss={loss!r} is a {type(loss).__name__}; give a callable of output and target")
    if isinstance(batches, Tensor | str) or not isinstance(batches, Iterable):
        raise TypeError(f"batches is a {type(batches).__name__}; give an iterable of pairs (input, target)")
    if max_rows is not None and (isinstance(max_rows, bool) or not isinstance(max_rows, int) or max_rows < 1):
        raise ValueError(f"max_rows={max_rows!r} is no number of rows; give an int, 1 or more, or None")
    if device is None:
        # Weights that are moved in only while they are used stand on "meta" meanwhile.
        device = next((each.device for each in model.parameters() if not each.is_meta), None)
    mean = _RunningMean(keep=per_sample)
    chosen: list[int] = []
    count = 0
    with _evaluating(model, layer), Interception(model) as interception:
        forward = Evaluation(model, layer, interception, max_rows)
        for batch in _counted(batches, progress):
            count += 1
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise TypeError(f"batch {count} is a {type(batch).__name__}, not a pair; let batches give (input, target)")
            if any(type(leaf).__module__ == "numpy" and hasattr(leaf, "__array_interface__") for leaf in tree_leaves(batch)):
                raise TypeError(f"batch {count} holds a NumPy array; give tensors: torch.from_numpy(array)")
            input, target = tree_map_only(Tensor, lambda tensor: tensor.to(device), tuple(batch))
            if count == 1:
                n = forward.start(input)
                chosen = _widths_up_to(n, asked)
                forward.choose_strategy(input, chosen)
            values = []
            for output in forward.outputs(input, chosen):
                with _FewClasses() if _on_cpu(output) else nullcontext():
                    values.append(_check_loss(loss(output, target)))
            sizes = [leaf.numel() for leaf in tree_leaves((target, input)) if isinstance(leaf, Tensor)]
            mean.add(_stack(values, chosen, count), sizes[0] if sizes else 1)
        if not count:
            raise ValueError("batches is empty, or an iterator that is used up; give at least one pair (input, target)")
        return Scree(tuple(chosen), *mean.result(), forward.method, mean.all())


def _find(model: nn.Module, layer: TailDropout | str) -> TailDropout:
    if isinstance(layer, str):
        found = named(model, TailDropout, layer)[layer]
        assert isinstance(found, TailDropout)
        return found
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={model!r} is a {type(model).__name__}; give an nn.Module")
    if not isinstance(layer, TailDropout):
        raise TypeError(f"layer is a {type(layer).__name__}; give a TailDropout of the model, or its name")
    if not any(module is layer for module in model.modules()):
        raise ValueError(f"{layer} is no module of this {type(model).__name__}; give one that is, or its name")
    return layer


def _check_widths(widths: Iterable[int] | str | None) -> list[int] | str | None:
    if widths is None or (isinstance(widths, str) and widths == "log"):
        return widths
    if isinstance(widths, str) or not isinstance(widths, Iterable):
        raise TypeError(f"widths={widths!r}; give ints, 'log', or None for all")
    given = list(widths)
    if any(isinstance(k, bool) or not hasattr(k, "__index__") for k in given):
        raise TypeError(f"widths={given!r} are not all ints; a width is a number of features")
    ordered = sorted(map(operator.index, given))
    if not ordered:
        raise ValueError("widths is empty; give at least one, or None for all")
    if ordered[0] < 0:
        raise ValueError(f"width {ordered[0]} is negative; give 0 (no feature) up to the number of features")
    if repeated := [a for a, b in pairwise(ordered) if a == b]:
        raise ValueError(f"width {repeated[0]} is given twice; give each once")
    return ordered


def _widths_up_to(n: int, asked: list[int] | str | None) -> list[int]:
    if isinstance(asked, list):
        if asked[-1] > n:
            raise ValueError(f"width {asked[-1]} is greater than the {n} features of the layer; give {n} or less")
        return asked
    return list(range(n + 1)) if asked is None else [0, *(2**i for i in range(n.bit_length()) if 2**i < n), n]


@contextmanager
def _evaluating(model: nn.Module, layer: TailDropout) -> Iterator[None]:
    """Evaluation mode without gradients, without compiled code and without traces."""
    # Not by `eval()`, in which TailDropouts forget k, and modules may do more than that.
    modes = [(module, module.training) for module in model.modules()]
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with at_k(layer, 0), torch.random.fork_rng(gpus), torch.inference_mode(False), torch.no_grad(), without_compiler():
        try:
            for module, _ in modes:
                module.training = False
            yield
        finally:
            for module, module.training in modes:  # noqa: B007
                pass


def _counted(batches: Iterable[Any], progress: bool) -> Iterator[Any]:
    """The batches, their number told on a terminal."""
    if not progress or not sys.stderr.isatty():
        yield from batches
        return
    try:
        total = f" of {len(batches)}"  # type: ignore[arg-type]
    except TypeError:  # a generator has no length
        total = ""
    for number, batch in enumerate(batches, 1):
        print(f"\rscree: batch {number}{total}", end="", file=sys.stderr, flush=True)
        yield batch
    print(file=sys.stderr)


class _FewClasses(TorchFunctionMode):
    """The same cross-entropy, with the classes in a dim that is not the last.

    A softmax over fewer than 16 numbers in a row takes torch's CPU code up to eight times as long, longer than all the rest.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is functional.cross_entropy and len(args) == 2:
            output, target = args
            if output.dim() == 2 and 2 < output.shape[1] < 16 and output.shape[:1] == target.shape[:1]:
                few: Tensor = function(output.T[None], (target.T if target.dim() == 2 else target)[None], **kwargs)
                return few.squeeze(0)
        return function(*args, **kwargs)


def _on_cpu(output: Any) -> bool:
    return isinstance(output, Tensor) and output.is_cpu


def _check_loss(value: Any) -> Tensor:
    """A loss as a tensor, 0-d for a mean or 1-d with one element per sample."""
    if isinstance(value, Real):
        return torch.tensor(float(value), dtype=torch.float64)
    if not isinstance(value, Tensor) or value.is_complex():
        what = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise TypeError(f"the loss gave {what}; it should give a number, or a tensor of one number per sample")
    losses: Tensor = value if value.is_floating_point() else value.float()  # right or wrong, say
    return losses if losses.dim() < 2 else losses.flatten(1).mean(1, dtype=torch.promote_types(losses.dtype, torch.float32))


def _stack(values: list[Tensor], widths: Sequence[int], batch: int) -> Tensor:
    """The losses of a batch: (widths,) where they are means, else (widths, samples)."""
    if len({value.shape for value in values}) > 1 or values[0].shape == (0,):
        shapes = ", ".join(str(tuple(shape)) for shape in sorted({value.shape for value in values}))
        raise ValueError(f"the loss gave {shapes} in batch {batch}; it should give a mean, or one number per sample, always")
    together = torch.stack(values).to("cpu").double()
    if together.isnan().any():
        at = int(together.isnan().reshape(len(values), -1).any(1).nonzero()[0])
        raise ValueError(
            f"the loss is NaN at width {widths[at]} in batch {batch}; look for NaN or inf in the batch and in the model"
        )
    return together


class _RunningMean:
    """Mean and standard error of losses that come batch by batch, by the update of Chan, Golub & LeVeque (1979)."""

    def __init__(self, keep: bool) -> None:
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
        """Mean, and its standard error: NaN where there is but one unit."""
        variance = torch.as_tensor(self.squares) / (self.units - 1 or torch.nan)
        return torch.as_tensor(self.sum) / self.weight, (variance / self.weight).sqrt()

    def all(self) -> Tensor | None:
        """Every loss, (widths, samples), if they were kept."""
        return torch.cat(self.kept, 1) if self.keep else None
