"""Run one forward of a model at several widths of a layer, by handling the calls of the model's modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..layer import TailDropout
from .recording import Player, Recorder, Recording, writes
from .running_sums import RunningSums
from .strategy import ONE_AT_A_TIME, copies_at_widths
from .tiling import Tiling

# The most elements that all copies together have at the layer, unless the caller sets a limit: on a CPU, few enough for its
# cache; on other devices, enough to make the time of a kernel launch negligible.
_ELEMENTS_CPU, _ELEMENTS = 2**19, 2**24


class Replay:
    """Handle the calls of modules during one forward of a model at several widths of `layer`.

    Call `begin` before each forward. The outputs of modules before the layer are recorded, or replayed from `recording`.
    `strategy` determines the output of the layer.
    """

    def __init__(self, layer: TailDropout, max_rows: int | None) -> None:
        self.layer, self.max_rows = layer, max_rows
        self.strategy = ONE_AT_A_TIME
        self.tiling: Tiling | None = None  # for "one k per sample"
        self.max_copies: int | None = None  # a limit while strategies are tried
        self.linears: list[nn.Linear] = []  # the Linears that read the layer's output
        self.recording: Recording | None = None
        self.shapes: list[torch.Size] = []  # of the layer's input, at each of its calls in this forward
        self.widths: Sequence[int] = ()
        self._tiled = False  # does the model get several copies of its input in this forward?
        self._before: Recorder | Player = Recorder([layer])
        self._output: Tensor | None = None  # the layer's, in this forward
        self._output_written: object = 0
        self._sums: RunningSums | None = None

    def forget(self) -> None:
        """Drop the recording, before a new batch or another strategy."""
        self.recording, self._sums = None, None

    @property
    def copies(self) -> int:
        """The number of copies of the samples at this point of the forward."""
        return len(self.widths) if self._tiled or (self.strategy.dim is not None and self.shapes) else 1

    def begin(self, widths: Sequence[int], tiled: bool = False) -> None:
        """Prepare a forward at the first of `widths`; after the forward, `self.widths` holds the widths that were computed.

        `tiled` is True if the model's input holds one copy of the batch for each of the widths.
        """
        self.widths, self._tiled, self.shapes, self._output = widths, tiled, [], None
        if self.recording is None:
            self._before = Recorder([self.layer])
        else:
            change = self.tiling.tiled_output(len(widths)) if self.tiling is not None and tiled else None
            self._before = Player(self.recording, change)
        self.layer.set_k(max(widths) if tiled else widths[0])

    def __call__(self, module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the output of a module, computed or replayed."""
        if module is self.layer:
            return self._at_layer(forward, *args, **kwargs)
        if not self.shapes:
            return self._before(module, forward, args, kwargs)
        if isinstance(module, nn.Linear) and len(args) == 1 and self._is_layer_output(args[0]):
            return self._at_linear(module, forward, args[0])
        return forward(*args, **kwargs)

    def _at_layer(self, forward: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
        self.shapes.append(input.shape)
        if self._tiled:
            return self._at_tiled_layer(forward, input)
        if len(self.shapes) > 1:
            if self.strategy.kind in ("running sums", "copies"):
                raise RuntimeError("the layer is called several times")
            return forward(input)
        self._compare_or_record(input)
        copying = self.strategy.kind in ("running sums", "copies") and self.strategy.dim is not None
        output = self._copies(input) if copying else forward(input)
        self._output, self._output_written = output, writes(output)
        return output

    def _at_tiled_layer(self, forward: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
        assert self.tiling is not None
        call = len(self.shapes) - 1
        dim = self.tiling.layer_dim(call, input, len(self.widths), self.layer.dropout_dim)
        if call == 0:
            self._compare_or_record(input, len(self.widths), dim)
        return self.tiling.keep(forward(input), self.widths, self.layer.dropout_dim, dim)

    def _compare_or_record(self, input: Tensor, copies: int = 1, dim: int | None = None) -> None:
        if isinstance(self._before, Recorder):
            self._before.reach(self.layer, input)
            self.recording = self._before.recordings[self.layer]
        else:
            assert self.recording is not None
            self.recording.check(input, copies, dim)

    def _copies(self, input: Tensor) -> Tensor:
        assert self.strategy.dim is not None
        self.widths = self.widths[: self._copies_at_a_time(input, self.strategy.dim)]
        if self.strategy.kind == "running sums":
            return torch.empty_like(input, device="meta")  # takes no memory, and any other reader fails
        return copies_at_widths(input, self.widths, self.layer.dropout_dim, self.strategy.dim)

    def _at_linear(self, linear: nn.Linear, forward: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
        if self.strategy.kind != "running sums":
            output = forward(input)
            is_plain = getattr(forward, "__func__", None) is nn.Linear.forward  # no override; equal dtypes: no autocast
            if is_plain and output.dtype == input.dtype == linear.weight.dtype and linear not in self.linears:
                self.linears.append(linear)
            return output
        if linear not in self.linears:
            raise RuntimeError("this Linear was not called before")
        assert self.recording is not None
        assert self.strategy.dim is not None
        self._sums = self._sums or RunningSums(self.recording.input)
        sums = self._sums(linear, self.widths)
        return sums.movedim(0, self.strategy.dim).flatten(self.strategy.dim, self.strategy.dim + 1)

    def _is_layer_output(self, input: object) -> bool:
        """Return True if `input` is the layer's output and was not modified since."""
        return isinstance(input, Tensor) and input is self._output and writes(input) == self._output_written

    def _copies_at_a_time(self, input: Tensor, dim: int) -> int:
        if self.max_copies is not None:
            return self.max_copies
        if self.max_rows is not None:
            return max(1, self.max_rows // max(1, input.shape[dim]))
        size = input.numel()
        if self.strategy.kind == "running sums":
            size = size // max(1, input.shape[-1]) * max(linear.out_features for linear in self.linears)
        return max(1, (_ELEMENTS_CPU if input.is_cpu else _ELEMENTS) // max(1, size))
