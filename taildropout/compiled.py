"""1/λ and the positions of the features as tensors, which compiled code reads instead of p."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .dims import positions
from .distribution import rate


class CompiledConstants:
    """Tensors with 1/λ and the positions 1 … n for one p, cached for each number of features n and each device.

    1/λ is a tensor and compiled code does not read `p`, so that a new p needs no recompilation. The tensors are not buffers, so
    that the state_dict of a layer stays empty.

    Args:
        p: drop probability, already checked.
    """

    def __init__(self, p: float) -> None:
        self.p = p
        self.kept: dict[tuple[int, torch.device], tuple[Tensor, Tensor | None]] = {}

    def prepare(self, n: int, device: torch.device) -> None:
        """Fill `kept[n, device]` with 1/λ and the positions (None on a GPU). Not traceable, because this solves for λ."""
        if (n, device) not in self.kept:
            # Compiled C++ loads positions faster than it counts them; on a GPU counting is faster.
            one_to_n = positions(n, 0, 1, device) if device.type == "cpu" else None
            self.kept[n, device] = self._scale(n, device), one_to_n

    def for_p(self, p: float) -> CompiledConstants:
        """Return the constants of another p, for the same n and devices."""
        new = CompiledConstants(p)
        new.kept = {key: (new._scale(*key), one_to_n) for key, (_, one_to_n) in self.kept.items()}
        return new

    def _scale(self, n: int, device: torch.device) -> Tensor:
        scale = 1 / rate(self.p, n) if self.p else float("inf")
        return torch.tensor(scale, dtype=torch.float32, device=device)

    def __getstate__(self) -> dict[str, Any]:
        return {"p": self.p, "kept": {}}  # a copy may be used on other devices
