"""A model's outputs at many widths of one layer, by the fastest strategy that agrees with the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from .._torch import tree_leaves
from ..layer import TailDropout
from ..pruning.verification import difference
from .recording import Interception
from .replay import DivergedError, Replay
from .strategy import ONE_AT_A_TIME, Strategy, dim_of_copies, split_copies


class Evaluation:
    """Evaluate `model` at many widths of `layer`, inside the `with` block of `interception`.

    `start` runs the model on the first batch. `choose_strategy` finds the fastest strategy that gives what the model gives.
    `outputs` yields the model's output at each width.
    """

    def __init__(self, model: nn.Module, layer: TailDropout, interception: Interception, max_rows: int | None = None) -> None:
        self.model, self.layer, self.interception = model, layer, interception
        self.replay = Replay(layer, max_rows)
        self.reasons = list[str]()
        self.replayable = False  # may what stands before the layer be replayed?
        self._dims: list[int | None] = []  # along which dim of each output tensor the copies lie
        self._at_zero: list[Any] = []  # the first batch's output tensors at width 0

    @property
    def strategy(self) -> Strategy:
        """The strategy in use."""
        return self.replay.strategy

    @property
    def method(self) -> str:
        """The strategy in words, with the reason why it is no faster one."""
        whole = "" if self.replayable else ", all of the model each time"
        return f"{self.strategy}{whole}{': ' if self.reasons else ''}{'; '.join(self.reasons)}"

    def start(self, input: Any) -> int:
        """Run the model at width 0 and return the layer's number of features."""
        self.replay.forget()
        self._at_zero = tree_leaves(self._forward(input, [0])[0])
        if self.replay.recording is None:
            raise ValueError(
                "the model never called the layer, so that its width makes no difference; "
                "give a layer that model(input) uses in evaluation"
            )
        n = self.replay.recording.input.shape[self.layer.dropout_dim]
        return min(n, getattr(self.layer, "features", n))  # of a layer that `prune` made slice

    def choose_strategy(self, input: Any, widths: Sequence[int]) -> None:
        """Try strategies, the fastest first, and keep the first that agrees with the model itself at four of the widths."""
        # Two at a time: the last two go together because copies at width 0 are all zero, which hides a sum over them.
        last = len(widths) - 1
        probes = [widths[at] for at in (0, last // 4, (last + 1) // 2, last)]
        at = {k: tree_leaves(self._forward(input, [k])[0]) if k else self._at_zero for k in probes}
        expected = [at[k] for k in probes]
        for strategy in self._strategies():
            self.replay.strategy, self.replay.max_copies = strategy, 2
            self.replayable, self._dims = True, []
            self.replay.forget()
            wrong = self._error(input, probes, expected)
            if not wrong:
                break
            if strategy.dim is None:
                self.replayable = False
                self.reasons.append(f"what stands before the layer cannot be given again ({wrong})")
            elif strategy.kind == "copies":
                self.reasons.append(f"{strategy} do not work ({wrong})")
        if self.strategy.dim is not None:
            self.reasons.clear()
        self.replay.max_copies = None

    def outputs(self, input: Any, widths: Sequence[int]) -> Iterator[Any]:
        """Yield the model's output at each of the widths, in their order."""
        self.replay.forget()
        done = 0
        while done < len(widths):
            try:
                outputs = self._forward(input, widths[done:])
            except Exception as error:
                if self.strategy.dim is None and not self.replayable:
                    raise
                # The next try, a step nearer to the model itself, shows whether the error is the model's own.
                self.reasons.append(f"in a later batch {self.strategy} do not work ({_in_words(error)})")
                self.replayable = self.replayable and self.strategy.dim is not None
                self.replay.strategy = ONE_AT_A_TIME
                self.replay.forget()
                continue
            yield from outputs
            done += len(outputs)

    def _strategies(self) -> Iterator[Strategy]:
        assert self.replay.recording is not None
        ndim = self.replay.recording.input.dim()
        feature = self.layer.dropout_dim % ndim
        named = self.layer.batch_dim
        dims = [dim % ndim for dim in ([named] if isinstance(named, int) else named or range(ndim)) if dim % ndim != feature]
        if self.replay.calls > 1:
            self.reasons.append(f"the model calls the layer {self.replay.calls} times")
            dims = []
        elif not dims:
            self.reasons.append("the input of the layer has no dim of samples")
        if self.replay.linears and feature == ndim - 1:
            yield from (Strategy("running sums", dim) for dim in dims)
        yield from (Strategy("copies", dim) for dim in dims)
        yield ONE_AT_A_TIME

    def _error(self, input: Any, widths: Sequence[int], expected: Sequence[list[Any]]) -> str | None:
        """Say how the strategy's outputs at these widths differ from those expected; None if they do not."""
        outputs: list[Any] = []
        try:
            while len(outputs) < len(widths):
                outputs += self._forward(input, widths[len(outputs) :])
            pairs = zip(expected, map(tree_leaves, outputs), strict=True)
            return next(filter(None, (difference(*pair, 0) for pair in pairs)), None)
        except Exception as error:  # not the caller's: the model itself has run on this batch
            return _in_words(error)

    def _forward(self, input: Any, widths: Sequence[int]) -> list[Any]:
        """Return the outputs at the first of the widths, as many as one forward of the model computes."""
        if not self.replayable:
            self.replay.forget()
        self.replay.begin(widths)
        self.interception.handler = self.replay
        try:
            output = self.model(input)
        except DivergedError:
            self.replayable = False
            return self._forward(input, widths)
        finally:
            self.interception.handler = None
        if self.strategy.dim is None:
            return [output]
        if not self.replay.calls:
            raise RuntimeError("the layer was not called")
        copies = len(self.replay.widths)
        if copies == 1:
            return [output]
        if not self._dims:
            pairs = zip(tree_leaves(output), self._at_zero, strict=True)
            self._dims = [dim_of_copies(*pair, copies) for pair in pairs]
        return split_copies(output, self._dims, copies)


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
