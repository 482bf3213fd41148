"""`scree`: the loss of a trained network at every width of one of its layers, or of several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from .._torch import without_compiler, without_fastpath
from ..layer import TailDropout
from ..models import at_k
from .arguments import check_limit, check_widths, find_layers, length, widths_up_to
from .calling import Call, Caller, Example, Loss, check_batches
from .evaluation import Evaluation
from .losses import RunningMean, stack_losses
from .progress import track
from .recording import Interception, Recorder, Recording
from .result import Scree
from .what import direction_of, name_of

Widths = Iterable[int] | Literal["log"] | None


@overload
def scree(  # type: ignore[overload-overlap]  # a str is a sequence of str
    model: nn.Module,
    layer: TailDropout | str,
    batches: Iterable[Any],
    loss: Loss | None = None,
    *,
    widths: Widths = None,
    call: Call | None = None,
    device: torch.device | str | None = None,
    max_rows: int | None = None,
    max_batches: int | None = None,
    per_sample: bool = False,
    maximize: bool | None = None,
    name: str | None = None,
    progress: bool = True,
) -> Scree: ...


@overload
def scree(
    model: nn.Module,
    layer: Sequence[TailDropout | str],
    batches: Iterable[Any],
    loss: Loss | None = None,
    *,
    widths: Widths = None,
    call: Call | None = None,
    device: torch.device | str | None = None,
    max_rows: int | None = None,
    max_batches: int | None = None,
    per_sample: bool = False,
    maximize: bool | None = None,
    name: str | None = None,
    progress: bool = True,
) -> dict[str, Scree]: ...


def scree(
    model: nn.Module,
    layer: TailDropout | str | Sequence[TailDropout | str],
    batches: Iterable[Any],
    loss: Loss | None = None,
    *,
    widths: Widths = None,
    call: Call | None = None,
    device: torch.device | str | None = None,
    max_rows: int | None = None,
    max_batches: int | None = None,
    per_sample: bool = False,
    maximize: bool | None = None,
    name: str | None = None,
    progress: bool = True,
) -> Scree | dict[str, Scree]:
    """Measure the mean loss of a model at every width of one of its layers, or of each of several.

    The result is that of a loop over `layer.set_k(k)` with the model in evaluation mode. But the modules before the layer run
    once for each batch, and the modules after it run for many widths at a time. Four strategies are tried, the fastest first,
    and compared with the model itself on the first batch that reaches the layer, at four of the widths:

    * running sums, if a Linear reads the layer: its output at every width is a running sum over features, in float32 at least
      and restarted every 32 widths, so it is as exact as the Linear itself;
    * a copy of the layer's output for each width, side by side along its dim of samples;
    * one k per sample: a copy of the whole batch for each width, for networks with a residual connection around the layer, such
      as transformers;
    * one width at a time, where samples depend on one another.

    `Scree.method` says which strategy was used, and why no faster one. Training modes, k, grad mode and the state of torch's
    random number generators are restored at the end, also after an exception. Other TailDropouts keep their k, or all features
    if no k is set. Compiled models are evaluated without their compiled code. A batch of which no sample reaches the layer (an
    expert that is idle, for instance) has the same loss at every width.

    Args:
        model: any module that contains the layer.
        layer: a TailDropout of the model, or its name as in `model.named_modules()`; or a sequence of layers, names and
            patterns as in `fnmatch`. The width of one layer is varied at a time.
        batches: a list, a DataLoader, any iterable of
            pairs (input, target), for which `model(input)` is called, or of
            dicts and other mappings (`BatchEncoding`), for which `model(**batch)` is called, or of
            anything else, if `call` is given. Batches may hold tensors in tuples, lists and dicts.
        loss: called as `loss(output, target)` with the output at one width, or as `loss(output, batch)` for batches that are
            not pairs. It returns the loss of each sample (a tensor whose first dim is that of samples, averaged over its other
            dims), or the mean over the batch (a 0-d tensor or a number). Means are weighted by the number of elements of the
            target (for torch's cross-entropy: that are not ignored), so that the last batch may be smaller. Any metric that is
            a mean will do, such as `lambda output, target: output.argmax(1) == target`. If None, the model's own loss is used:
            `output.loss` or `output["loss"]`, weighted by the number of labels other than -100.
        widths: an iterable of ints from 0 to the layer's number of features n; "log" for 0, 1, 2, 4, 8 … n; all if None.
        call: called as `call(model, batch)`, with a copy of the batch of the same type, and returns the output. Default: the
            call described under `batches`.
        device: the device that batches are moved to; by default that of the model's first parameter that is not on "meta". The
            model is not moved.
        max_rows: the most samples in one forward after the layer, counted over all copies; one copy is always allowed. Default:
            as many samples as have about half a million elements at the layer (16 million on a GPU); with one k per sample,
            four million elements in the largest of the layer's input and the model's outputs (64 million on a GPU).
        max_batches: the most batches to use; all if None.
        per_sample: True to keep the loss of each sample at each width.
        maximize: True if more is better, as for an accuracy; False for a loss. Kept in the result, for `choose`. Not needed for
            torch's losses and the model's own loss.
        name: what is measured, for plots and tables; by default the name of the loss.
        progress: show a progress bar on a terminal or in a notebook, if tqdm or rich is installed.

    Returns:
        A `Scree`: widths, mean losses and their standard errors. For a sequence of layers, a dict of `Scree` by layer name, in
        the order of the sequence.

    Raises:
        KeyError: if the model has no TailDropout of this name.
        TypeError: if an argument is of a wrong type, a batch is of a form that the model cannot be called with, or the loss
            gives no number.
        ValueError: if the layer is not in the model or not called on any sample, a layer or a width is repeated or a width is
            outside 0 … n, there is no batch or one without samples, a loss is NaN or a sum over the batch, or `loss` is None
            and the model's output has no loss.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), TailDropout(), nn.Linear(8, 1))
        >>> batches = [(torch.randn(16, 4), torch.randn(16, 1)) for _ in range(3)]
        >>> result = scree(model, "1", batches, nn.MSELoss())
        >>> len(result)
        9
    """
    layers = find_layers(model, layer)
    asked = check_widths(widths)
    caller = Caller(model, loss, call, device)
    check_batches(batches)
    check_limit("max_rows", max_rows, "rows")
    check_limit("max_batches", max_batches, "batches")
    if not isinstance(maximize, bool | None):
        raise TypeError(f"maximize={maximize!r} has type {type(maximize).__name__}; give True, False or None")
    count = 0
    with evaluation_mode(model), Interception(model) as interception:
        runs = [_Run(part, caller, interception, asked, max_rows, per_sample) for part in layers.values()]
        total = min((size for size in (max_batches, length(batches)) if size is not None), default=None)
        for batch in track(islice(batches, max_batches), "scree", progress, total):
            count += 1
            example = caller.read(batch, count)
            recordings: dict[nn.Module, Recording] = {}
            if len(runs) > 1 and count > 1 and any(run.evaluation.replayable for run in runs):
                interception.handler = recorder = Recorder(layers.values())
                caller.run(example.input, example.keywords)
                interception.handler, recordings = None, recorder.recordings
            for run in runs:
                run.add(example, count, recordings.get(run.layer))
        if not count:
            raise ValueError("batches is empty, or an iterator that is used up; give at least one batch, (input, target) say")
        if missing := [repr(key) if key else "the layer" for key, run in zip(layers, runs, strict=True) if not run.widths]:
            raise ValueError(
                f"{', '.join(missing)} was not called on any sample of the {count} batches; give batches that reach it (all "
                "experts of a mixture, for instance), or another layer"
            )
        kind = direction_of(loss) if maximize is None else maximize
        label = name_of(loss) if name is None else name
        results = {key: run.result(kind, label) for key, run in zip(layers, runs, strict=True)}
    return next(iter(results.values())) if isinstance(layer, str | TailDropout) else results


class _Run:
    """The measurement of one layer: its widths, and its losses over the batches so far."""

    def __init__(
        self,
        layer: TailDropout,
        caller: Caller,
        interception: Interception,
        asked: list[int] | str | None,
        max_rows: int | None,
        per_sample: bool,
    ) -> None:
        self.layer, self.caller, self.asked = layer, caller, asked
        self.evaluation = Evaluation(layer, interception, max_rows, own_loss=caller.loss is None)
        self.mean = RunningMean(keep=per_sample)
        self.widths: list[int] = []

    def add(self, example: Example, number: int, recording: Recording | None) -> None:
        """Add the losses of a batch; the first that reaches the layer also determines the widths and the strategy."""
        self.evaluation.run = partial(self.caller.run, keywords=example.keywords)
        with at_k(self.layer, 0):
            if not self.widths:
                output, features = self.evaluation.start(example.input)
                if features is None:
                    losses = stack_losses([self.caller.loss_of(output, example.target)], ["every width"], number)
                    self.mean.add(losses, example.weight)
                    return
                self.widths = widths_up_to(features, self.asked)
                self.evaluation.choose_strategy(example.input, self.widths)
            values: dict[int, Tensor] = {}
            for place, output in self.evaluation.outputs(example.input, self.widths, recording):
                values[place] = self.caller.loss_of(output, example.target)
        labels = [f"width {k}" for k in self.widths]
        losses = stack_losses([values[place] for place in range(len(labels))], labels, number)
        self.mean.add(losses, example.weight)

    def result(self, maximize: bool | None, name: str) -> Scree:
        """Return the mean losses over the batches so far."""
        every = self.mean.all()
        return Scree(tuple(self.widths), *self.mean.result(), self.evaluation.method, every, maximize=maximize, name=name)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """In a `with` block, put a model into evaluation mode, without gradients and compiled code, and restore its state."""
    # Not by `eval()`, which makes TailDropouts forget k, and which modules may override.
    modes = [(module, module.training) for module in model.modules()]
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(gpus), torch.inference_mode(False), torch.no_grad(), without_compiler(), without_fastpath():
        try:
            for module, _ in modes:
                module.training = False
            yield
        finally:
            for module, module.training in modes:  # noqa: B007
                pass
