"""1/λ and the positions of the features as tensors, which compiled code reads instead of p."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from threading import Lock
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from ._torch import outside_of_modes
from .dims import positions
from .distribution import rate

Key = tuple[int, torch.device]


class CompiledConstants:
    """Tensors with 1/λ and the positions 1 … n for one p, cached for each number of features n and each device.

    1/λ is a tensor and compiled code does not read `p`, so that a new p needs no recompilation. The tensors are not buffers, so
    that the state_dict of a layer stays empty.

    Layers may share compiled code, as the blocks of a model do that are compiled one by one. That code fits only a layer that
    has the tensors that it reads. So what one layer prepares, all layers have, also those that are made later.

    Args:
        p: drop probability, already checked.
    """

    def __init__(self, p: float) -> None:
        self.p = p
        self.kept: dict[Key, tuple[Tensor, Tensor | None]] = {}
        if not torch.compiler.is_dynamo_compiling():
            with _sharing:
                _everyone.add(self)
                self._fill(_shared)

    def prepare(self, n: int, device: torch.device) -> None:
        """Fill `kept[n, device]` with 1/λ and the positions (None on a GPU). Not traceable, because this solves for λ."""
        key = n, device
        if key in self.kept:
            return
        with _sharing:
            with outside_of_modes():
                # Compiled C++ loads positions faster than it counts them; on a GPU counting is faster.
                new = {key: positions(n, 0, 1, device) if device.type == "cpu" else None}
            self._fill(new)
            if len(_shared) < _MOST and n <= _LARGEST:
                _shared.update(new)
                for other in _everyone:
                    other._fill(new)

    def for_p(self, p: float) -> CompiledConstants:
        """Return the constants of another p, for the same n and devices."""
        new = CompiledConstants(p)
        new._fill({key: one_to_n for key, (_, one_to_n) in self.kept.items()})
        return new

    def _fill(self, keys: Mapping[Key, Tensor | None]) -> None:
        missing = keys.keys() - self.kept.keys()
        with outside_of_modes() if missing and not torch.compiler.is_dynamo_compiling() else nullcontext():
            for n, device in missing:
                scale = 1 / rate(self.p, n) if self.p else float("inf")
                self.kept[n, device] = torch.tensor(scale, dtype=torch.float32, device=device), keys[n, device]

    def __getstate__(self) -> dict[str, Any]:
        return {"p": self.p}  # a copy may be used on other devices

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["p"])  # type: ignore[misc]


_sharing = Lock()
_everyone: WeakSet[CompiledConstants] = WeakSet()
_shared: dict[Key, Tensor | None] = {}  # with the positions
_MOST = 64  # keys that all have; a new p solves for λ at each of them
_LARGEST = 2**16  # n of which positions are held for good


def _forget_gpus() -> None:
    """In a forked process, which cannot use the GPUs of its parent, prepare nothing for them."""
    for key in [key for key in _shared if key[1].type != "cpu"]:
        del _shared[key]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_gpus)
