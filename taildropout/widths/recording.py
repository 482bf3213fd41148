"""The outputs of modules that finish before a layer is called: recorded in one forward, replayed in later ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .._torch import times_written
from ..trees import leaves_of


class Handler(Protocol):
    """A function called in place of the forward of a module; `forward` is the module's own forward."""

    def __call__(self, module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the module's output."""
        ...


class Interception:
    """In a `with` block, pass every call of a module of `model` to `handler`, or to the module itself if `handler` is None."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.handler: Handler | None = None
        self._forwards: list[tuple[nn.Module, Any]] = []  # the attributes to restore, None if not set

    def __enter__(self) -> Interception:
        for module in self.model.modules():
            self._forwards.append((module, module.__dict__.get("forward")))
            module.__dict__["forward"] = partial(self._call, module, module.forward)
        return self

    def __exit__(self, *error: object) -> None:
        for module, forward in self._forwards:
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = forward

    def _call(self, module: nn.Module, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self.handler is None else self.handler(module, forward, args, kwargs)


class DivergedError(RuntimeError):
    """Replaying the recorded outputs changed the layer's input, or a recorded tensor was modified in place."""


# Tolerance in machine epsilons: torch may round a sum differently for another number of samples.
_ROUNDINGS = 64


class Recording:
    """The calls, as (module, output), that ended before a layer was called, and the layer's input.

    A call made inside another recorded call is left out.
    """

    def __init__(self, calls: Sequence[tuple[nn.Module, Any]], input: Tensor) -> None:
        self.calls, self.input = tuple(calls), input
        self._tensors = [leaf for leaf in leaves_of([input, *(output for _, output in calls)]) if isinstance(leaf, Tensor)]
        self._written = [writes(tensor) for tensor in self._tensors]

    @property
    def outputs(self) -> list[Any]:
        """The outputs of the recorded calls."""
        return [output for _, output in self.calls]

    def check(self, input: Tensor, copies: int = 1, dim: int | None = None) -> None:
        """Raise DivergedError if `input` is not the recorded input, or if a recorded tensor was modified.

        With `dim`, `input` must be `copies` copies of the recorded input side by side along `dim`, up to rounding.
        """
        if [writes(tensor) for tensor in self._tensors] != self._written or input.dtype != self.input.dtype:
            raise DivergedError
        if dim is None:
            same = input is self.input or (input.shape == self.input.shape and torch.equal(input, self.input))
        else:
            single = self.input.unsqueeze(dim)
            slack = _ROUNDINGS * torch.finfo(input.dtype).eps * float(single.abs().max()) if single.numel() else 0.0
            same = torch.allclose(torch.unflatten(input, dim, (copies, -1)), single, rtol=0, atol=slack)
        if not same:
            raise DivergedError


class Recorder:
    """Record, during one forward, the calls that end before the first call of each of the layers."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self.recordings: dict[nn.Module, Recording] = {}
        self._waiting = set(layers)
        self._calls: list[tuple[nn.Module, Any]] = []

    def __call__(self, module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the module and record its output, in place of the outputs of calls inside it."""
        if module in self._waiting:
            self.reach(module, *args, **kwargs)
        start = len(self._calls)
        output = forward(*args, **kwargs)
        if self._waiting:
            self._calls[start:] = [(module, output)]
        return output

    def reach(self, layer: nn.Module, input: Tensor) -> None:
        """Keep the calls recorded so far, and `input`, as the recording of a layer that is about to be called."""
        self._waiting.remove(layer)
        self.recordings[layer] = Recording(self._calls, input)


class Player:
    """Return the recorded outputs in their order, instead of calling the modules.

    If `change` is given, `change(index of the call, recorded output)` is returned instead.
    """

    def __init__(self, recording: Recording, change: Callable[[int, Any], Any] | None = None) -> None:
        self._calls, self._change, self._next = recording.calls, change, 0

    def __call__(self, module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the recorded output if this module is that of the next recorded call; otherwise call the module."""
        number = self._next
        if number == len(self._calls) or self._calls[number][0] is not module:
            return forward(*args, **kwargs)
        self._next += 1
        output = self._calls[number][1]
        return output if self._change is None else self._change(number, output)


def writes(tensor: Tensor) -> object:
    """Return how many times a tensor was modified in place; 0 for an inference tensor, which does not count."""
    return 0 if tensor.is_inference() else times_written(tensor)
