"""Compute a model's outputs at many widths of one layer, by the fastest strategy whose outputs agree with the model's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from ..layer import TailDropout
from ..pruning.verification import difference
from ..trees import leaves_of
from .comparing import identical, is_coarse
from .losses import LossPerCopy
from .recording import DivergedError, Interception, Recording
from .replay import Replay
from .strategy import ONE_AT_A_TIME, Strategy, dim_of_copies, split_copies
from .tiling import Tiling


class Evaluation:
    """Evaluate a model at many widths of `layer`, inside the `with` block of `interception`.

    Call `start` with each batch until one reaches the layer, `choose_strategy` with that batch, then `outputs` with that batch
    and every later one.

    Args:
        layer: the layer whose width is varied.
        interception: the interception of the model's modules.
        max_rows: as in `scree`.
        own_loss: True if the model computes its own loss, which then is computed for each copy of the samples.

    Attributes:
        run: calls the model with an input; to be set before the first batch.
    """

    run: Callable[[Any], Any]

    def __init__(
        self, layer: TailDropout, interception: Interception, max_rows: int | None = None, own_loss: bool = False
    ) -> None:
        self.layer, self.interception, self.max_rows = layer, interception, max_rows
        self.loss_mode = LossPerCopy(lambda: self.replay.copies) if own_loss else nullcontext()
        self.replay = Replay(layer, max_rows)
        self.reasons = list[str]()  # why faster strategies were rejected
        self.replayable = False  # may the outputs of modules before the layer be replayed?
        self._dims: list[int | None] = []  # for each output tensor, the dim along which the copies lie
        self._at_zero: list[Any] = []  # the output tensors of the batch of `start`, at width 0
        self._known: dict[int, Any] = {}  # outputs of the batch of `choose_strategy`, by width

    @property
    def strategy(self) -> Strategy:
        """The strategy in use."""
        return self.replay.strategy

    @property
    def method(self) -> str:
        """The strategy in words, with the reasons why faster strategies were rejected."""
        whole = "" if self.replayable else ", all of the model each time"
        return f"{self.strategy}{whole}{': ' if self.reasons else ''}{'; '.join(self.reasons)}"

    def start(self, input: Any) -> tuple[Any, int | None]:
        """Run the model on a batch at width 0, and return its output and the layer's number of features.

        The number is None if the model does not call the layer on any sample. The output is then the same at every width.
        """
        self.replay.forget()
        [output] = self._forward(input, [0])
        self._at_zero = leaves_of(output)
        reached = [shape for shape in self.replay.shapes if shape.numel()]
        if not reached:
            return output, None
        n = reached[0][self.layer.dropout_dim]
        return output, min(n, getattr(self.layer, "features", n))  # a SlicedTailDropout reads more features than it keeps

    def choose_strategy(self, input: Any, widths: Sequence[int]) -> None:
        """Try strategies, the fastest first, and keep the first whose outputs equal the model's own at four of the widths."""
        # Two widths a forward. Copies at width 0 are all zero, so a sum over copies shows only in the last two widths. A mean
        # over copies of one width is that of one copy, so two different widths must be tried together.
        last = len(widths) - 1
        probes = [widths[at] for at in ((0, last // 4, (last + 1) // 2, last) if last > 1 else (0, last))]
        at = {k: leaves_of(self._forward(input, [k])[0]) if k else self._at_zero for k in probes}
        expected = [at[k] for k in probes]
        single, shapes = self.replay.recording, self.replay.shapes
        assert single is not None
        if not any(_size(leaf) or isinstance(leaf, float) for leaves in expected for leaf in leaves):
            self.reasons.append("the outputs of the first batch that reaches the layer are empty, and show no difference")
            return
        for strategy in self._copying_strategies():
            self._try(strategy)
            wrong = self._error(input, probes, expected) or self._mixing(input, widths, expected)
            if not wrong:
                self.reasons.clear()
                self.replay.max_copies = None
                return
            if strategy.kind == "copies":
                self.reasons.append(_not_working(strategy, wrong))
        for dim in (0, 1) if last else ():
            self._try(Strategy("one k per sample", dim))
            tiling = Tiling(input, dim, shapes, max(_size(leaf) for leaf in [single.input, *self._at_zero]))
            if tiling.possible():
                self.replay.tiling = tiling
                wrong = self._tiling_error(input, widths, dict(zip(probes, expected, strict=True)), single)
                if not wrong:
                    self.replay.max_copies = None
                    return
                self.reasons.append(_not_working(self.strategy, wrong))
        self._try(ONE_AT_A_TIME)
        self.replay.max_copies = None
        if wrong := self._error(input, probes, expected):
            self.replayable = False
            self.reasons.append(f"the outputs of modules before the layer cannot be replayed ({wrong})")

    def outputs(self, input: Any, widths: Sequence[int], recording: Recording | None = None) -> Iterator[tuple[int, Any]]:
        """Yield (index into `widths`, model's output at that width) for every width, in any order.

        `recording` is a recording of a forward on this input, if one exists.
        """
        self.replay.forget()
        self.replay.recording = recording
        places = {k: place for place, k in enumerate(widths)}
        while self._known:
            k, output = self._known.popitem()
            yield places.pop(k), output
        while places:
            waiting = list(places)
            try:
                outputs = self._forward(input, waiting)
            except Exception as error:
                if self.strategy.dim is None and not self.replayable:
                    raise
                # Try again with a simpler strategy: an error of the model itself comes back.
                self.reasons.append(f"in a later batch, {_not_working(self.strategy, _in_words(error))}")
                self.replayable = self.replayable and self.strategy.dim is not None
                self.replay.strategy, self.replay.tiling = ONE_AT_A_TIME, None
                self.replay.forget()
                continue
            for k, output in zip(waiting, outputs, strict=False):
                yield places.pop(k), output

    def _copying_strategies(self) -> Iterator[Strategy]:
        """Yield the strategies that copy the layer's output, for each possible dim; if there are none, record the reason."""
        assert self.replay.recording is not None
        ndim = self.replay.recording.input.dim()
        feature = self.layer.dropout_dim % ndim
        named = self.layer.batch_dim
        dims = [dim % ndim for dim in ([named] if isinstance(named, int) else named or range(ndim)) if dim % ndim != feature]
        if len(self.replay.shapes) > 1:
            self.reasons.append(f"the model calls the layer {len(self.replay.shapes)} times")
            dims = []
        elif not dims:
            self.reasons.append("the input of the layer has no dim of samples")
        if self.replay.linears and feature == ndim - 1:
            yield from (Strategy("running sums", dim) for dim in dims)
        yield from (Strategy("copies", dim) for dim in dims)

    def _try(self, strategy: Strategy) -> None:
        self.replay.strategy, self.replay.max_copies, self.replay.tiling = strategy, 2, None
        self.replayable, self._dims = True, []
        self.replay.forget()

    def _error(self, input: Any, widths: Sequence[int], expected: Sequence[list[Any]]) -> str | None:
        """Describe how the strategy's outputs at these widths differ from `expected`; return None if they do not."""
        outputs: list[Any] = []
        try:
            while len(outputs) < len(widths):
                outputs += self._forward(input, widths[len(outputs) :])
            pairs = zip(expected, map(leaves_of, outputs), strict=True)
            return next(filter(None, (difference(*pair, 0) for pair in pairs)), None)
        except Exception as error:  # the strategy's fault: the model itself has run on this batch
            return _in_words(error)

    def _tiling_error(self, input: Any, widths: Sequence[int], expected: dict[int, list[Any]], single: Recording) -> str | None:
        """Describe how outputs with one k per sample differ from `expected`; if they do not, keep them and return None.

        A forward computes as many widths as fit, so that `outputs` needs no further forward for them on the first batch.
        """
        tiling = self.replay.tiling
        assert tiling is not None
        probes, others = list(expected), [k for k in widths if k not in expected]
        # Any other dim than 0 may hold the positions of a sequence, which many copies would make very long.
        fit = tiling.copies_at_a_time(input, self.max_rows) if tiling.dim == 0 else 2
        groups = [(probes + others)[:fit]] if fit >= len(probes) else [probes[:2], probes[-2:]]
        outputs: dict[int, Any] = {}
        try:
            for group in groups:
                self.replay.forget()
                self.replay.max_copies = len(group)
                outputs |= dict(zip(group, self._forward(input, group), strict=True))
            for k, leaves in expected.items():
                if wrong := difference(leaves, leaves_of(outputs[k]), 0):
                    return wrong
            tiled = self.replay.recording
            self.replayable = tiled is not None and tiling.learn_outputs(single, tiled, len(groups[-1]))
            if wrong := self._mixing(input, widths, [*expected.values()]):
                return wrong
        except Exception as error:  # the strategy's fault: the model itself has run on this batch
            return _in_words(error)
        self._known = outputs
        return None

    def _mixing(self, input: Any, widths: Sequence[int], expected: Sequence[list[Any]]) -> str | None:
        """Describe how outputs at a width change with the other widths of a forward; return None if they do not.

        `difference` takes up to √eps for rounding, 9 % in bfloat16, and a mean over all copies may differ by less. So outputs
        that are not split into copies must be equal at all widths. Where outputs are less precise than float32, further
        forwards change only the width of the other copy. Rounding depends on shapes, so the outputs of a copy must then be
        equal bit by bit, unless either forward does not repeat itself bit by bit. A forward that rounds otherwise now and then
        is repeated three times, since once might not show it.
        """
        whole = [[leaf for leaf, dim in zip(leaves, self._dims, strict=True) if dim is None] for leaves in expected]
        if not all(identical(whole[0], others) for others in whole):
            return "an output that has no dim of samples changes with the width"
        if not any(map(is_coarse, [leaf for leaves in expected for leaf in leaves])):
            return None
        strategy, replayable = self.strategy, self.replayable
        if strategy.kind == "running sums":  # a running sum is rounded by the widths before; what comes after it is the same
            self._try(Strategy("copies", strategy.dim))
        self.replay.max_copies = 2
        last = len(widths) - 1
        a, b, c, d = (widths[at] for at in (0, last // 4, (last + 1) // 2, last))
        try:
            pair, before = (a, b), self._two(input, a, b)
            for kept, other in ((1, (c, b)), (0, (c, d)), (1, (a, d)), (0, (a, b))):
                now = self._two(input, *other)
                if not identical(before[kept], now[kept]) and all(
                    identical(outputs[kept], self._two(input, *repeated)[kept])
                    for repeated, outputs in 3 * ((other, now), (pair, before))
                ):
                    return "the outputs at a width change with the widths beside it"
                pair, before = other, now
        except Exception as error:  # the strategy's fault: the model itself has run on this batch
            return _in_words(error)
        finally:
            self.replay.forget()
            self.replay.strategy, self.replayable = strategy, replayable and self.replayable
        return None

    def _two(self, input: Any, *widths: int) -> list[list[Any]]:
        """Return the leaves of the outputs at two widths, computed in one forward."""
        if self.replay.tiling is not None:
            self.replay.forget()  # the outputs recorded in a forward of two copies are no single copy's
        return [leaves_of(output) for output in self._forward(input, widths)]

    def _forward(self, input: Any, widths: Sequence[int]) -> list[Any]:
        """Run the model once, and return its outputs at the first of the widths: as many as one forward computes."""
        if not self.replayable:
            self.replay.forget()
        tiling = self.replay.tiling
        tiled, copied, asked = False, input, len(widths)
        if tiling is not None:
            fit = self.replay.max_copies or tiling.copies_at_a_time(input, self.max_rows)
            # The first forward on a batch has one copy: it records the outputs that later forwards replay.
            recorded = self.replay.recording is not None or not self.replayable or self.replay.max_copies is not None
            widths = widths[: fit if recorded else 1]
            tiled = len(widths) > 1
            copied = tiling.input(input, len(widths)) if tiled else input
        self.replay.begin(widths, tiled)
        self.interception.handler = self.replay
        try:
            with self.loss_mode:
                output = self.run(copied)
        except DivergedError:
            self.replayable = False
            return self._forward(input, widths)
        finally:
            self.interception.handler = None
        if self.strategy.dim is None:
            return [output]
        if not self.replay.shapes and not tiled:
            return [output] * asked  # the layer was not called, so its width makes no difference
        copies = self.replay.copies
        if tiling is not None and not tiled:
            return [output]
        if copies == 1:
            return [output]
        if not self._dims:
            pairs = zip(leaves_of(output), self._at_zero, strict=True)
            self._dims = [dim_of_copies(*pair, copies) for pair in pairs]
        return split_copies(output, self._dims, copies)


def _size(leaf: Any) -> int:
    return leaf.numel() if isinstance(leaf, Tensor) else 0


def _not_working(strategy: Strategy, reason: str) -> str:
    do = "do" if strategy.kind in ("copies", "running sums") else "does"
    return f"{strategy} {do} not work ({reason})"


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
