"""Check that the sizes in a pruned checkpoint fit each other, as far as that shows without running the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..insert import BEFORE
from ..layer import TailDropout
from .cut import PruningError
from .kinds import CHANNEL_NORMS, CONVOLUTIONS, is_conv1d

Shape = tuple[int, ...]
_PARTS = range(1, 5)  # a module may make the features in so many parts that are multiplied or compared, as a gated unit does


@dataclass(frozen=True)
class _Size:
    """A number of features of a module, in the model and in the checkpoint."""

    name: str
    kind: str  # "makes", "reads" or "holds"
    full: int
    small: int

    @property
    def gone(self) -> int:
        return self.full - self.small


def check_fit(
    model: nn.Module, shapes: Mapping[str, Mapping[str, tuple[Shape, Shape]]], slices: Mapping[str, int], given: bool
) -> None:
    """Check that what modules read is what others make or a layer selects, and that no output of the network is cut.

    The modules are compared by how many features are gone from each, as their order is not known: a concatenation and a
    flattening remove a sum of multiples. Nothing is checked if a module of an unknown type was cut, or if the model is one
    module.

    Args:
        model: the model at full size.
        shapes: the shapes in the model and in the checkpoint, by the names of modules and of their tensors.
        slices: how many features each layer that slices keeps, by its name.
        given: True if a user gave `slices`, False if the checkpoint did, where the layer may be read in part.

    Raises:
        PruningError: if the sizes contradict each other.
    """
    sizes: list[_Size] = []
    for name, tensors in shapes.items():
        found = list(_sizes(name, model.get_submodule(name), tensors))
        changed = any(full != small for full, small in tensors.values())
        if changed and (not name or not found):
            return
        sizes += found
    made, read = ({size for size in sizes if size.kind == kind and size.gone} for kind in ("makes", "reads"))
    widths = {size.full for size in sizes}
    selected = {name: {full - k for full in widths if full > k} for name, k in slices.items()}
    steps = {size.gone for size in made}.union(*selected.values())
    for name, k in (slices if given else {}).items():
        if not any(_is_sum(size.gone - step, steps) for size in read for step in selected[name]):
            raise PruningError(f"{name!r} keeps {k} features by `slices`, and no module of the checkpoint reads so few")
    for size in sizes:
        if size.kind != "makes" and size.gone and not _is_sum(size.gone, steps) and not _is_part(size, made):
            raise PruningError(
                f"{size.name!r} {size.kind} {size.small} of {size.full} features in the checkpoint, and no module makes "
                f"{size.small}; if a layer of the pruned network slices, give its width: slices={{name: number of features}}"
            )
    open_to_sums = [each for each in read if not any(_is_multiple(each, size) for size in made)]
    for size in made:
        used = any(_is_multiple(each, size) or _is_part(each, {size}) for each in read)
        used = used or any(_is_sum(each.gone - size.gone, steps) for each in open_to_sums)
        if not used and _stands_behind_layers(model, size.name):
            raise PruningError(
                f"{size.name!r} makes {size.small} of {size.full} features in the checkpoint, and no module reads so few: an "
                "output of the network would be cut, which prune never does"
            )


def _sizes(name: str, module: nn.Module, shapes: Mapping[str, tuple[Shape, Shape]]) -> Iterator[_Size]:
    """Yield the numbers of features of a module of a known type."""
    weight: Any = shapes.get("weight")
    if isinstance(module, nn.RNNBase):
        full, small = shapes.get("weight_ih_l0", ((0, 0), (0, 0)))
        yield _Size(name, "reads", full[1], small[1])
    elif isinstance(module, (*CHANNEL_NORMS, nn.GroupNorm, nn.LayerNorm, nn.PReLU)):
        full, small = next((each for key, each in shapes.items() if key != "num_batches_tracked"), ((0,), (0,)))
        yield _Size(name, "holds", full[-1], small[-1])
    elif weight is None:
        return  # it is computed from other parameters
    elif isinstance(module, nn.Embedding):
        yield _Size(name, "makes", weight[0][1], weight[1][1])
    elif isinstance(module, CONVOLUTIONS) and module.groups > 1:
        yield _Size(name, "holds", weight[0][0], weight[1][0])
    elif isinstance(module, (nn.Linear, *CONVOLUTIONS)) or is_conv1d(module):
        turned = is_conv1d(module) or getattr(module, "transposed", False)
        outputs, inputs = (1, 0) if turned else (0, 1)
        yield _Size(name, "makes", weight[0][outputs], weight[1][outputs])
        yield _Size(name, "reads", weight[0][inputs], weight[1][inputs])


def _is_sum(number: int, steps: set[int]) -> bool:
    """Return True if `number` is 0 or a sum of multiples of `steps`."""
    reached = {0}
    waiting = [0]
    while waiting and number > 0:
        here = waiting.pop()
        fresh = {here + step for step in steps if here + step <= number} - reached
        reached |= fresh
        waiting += fresh
    return number in reached


def _is_multiple(size: _Size, of: _Size) -> bool:
    """Return True if `size` is that of `of` after a flattening, both in the model and in the checkpoint."""
    return size.full % of.full == 0 and size.full // of.full * of.small == size.small


def _is_part(size: _Size, made: set[_Size]) -> bool:
    return any(size.gone * parts == each.gone for each in made for parts in _PARTS)


def _stands_behind_layers(model: nn.Module, name: str) -> bool:
    """Return True if the model has TailDropouts, and all of them are registered before the module `name`."""
    names = [each for each, _ in model.named_modules()]
    layers = [each for each, module in model.named_modules() if isinstance(module, TailDropout)]
    places = [names.index(each.removesuffix(f".{BEFORE}")) - each.endswith(f".{BEFORE}") / 2 for each in layers]
    return bool(places) and max(places) < names.index(name)
