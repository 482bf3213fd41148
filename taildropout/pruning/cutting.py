"""Cut a network: find the features that depend on a layer's tail, add their contribution to biases, and remove them.

The tail of a layer is its features beyond the first k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layer import TailDropout
from .cut import Cut, PruningError
from .kinds import CONVOLUTIONS, feature_dim, input_of, is_conv1d, is_product
from .slices import Slice, SlicedTailDropout, sliced


@dataclass(frozen=True)
class Plan:
    """How a network is cut: the cuts, the width of every layer by name, and the names of the layers that slice.

    A layer slices if its input keeps its size: it selects the first k features.
    """

    cuts: tuple[Cut, ...]
    widths: Mapping[str, int]
    sliced: frozenset[str]

    def kept(self) -> dict[str, list[int]]:
        """Return the indices of the features that each layer keeps, by name: less than its width if another layer cuts more."""
        gone = {name: {each for cut in self.cuts if cut.name == name for each in cut.features} for name in self.widths}
        return {name: [each for each in range(k) if each not in gone[name]] for name, k in self.widths.items()}


@contextmanager
def _reading(
    network: nn.Module, cuts: Sequence[Cut], see: Callable[[str, Tensor], None], stop_nan: bool = False
) -> Iterator[None]:
    """In a `with` block, call `see(name, input)` for every module whose input is cut; `input` is (positions, features).

    With `stop_nan`, modules whose output has other features than their input then read 0 in place of NaN.
    """
    handles = []

    def record(name: str, dim: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call `see`; return the arguments without NaN if the module must not read one, else None, which leaves them."""
        input = input_of(args, kwargs)
        if isinstance(input, Tensor) and input.dim() >= abs(dim) and input.numel():
            features = input.movedim(dim, -1)
            see(name, features.reshape(-1, features.shape[-1]))
            if stop_nan and (isinstance(module, nn.RNNBase) or (is_product(module) and getattr(module, "groups", 1) == 1)):
                stopped = input.masked_fill(input.isnan(), 0)
                args = tuple(stopped if each is input else each for each in args)
                return args, {key: stopped if each is input else each for key, each in kwargs.items()}
        return None

    modules = dict(network.named_modules())
    for name in {cut.name for cut in cuts if cut.reads} & modules.keys():
        dim = feature_dim(modules[name])
        if dim is not None:
            handles.append(modules[name].register_forward_pre_hook(partial(record, name, dim), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def reached(
    network: nn.Module, layer: str, k: int, cuts: Sequence[Cut], run: Callable[[nn.Module], object]
) -> dict[str, Tensor]:
    """Find the input features of each module that depend on the tail of `layer`, by filling the tail with NaN in a run.

    The graph shows which modules read the tail. Only a run shows at which indices, after a flattening or a permutation. The
    NaN ends at a module that reads the tail: what the module makes of the other features may be concatenated with them.

    Args:
        network: the network.
        layer: the name of a TailDropout.
        k: its width.
        cuts: the cuts that the graph proposes.
        run: runs the network.

    Returns:
        By module name, a bool tensor (features,): True where the feature depends on the tail.
    """
    marks: dict[str, Tensor] = {}

    def fill(module: TailDropout, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        first, rest = output.tensor_split([k], module.dropout_dim)
        return torch.cat([first, torch.full_like(rest, math.nan)], module.dropout_dim)

    def mark(name: str, read: Tensor) -> None:
        marks.setdefault(name, read.isnan().any(0))

    handle = network.get_submodule(layer).register_forward_hook(fill)
    try:
        with _reading(network, cuts, mark, stop_nan=True):
            run(network)
    finally:
        handle.remove()
    return marks


def located(modules: Mapping[str, str], cuts: Sequence[Cut], marks: Mapping[str, Tensor]) -> list[Cut]:
    """Return the cuts with their features replaced by the features marked, for modules with a mark.

    Args:
        modules: the type of each module, by its name.
        cuts: the cuts that the graph proposes.
        marks: the result of `reached`.

    Raises:
        PruningError: if all features that a module reads are marked.
    """
    found = []
    for cut in cuts:
        mark = marks.get(cut.name) if cut.reads else None
        if mark is None or not mark.any():
            found.append(cut)
        elif mark.all():
            raise PruningError(f"all that {cut.name!r} ({modules.get(cut.name)}) reads depends on the features to be dropped")
        else:
            found.append(replace(cut, features=tuple(mark.nonzero().flatten().tolist())))
    return found


class Constants:
    """The values of dropped features at the modules that read them: constants, not always 0, as f(0) of an activation f."""

    def __init__(self, network: nn.Module, cuts: Sequence[Cut]) -> None:
        self.network, self.cuts = network, cuts
        self.features = {cut.name: list(cut.features) for cut in cuts if cut.reads}
        self.read: dict[str, Tensor] = {}
        self.varying: set[str] = set()

    def recording(self) -> Any:
        """Return a context manager, inside of which a run of the network records the values."""
        return _reading(self.network, self.cuts, self._record)

    def _record(self, name: str, read: Tensor) -> None:
        if name in self.read:
            return
        dropped = read[:, self.features[name]]
        self.read[name] = dropped[0]
        slack = torch.finfo(read.dtype).eps ** 0.5  # vectorised and scalar code may differ in the last digit
        if not torch.allclose(dropped, dropped[0], rtol=slack, atol=0, equal_nan=True):
            self.varying.add(name)

    def added(self) -> dict[str, Tensor]:
        """Return the constants, (outputs,), that dropped features add to the outputs of modules, by module name.

        Raises:
            PruningError: if a contribution is not constant.
        """
        added = {}
        for name, constant in self.read.items():
            module: Any = self.network.get_submodule(name)
            if not is_product(module):
                continue
            which = _described(self.network, name)
            if isinstance(module, CONVOLUTIONS) and module.groups > 1:
                _check_convolution(module, which, constant)
                continue  # depthwise: a dropped channel stays apart from the others, until the next module reads it
            if name in self.varying:
                raise PruningError(f"at the indices of the dropped features, {which} reads values that did not pass the layer")
            if isinstance(module, CONVOLUTIONS):
                _check_convolution(module, which, constant)
            if constant.any():
                weight = module.weight.t() if is_conv1d(module) else module.weight
                weight = weight[:, self.features[name]]
                added[name] = weight.reshape(*weight.shape[:2], -1).sum(-1) @ constant
        return added


def _check_convolution(module: Any, which: str, constant: Tensor) -> None:
    """Raise PruningError if constant features do not add the same constant to a convolution's output at every position."""
    if 1 < module.groups < module.in_channels:
        raise PruningError(f"{which} has {module.groups} groups of features, each with outputs of its own")
    padded = module.padding_mode == "zeros" and (module.padding == "same" or any(module.padding))
    if module.groups == 1 and constant.any() and (module.transposed or padded):
        raise PruningError(
            f"{which} reads dropped features as a constant, {float(constant.abs().max()):.3g}, but not at its borders; use an "
            "activation with f(0) = 0"
        )


def _described(network: nn.Module, name: str) -> str:
    return f"{name!r} ({type(network.get_submodule(name)).__name__})"


def cut_down(network: nn.Module, plan: Plan, added: Mapping[str, Tensor], remove: bool = False) -> None:
    """Cut a network, in place, and add the contribution of dropped features to biases.

    Args:
        network: the network to cut.
        plan: the cuts, and the layers.
        added: the constant to add to the bias of each module, by name; a module without a bias gets one.
        remove: True to also remove the layers, False to keep them with their k features.
    """
    for cut in plan.cuts:
        cut.apply(network)
    for name, constant in added.items():
        consumer: Any = network.get_submodule(name)
        constant = constant.to(consumer.weight)
        if consumer.bias is None:
            consumer.bias = nn.Parameter(constant, requires_grad=consumer.weight.requires_grad)
        else:
            consumer.bias += constant
    for name in plan.widths:
        old = network.get_submodule(name)
        assert isinstance(old, TailDropout)
        old.set_k(None)
        new: nn.Module = old
        if remove:
            before = old.features if isinstance(old, SlicedTailDropout) else None
            width = plan.widths[name] if name in plan.sliced else before
            new = nn.Identity() if width is None else Slice(width, old.dropout_dim)
            new.training = old.training
        elif name in plan.sliced:
            new = sliced(old, plan.widths[name])
        put(network, old, new)


def put(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace the module `old` by `new` in every place of the network."""
    places: Collection[tuple[nn.Module, str]] = [
        (parent, name) for parent in network.modules() for name, child in parent._modules.items() if child is old
    ]
    for parent, name in places:
        setattr(parent, name, new)
