"""Probes: runs in which two networks get the same made-up features at their layers, so that what mixes features shows.

Example inputs seldom reach the values at which zeros of the tail matter: the largest feature is hardly ever negative, and a
mean seldom crosses a threshold. Two things help. The features kept are replaced by values of all signs and sizes. And numbers
on which a network takes a decision (both sides of a comparison, what is rounded, `item()`) are compared like outputs, since a
decision turns a small difference into none or into a large one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._torch import transforms_active, tree_leaves, without_compiler
from ..layer import TailDropout
from .kinds import input_of

RUNS = 2  # probes for each set of weights
_SEED = 0
_SMALLEST = 1e-3  # the least size of made-up values, as a multiple of the largest value seen at the layer
_LARGEST = (1.0, 10.0)  # the greatest, in even and in odd probes: large values would hide what small ones change
_COMPARISONS = frozenset(
    ("eq", "ne", "lt", "le", "gt", "ge", "less", "greater", "less_equal", "greater_equal", "not_equal", "isclose", "isin")
)
_STEPS = frozenset(("sign", "sgn", "floor", "ceil", "round", "trunc", "fix", "heaviside", "floor_divide", "hardshrink"))
_TO_PYTHON = frozenset(("item", "bool", "float", "int", "index", "tolist", "numpy", "equal", "allclose", "is_nonzero"))
_CHECKS = frozenset(("isnan", "isinf", "isfinite", "isposinf", "isneginf"))  # of numbers that overflow or do not
# Parts of names of functions that mix features; others that differ may only pass on a difference, such as that of a size.
_MIXING = (
    *("softmax", "norm", "mean", "sum", "dot", "cum", "sort", "topk", "prod", "var", "std", "median", "quantile", "mode"),
    *("max", "min", "any", "all", "unique", "nonzero", "count", "cdist", "attention", "pool"),
)
_MOST_CALLS = 2000  # how many calls are searched for the one that mixes features


class _Call(NamedTuple):
    """A call of a torch function: its name, and the shape and two sums of its output."""

    name: str
    shape: tuple[int, ...]
    sums: tuple[float, float]


@dataclass
class Seen:
    """What a probe saw: the outputs, the numbers of each decision with the function that takes it, and all calls."""

    outputs: list[Any] = field(default_factory=list)
    decisions: list[tuple[str, list[Tensor]]] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)


class _Watch(TorchFunctionMode):
    """Record into `seen` the calls of torch functions after a first layer, but none inside of a layer."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen, self.after = seen, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.after or transforms_active():  # inside of vmap tensors have no numbers to look at
            return func(*args, **kwargs)
        name = str(getattr(func, "__name__", "")).strip("_")
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        known = name in _COMPARISONS | _STEPS | _TO_PYTHON and not _asks_if_finite(args)
        numbers = [each.clone() for each in given] if known else []
        output = func(*args, **kwargs)
        made = [each for each in tree_leaves(output) if isinstance(each, Tensor)]
        if not known and name not in _CHECKS | _COMPARISONS and any(map(_is_float, given)) and not all(map(_is_float, made)):
            numbers = [each.clone() for each in given if _is_float(each)]
        if numbers:
            self.seen.decisions.append((name, numbers))
        if len(self.seen.calls) < _MOST_CALLS:
            self.seen.calls += [_Call(name, tuple(each.shape), _sums(each)) for each in made if type(each) is Tensor]
        return output


def _asks_if_finite(args: tuple[Any, ...]) -> bool:
    """Return True for a comparison of a tensor with itself or with infinity."""
    if len(args) < 2:
        return False
    return args[0] is args[1] or (isinstance(args[1], float) and not math.isfinite(args[1]))


def _is_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _sums(tensor: Tensor) -> tuple[float, float]:
    if not tensor.numel() or tensor.is_complex():
        return 0.0, 0.0
    double = tensor.double()
    return float(double.sum()), float(double.abs().sum())


class Probes:
    """Made-up features for the layers of one network and of the network cut from it.

    Args:
        kept: the indices of the features that each layer keeps, by the layer's name.
    """

    def __init__(self, kept: Mapping[str, Sequence[int]]) -> None:
        self.kept = kept
        self._ranges: dict[str, tuple[float, float]] = {}

    @contextmanager
    def observing(self, network: nn.Module) -> Iterator[None]:
        """In a `with` block, note the least and the greatest value that enter each layer."""

        def note(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            input = input_of(args, kwargs)
            if type(input) is Tensor and input.is_floating_point() and input.numel():
                least, greatest = (float(each) for each in input.detach().aminmax())
                before = self._ranges.get(name, (least, greatest))
                if math.isfinite(least) and math.isfinite(greatest):
                    self._ranges[name] = min(least, before[0]), max(greatest, before[1])

        handles = [
            network.get_submodule(name).register_forward_pre_hook(partial(note, name), with_kwargs=True) for name in self.kept
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def run(self, network: nn.Module, number: int, run: Callable[[nn.Module], list[Any]]) -> Seen:
        """Run a network with the made-up features of probe `number`, the same in every network, and return what was seen."""
        seen, calls, handles = Seen(), dict.fromkeys(self.kept, 0), []
        watch = _Watch(seen)

        def enter(module: nn.Module, args: Any) -> None:
            watch.after = False

        def leave(name: str) -> Callable[..., Tensor]:
            """Return the hook of the layer `name`: replace its output by the made-up features."""

            def replaced(module: TailDropout, args: Any, output: Tensor) -> Tensor:
                calls[name] += 1
                output = self._replaced(name, output, module.dropout_dim, (number, calls[name]))
                watch.after = True
                return output

            return replaced

        for name in self.kept:
            layer = network.get_submodule(name)
            handles += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave(name))]
        try:
            with without_compiler(), watch:
                seen.outputs = run(network)
        finally:
            for handle in handles:
                handle.remove()
        return seen

    def _replaced(self, name: str, output: Tensor, dim: int, which: tuple[int, int]) -> Tensor:
        """Return a layer's output with the features kept replaced by the made-up ones of the probe and call `which`."""
        if name not in self._ranges or type(output) is not Tensor or not output.is_floating_point():
            return output
        kept, place = self.kept[name], list(self.kept).index(name)
        features = output.movedim(dim, -1).clone()
        generator = torch.Generator("cpu").manual_seed(_SEED + 1_000_000 * place + 1_000 * which[1] + which[0])
        values = _made_up((*features.shape[:-1], len(kept)), *self._ranges[name], which[0], generator).to(features)
        if features.shape[-1] == len(kept):  # the network is cut
            return values.movedim(-1, dim)
        features[..., torch.tensor(kept, device=features.device)] = values
        return features.movedim(-1, dim)


def _made_up(shape: tuple[int, ...], least: float, greatest: float, number: int, generator: torch.Generator) -> Tensor:
    """Return features, (*, k), of one sign in some rows and of both in others, of all sizes, some of them equal.

    Where all values seen had one sign, all have it: what follows a ReLU may rely on it.
    """
    rows, k = math.prod(shape[:-1]), shape[-1]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")

    row = torch.arange(rows, device="cpu")[:, None] + number // len(_LARGEST)
    least_spread = torch.where(uniform(rows, 1) < 0.5, 0.0, 0.9)  # a large spread, or all features of about one size
    sizes = least_spread + (1 - least_spread) * (1 - uniform(rows, k))
    sizes = torch.where(uniform(rows, 1) < 0.2, (3 * sizes).ceil() / 3, sizes)  # ties
    if least < 0 < greatest:
        both = torch.where(uniform(rows, k) < 0.5, -1.0, 1.0)
        sign = torch.where(row % 3 == 0, -1.0, torch.where(row % 3 == 1, 1.0, both))
    else:
        sign = torch.where((uniform(rows, k) < 0.3) & (least * greatest == 0), 0.0, math.copysign(1.0, least + greatest))
    span = math.log10(_LARGEST[number % len(_LARGEST)] / _SMALLEST)
    power = torch.where(uniform(rows, 1) < 0.5, 1.0, uniform(rows, 1))  # half of them large: thresholds may lie far out
    scale = (max(abs(least), abs(greatest)) or 1.0) * _SMALLEST * 10 ** (span * power)
    return (sign * scale * sizes).reshape(shape)


def mixing(theirs: Seen, ours: Seen) -> str | None:
    """Name the first function whose output has the same shape in both networks and differs; return None if none does."""
    before, after = ([call.name for call in seen.calls] for seen in (theirs, ours))
    for block in SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks():
        for place in range(block.size):
            a, b = theirs.calls[block.a + place], ours.calls[block.b + place]
            if a.shape == b.shape and not all(math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-12) for x, y in _pairs(a, b)):
                return (
                    f"{a.name!r} mixes features" if any(each in a.name for each in _MIXING) else f"seen first after {a.name!r}"
                )
    return None


def _pairs(a: _Call, b: _Call) -> Iterator[tuple[float, float]]:
    return ((x, y) for x, y in zip(a.sums, b.sums, strict=True) if not (x != x and y != y))
