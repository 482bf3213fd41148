"""Cut, the removal of features from one module or parameter; PruningError, raised if a network cannot be cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn


class PruningError(ValueError):
    """Raised if a network cannot be cut without changing what it computes, or if that cannot be checked."""


@dataclass(frozen=True)
class Cut:
    """The features to remove from one module or parameter of a network.

    Attributes:
        name: the name of the module or parameter.
        features: the indices to remove.
        handler: the function that removes features, called with the module or parameter and the indices.
        dim: the dim of features; used for a parameter only.
        reads: True for features of the module's input, False for features of its output.
    """

    name: str
    features: tuple[int, ...]
    handler: Callable[[Any, list[int]], Any]
    dim: int
    reads: bool

    def apply(self, network: nn.Module) -> None:
        """Remove the features from `network`, in place; frozen parameters stay frozen.

        Raises:
            PruningError: if the weight is computed from other parameters.
        """
        parent, _, child = self.name.rpartition(".")
        owner = network.get_submodule(parent)
        target = getattr(owner, child) if child else owner
        if isinstance(target, nn.Parameter):
            self.handler.__self__.pruning_dim = self.dim  # type: ignore[attr-defined]
            setattr(owner, child, self.handler(target, list(self.features)).requires_grad_(target.requires_grad))
            return
        if isinstance(getattr(target, "weight", None), Tensor) and "weight" not in target._parameters:
            raise PruningError(
                f"the weight of {self.name!r} is computed from other parameters; fold it first "
                "(torch.nn.utils.parametrize.remove_parametrizations, or torch.nn.utils.remove_weight_norm)"
            )
        frozen = [name for name, parameter in target.named_parameters() if not parameter.requires_grad]
        self.handler(target, list(self.features))
        for name in frozen:
            target.get_parameter(name).requires_grad_(False)


def merge(cuts: Iterable[Cut]) -> tuple[Cut, ...]:
    """Join all cuts of a module's input, and of its output, into one each: a first cut would shift the indices of a second."""
    merged: dict[tuple[Any, ...], Cut] = {}
    for cut in cuts:
        side = cut.name, cut.handler, cut.dim, cut.reads
        features = {*cut.features, *(merged[side].features if side in merged else ())}
        merged[side] = replace(cut, features=tuple(sorted(features)))
    return tuple(merged.values())
