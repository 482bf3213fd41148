"""A model at many widths of one layer, where what stands before the layer runs once.

The first forward of a batch notes what every module gave before the layer was called. In later ones these modules give it
again without computing, and the layer goes on from there, with one width or with a copy of its input for each of several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import tree_flatten, tree_unflatten
from ..layer import TailDropout
from ..pruning.verification import difference
from .running_sums import RunningSums

# Elements of all copies together, if the caller sets no limit: on a CPU a cache holds them, elsewhere a launch is worth it.
_ELEMENTS_CPU, _ELEMENTS = 2**19, 2**24


class _Diverged(RuntimeError):
    """What stands before the layer gave something else when its modules did not compute again."""


@dataclass(frozen=True)
class _Way:
    """How several widths are computed: copies of the layer's input along `dim`, or (None) one width at a time.

    With `sums` the copies begin behind the Linear that follows the layer: its output is a running sum over features.
    """

    dim: int | None
    sums: bool = False

    def __str__(self) -> str:
        kind = "running sums" if self.sums else "copies"
        return "one width at a time" if self.dim is None else f"{kind} along dim {self.dim}"


class Resumable:
    """Evaluate `model` at many widths of `layer`, in a `with` block that replaces the forward of its modules meanwhile.

    `start` runs the model on the first batch; `choose_way` finds the fastest way that computes what the model at each width
    computes; `outputs` gives the model's output at each width.
    """

    def __init__(self, model: nn.Module, layer: TailDropout, max_rows: int | None = None) -> None:
        self.model, self.layer, self.max_rows = model, layer, max_rows
        self.way, self.reasons = _Way(None), list[str]()
        self._replays = False  # whether what stands before the layer may be given again
        self._most: int | None = None  # copies at a time, while ways are tried
        self._dims: list[int | None] = []  # along which dim of each output the copies lie
        self._plain: list[Any] = []  # the outputs of the model as it is, for their shapes
        self._linears: list[nn.Linear] = []  # that take what the layer gives
        self._forwards: list[tuple[nn.Module, Any]] = []  # to be restored
        self._widths: Sequence[int] = ()  # of this forward
        self._calls = 0  # of the layer, in this forward
        self._handed: Tensor | None = None  # what the layer gave in this forward
        self._handed_version = 0
        self._forget()

    def _forget(self) -> None:
        """Begin a batch."""
        self._input: Tensor | None = None  # the layer's
        self._version = 0
        self._done: list[tuple[nn.Module, Any]] = []  # calls that ended before the layer's, without the calls within them
        self._next: int | None = None  # which of them is given next; None: they are noted
        self._sums: RunningSums | None = None

    def __enter__(self) -> Resumable:
        for module in self.model.modules():
            self._forwards.append((module, module.__dict__.get("forward")))
            wrap = self._at_layer if module is self.layer else self._elsewhere
            module.__dict__["forward"] = partial(wrap, module, module.forward)
        return self

    def __exit__(self, *error: object) -> None:
        for module, forward in self._forwards:
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = forward

    @property
    def method(self) -> str:
        """The way in words, with the reason why it is no faster one."""
        whole = "" if self._replays else ", all of the model each time"
        return f"{self.way}{whole}{': ' if self.reasons else ''}{'; '.join(self.reasons)}"

    def start(self, input: Any) -> int:
        """Run the model at width 0 and give the layer's number of features."""
        self._forget()
        self._plain = tree_flatten(self._forward(input, [0])[0])[0]
        if self._input is None:
            raise ValueError(
                "the model never called the layer, so that its width makes no difference; "
                "give a layer that model(input) uses in evaluation"
            )
        n = self._input.shape[self.layer.dropout_dim]
        return min(n, getattr(self.layer, "features", n))  # of a layer that `prune` made slice

    def choose_way(self, input: Any, widths: Sequence[int]) -> None:
        """Try the ways from the fastest on, and keep the first that agrees with the model as it is at four of the widths."""
        # Two at a time: the last two go together because copies at width 0 are all zero, which hides a sum over them.
        last = len(widths) - 1
        probes = [widths[at] for at in (0, last // 4, (last + 1) // 2, last)]
        at = {k: tree_flatten(self._forward(input, [k])[0])[0] if k else self._plain for k in probes}
        plain = [at[k] for k in probes]
        for way in self._ways():
            self.way, self._replays, self._most, self._dims = way, True, 2, []
            self._forget()
            outputs: list[Any] = []
            try:
                while len(outputs) < len(probes):
                    outputs += self._forward(input, probes[len(outputs) :])
                leaves = [tree_flatten(output)[0] for output in outputs]
                wrong = next(filter(None, (difference(*pair, 0) for pair in zip(plain, leaves, strict=True))), None)
            except Exception as error:  # not the caller's: the model as it is has run on this batch
                wrong = _in_words(error)
            if not wrong:
                break
            if way.dim is None:
                self._replays = False
                self.reasons.append(f"what stands before the layer cannot be given again ({wrong})")
            elif not way.sums:
                self.reasons.append(f"{way} do not work ({wrong})")
        if self.way.dim is not None:
            self.reasons.clear()
        self._most = None

    def outputs(self, input: Any, widths: Sequence[int]) -> Iterator[Any]:
        """The model's output at each of the widths, in their order."""
        self._forget()
        given = 0
        while given < len(widths):
            try:
                outputs = self._forward(input, widths[given:])
            except Exception as error:
                if self.way.dim is None and not self._replays:
                    raise
                # Whose error it is, the model as it is will tell.
                self.reasons.append(f"in a later batch {self.way} do not work ({_in_words(error)})")
                self.way, self._replays = _Way(None), self._replays and self.way.dim is not None
                self._forget()
                continue
            yield from outputs
            given += len(outputs)

    def _ways(self) -> Iterator[_Way]:
        assert self._input is not None
        ndim = self._input.dim()
        feature = self.layer.dropout_dim % ndim
        named = self.layer.batch_dim
        dims = [dim % ndim for dim in ([named] if isinstance(named, int) else named or range(ndim)) if dim % ndim != feature]
        if self._calls > 1:
            self.reasons.append(f"the model calls the layer {self._calls} times")
            dims = []
        elif not dims:
            self.reasons.append("the input of the layer has no dim of samples")
        for sums in (True, False) if self._linears and feature == ndim - 1 else (False,):
            yield from (_Way(dim, sums) for dim in dims)
        yield _Way(None)

    def _forward(self, input: Any, widths: Sequence[int]) -> list[Any]:
        """Outputs at as many of the widths as are computed at a time, in one forward of the model."""
        if self._replays and self._input is not None:
            self._next = 0
        else:
            self._forget()
        self._calls, self._handed, self._widths = 0, None, widths
        self.layer.set_k(widths[0])
        try:
            output = self.model(input)
        except _Diverged:
            self._replays = False
            return self._forward(input, widths)
        if self.way.dim is None:
            return [output]
        if not self._calls:
            raise RuntimeError("the layer was not called")
        return self._split(output)

    def _split(self, output: Any) -> list[Any]:
        """The output of several copies, copy by copy."""
        copies = len(self._widths)
        if copies == 1:
            return [output]
        leaves, tree = tree_flatten(output)
        if not self._dims:
            self._dims = [_grown(*pair, copies) for pair in zip(leaves, self._plain, strict=True)]
        pairs = zip(leaves, self._dims, strict=True)
        parts = [[leaf] * copies if dim is None else leaf.unflatten(dim, (copies, -1)).unbind(dim) for leaf, dim in pairs]
        return [tree_unflatten(list(each), tree) for each in zip(*parts, strict=True)]

    def _elsewhere(self, module: nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """The forward of every module but the layer."""
        if self._calls:
            if not (isinstance(module, nn.Linear) and len(args) == 1 and self._is_handed(args[0])):
                return forward(*args, **kwargs)
            if self.way.sums:
                return self._at_linear(module)
            output = forward(*args)
            own = getattr(forward, "__func__", None) is nn.Linear.forward  # the Linear's, and not under autocast
            if own and output.dtype == args[0].dtype == module.weight.dtype and module not in self._linears:
                self._linears.append(module)
            return output
        if self._next is not None:
            if self._next < len(self._done) and self._done[self._next][0] is module:
                self._next += 1
                return self._done[self._next - 1][1]
            return forward(*args, **kwargs)  # the layer is called within it
        start = len(self._done)
        output = forward(*args, **kwargs)
        if not self._calls:
            self._done[start:] = [(module, output)]
        return output

    def _at_layer(self, layer: nn.Module, forward: Callable[[Tensor], Tensor], /, input: Tensor) -> Tensor:
        """The forward of the layer."""
        self._calls += 1
        if self._calls > 1:
            if self.way.dim is not None:
                raise RuntimeError("the layer is called several times")
            return forward(input)
        if self._next is None:
            self._input, self._version = input, _version(input)
        elif not self._is_same(input):
            raise _Diverged
        if self.way.dim is None:
            given = forward(input)
        else:
            self._widths = self._widths[: self._at_a_time(input, self.way.dim)]
            # Nobody but the Linear can compute with a tensor that has no memory.
            given = torch.empty_like(input, device="meta") if self.way.sums else self._copies(input, self.way.dim)
        self._handed, self._handed_version = given, _version(given)
        return given

    def _at_linear(self, linear: nn.Linear) -> Tensor:
        """The forward of a Linear that takes what the layer gives, at each of the widths."""
        assert self._input is not None
        assert self.way.dim is not None
        if linear not in self._linears:
            raise RuntimeError("this Linear was not called before")
        self._sums = self._sums or RunningSums(self._input)
        sums = self._sums(linear, self._widths)
        return sums.movedim(0, self.way.dim).flatten(self.way.dim, self.way.dim + 1)

    def _is_handed(self, input: object) -> bool:
        """Whether this is what the layer gave, and nothing was written to it since."""
        return isinstance(input, Tensor) and input is self._handed and _version(input) == self._handed_version

    def _is_same(self, input: Tensor) -> bool:
        saved = self._input
        assert saved is not None
        if _version(saved) != self._version:  # written to since
            return False
        return input is saved or (input.shape == saved.shape and input.dtype == saved.dtype and torch.equal(input, saved))

    def _at_a_time(self, input: Tensor, dim: int) -> int:
        """How many copies are computed at a time."""
        if self._most is not None:
            return self._most
        if self.max_rows is not None:
            return max(1, self.max_rows // max(1, input.shape[dim]))
        size = input.numel()
        if self.way.sums:
            size = size // max(1, input.shape[-1]) * max(linear.out_features for linear in self._linears)
        return max(1, (_ELEMENTS_CPU if input.is_cpu else _ELEMENTS) // max(1, size))

    def _copies(self, input: Tensor, dim: int) -> Tensor:
        """The first features of the input at each of the widths, side by side along `dim`."""
        feature = self.layer.dropout_dim % input.dim()
        n = input.shape[feature]
        shape = list(input.shape)
        shape.insert(dim, len(self._widths))
        copies = input.new_empty(shape)
        for copy, k in zip(copies.unbind(dim), self._widths, strict=True):
            copy.narrow(feature, 0, k).copy_(input.narrow(feature, 0, k))
            copy.narrow(feature, k, n - k).zero_()
        return copies.flatten(dim, dim + 1)


def _version(tensor: Tensor) -> int:
    """Counts what is written to a tensor; those of inference mode do not count."""
    return 0 if tensor.is_inference() else tensor._version


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _grown(output: Any, plain: Any, copies: int) -> int | None:
    """Along which dim an output holds so many copies; None where it holds one."""
    if not isinstance(output, Tensor) or output.shape == plain.shape:
        return None
    if output.dim() == plain.dim():
        dims = [dim for dim in range(output.dim()) if output.shape[dim] != plain.shape[dim]]
        if len(dims) == 1 and output.shape[dims[0]] == copies * plain.shape[dims[0]]:
            return dims[0]
    raise RuntimeError(f"{copies} copies make the output {tuple(output.shape)} from {tuple(plain.shape)}")
