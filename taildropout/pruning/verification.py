"""Check that two networks compute the same, for their own weights and inputs and for drawn ones, as equality may be luck."""

from __future__ import annotations

import cmath
import copy
import gc
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import tree_leaves, tree_map_only
from ..layer import TailDropout
from ..trees import leaves_of
from .cut import PruningError

Inputs = tuple[Any, ...] | dict[str, Any]

_TRIALS = 2  # how many further sets of weights a plan must prove right with
_SEED = 0  # the draws below are the same every time, and take nothing from the global generator
_CHUNK = 2**20  # how many weights are drawn at once, so that drawing needs little memory
_PLAIN = float | complex | int | str | None  # the types of outputs that are compared, beside tensors
_WORTH_COLLECTING = 2**24  # bytes; collecting garbage takes some 200 ms in a process with a million objects


def _own(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else copy.deepcopy(leaf)


def run(network: nn.Module, inputs: Inputs) -> list[Any]:
    """Return the leaves of the network's outputs. The network gets a copy of the inputs, since it may modify them (a cache)."""
    inputs = tree_map_only(object, _own, inputs)
    return leaves_of(network(**inputs) if isinstance(inputs, dict) else network(*inputs))


def evaluating(model: nn.Module) -> nn.Module:
    """Return a copy of a model in evaluation mode; not by `eval()`, which models may override and which resets k.

    Raises:
        PruningError: if the model cannot be copied.
    """
    try:
        network = copy.deepcopy(model)
    except RuntimeError as error:
        computed = [
            f"{name}.{key}".lstrip(".")
            for name, module in model.named_modules()
            for key, value in vars(module).items()
            if isinstance(value, Tensor) and value.grad_fn is not None
        ]
        raise PruningError(
            f"the model cannot be copied ({error})"
            + (f"; {computed[0]!r} is computed from other parameters: fold it first (remove_weight_norm)" if computed else "")
        ) from error
    for module in network.modules():
        module.training = False
    return network


class Copies:
    """Copies of a model in evaluation mode, of which only one is in memory at a time."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._before: list[weakref.ref[Any]] = []

    def another(self) -> nn.Module:
        """Return a new copy; first free the last one, to which the caller must not refer any more."""
        self.free()
        network = evaluating(self.model)
        self._before = references_to(network)
        return network

    def free(self) -> None:
        """Free the last copy."""
        free(self._before)


def references_to(network: nn.Module) -> list[weakref.ref[Any]]:
    """Return weak references to the weights of a network, for `free`."""
    return [weakref.ref(parameter) for parameter in network.parameters()]


def free(references: Sequence[weakref.ref[Any]]) -> None:
    """Collect garbage if much memory is still in use: modules that refer to each other in a cycle stay alive until then."""
    if sum(parameter.nbytes for reference in references if (parameter := reference()) is not None) >= _WORTH_COLLECTING:
        gc.collect()


def set_widths(network: nn.Module, widths: Mapping[str, int | None]) -> None:
    """Set k on the named TailDropouts of a copy; None for all features."""
    for name, k in widths.items():
        layer = network.get_submodule(name)
        assert isinstance(layer, TailDropout)
        layer.set_k(k)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, dtype=torch.float32, device="cpu", generator=generator).to(like)


def other_inputs(inputs: Inputs) -> Inputs:
    """Return inputs with floats drawn uniformly between each tensor's least and largest element; keep other tensors."""
    generator = torch.Generator("cpu").manual_seed(_SEED)

    def draw(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or not tensor.numel() or not tensor.isfinite().all():
            return tensor
        least, largest = tensor.aminmax()
        return least + _uniform(tensor, generator) * torch.where(least == largest, 1, largest - least)

    drawn: Inputs = tree_map_only(Tensor, draw, inputs)
    return drawn


def _draw_weights(network: nn.Module, trial: int) -> None:
    """Change the weights and running statistics of a network at random, in place, so that none is 0 or equal to another.

    Each is multiplied by 0.5 to 1.5, and a fifth of its tensor's root mean square is added at most: variances stay positive.
    """
    generator = torch.Generator("cpu").manual_seed(_SEED + trial)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        learned = isinstance(tensor, nn.Parameter) or name.rpartition(".")[2] in ("running_mean", "running_var")
        if learned and tensor.is_floating_point() and tensor.numel():
            size = torch.linalg.vector_norm(tensor) / tensor.numel() ** 0.5
            size = torch.where(size == 0, 1, size) / 5
            rows = max(1, _CHUNK // max(1, tensor[:1].numel())) if tensor.dim() else 1
            for chunk in torch.split(tensor, rows) if tensor.dim() else (tensor,):
                noise = _uniform(chunk, generator).mul_(size)
                chunk.mul_(_uniform(chunk, generator).add_(0.5)).add_(noise)


def rounding(network: nn.Module, inputs: Inputs) -> float:
    """Return the largest machine epsilon among the dtypes of weights, buffers and inputs; 0 if none is floating."""
    every = [*network.parameters(), *network.buffers(), *tree_leaves(inputs)]
    floats = [each for each in every if isinstance(each, Tensor) and each.is_floating_point()]
    return max((torch.finfo(each.dtype).eps for each in floats), default=0.0)


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


class Trials:
    """Copies of a network in float64, one at a time: the first with its own weights and inputs, the others with drawn ones.

    In float64, rounding errors are too small to hide a wrong cut. A network that does not run in float64 keeps its own dtype.
    """

    def __init__(self, copies: Copies, inputs: Inputs) -> None:
        """Find out whether the network runs in float64.

        Raises:
            PruningError: if the network does not run in float64 and is less precise than float32, or if two runs differ.
        """
        self.copies, self.inputs = copies, inputs
        self.double = True
        network, inputs = self._first()
        try:
            first = run(network, inputs)
        except Exception as error:  # a dtype that does not fit may raise any type
            self.double = False
            del network
            network, inputs = self._first()
            if rounding(network, inputs) > torch.finfo(torch.float32).eps:
                raise PruningError(
                    "the network does not run in float64, and its own precision is too low to tell a wrong cut from rounding; "
                    "prune model.float(), or let the network follow the dtype of its weights"
                ) from error
            first = run(network, inputs)
        if found := difference(first, run(network, inputs), rounding(network, inputs)):
            raise PruningError(
                f"the network gives other outputs at every call: {found}; make it deterministic in evaluation mode"
            )

    def _first(self) -> tuple[nn.Module, Inputs]:
        network, inputs = self.copies.another(), self.inputs
        if self.double:
            network, inputs = network.double(), tree_map_only(Tensor, _double, inputs)
        return network, inputs

    def __iter__(self) -> Iterator[tuple[nn.Module, Inputs]]:
        for trial in range(1 + _TRIALS):
            network, inputs = self._first()
            if trial:
                _draw_weights(network, trial - 1)
                inputs = other_inputs(inputs)
            yield network, inputs
            del network


@contextmanager
def sizes_given(network: nn.Module, names: Mapping[str, Any], sizes: dict[str, int]) -> Iterator[None]:
    """In a `with` block, record in `sizes` how many features the named layers return; ignore outputs without elements.

    Raises:
        PruningError: if a layer returns different numbers of features.
    """

    def record(name: str, module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
        size = output.shape[module.dropout_dim]
        if output.numel() and sizes.setdefault(name, size) != size:
            several = sorted({size, sizes[name]})
            raise PruningError(f"{name!r} is called with {several} features; give each call a TailDropout of its own")

    layers: list[Any] = [network.get_submodule(name) for name in names]
    hooks: list[Callable[..., None]] = [partial(record, name) for name in names]
    handles = [layer.register_forward_hook(hook) for layer, hook in zip(layers, hooks, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _close(a: object, b: object, eps: float) -> bool:
    """Return True if two Python values are equal but for rounding. NaN equals NaN."""
    if isinstance(a, float | complex) and isinstance(b, float | complex):
        if cmath.isnan(a) or cmath.isnan(b):
            return cmath.isnan(a) and cmath.isnan(b)
        return cmath.isclose(a, b, rel_tol=max(eps, sys.float_info.epsilon) ** 0.5)
    return a == b


def difference(theirs: Sequence[Any], ours: Sequence[Any], eps: float) -> str | None:
    """Describe how two lists of outputs differ by more than rounding; return None if they do not.

    A difference counts as rounding up to √eps times the largest element of a tensor, or times a Python float, with the larger
    of `eps` and the machine epsilon of the dtype. A sum of m terms in another order is off by m·eps at most, which in float64
    leaves room for networks that amplify the error a thousandfold. The contribution of a feature, with drawn weights, is larger
    by orders of magnitude.
    """
    if len(theirs) != len(ours):
        return f"{len(theirs)} outputs became {len(ours)}"
    for a, b in zip(theirs, ours, strict=True):
        if isinstance(a, Tensor) != isinstance(b, Tensor):
            return f"an output of type {type(a).__name__} became one of type {type(b).__name__}"
        if not isinstance(a, Tensor):
            if isinstance(a, _PLAIN) and not _close(a, b, eps):
                return f"an output {a!r} became {b!r}"
            continue
        if a.shape != b.shape:
            return f"an output of shape {tuple(a.shape)} became {tuple(b.shape)}"
        if not (a.is_floating_point() or a.is_complex()):
            if not torch.equal(a, b):
                return f"an output of dtype {a.dtype} changed"
            continue
        finite = a[a.isfinite()].abs()
        size = float(finite.max()) if finite.numel() else 0.0
        if not torch.allclose(a, b, rtol=0, atol=size * max(eps, torch.finfo(a.dtype).eps) ** 0.5, equal_nan=True):
            return f"an output of size {size:.3g} changed by {float((a - b).abs().max()):.3g}"
    return None
