"""What does TailMLP cost, compared with a block of the same modules that computes all features?"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from .cases import CASES, DTYPES, Case, NotAvailable, use_threads
from .cases.model import build
from .measure import interleave, ratios, saved_bytes
from .subject import package

FEEDFORWARD = tuple(name for name, case in CASES.items() if case.model == "feedforward" and case.mode == "eager")


class FeedForward:
    """How much time does TailMLP take over its modules in sequence, and how many bytes does it keep over no dropout?

    The bytes are those kept for backward. If TailMLP falls back to its modules, the ratio of times is 1.
    """

    params = (FEEDFORWARD,)
    param_names = ("case",)
    version = "1"
    unit = "ratio"

    def track_time_over_modules(self, case: str) -> dict[str, object]:
        model, modules, x = made(CASES[case])
        runs = {"TailDropout": step(model, x), "modules": step(modules, x)}
        figures = interleave(runs, device=CASES[case].device)
        return {"samples": ratios(figures, over="modules"), "number": 1}

    def track_saved_over_no_dropout(self, case: str) -> float:
        """Return a ratio of saved bytes. Weights and input do not count, because they stay in memory anyway."""
        model, modules, x = made(CASES[case])
        without = nn.Sequential(modules[0], modules[1], modules[3])
        kept, reference = (saved_bytes(partial(each, x), (x, *model.parameters())) for each in (model, without))
        return kept / reference


def made(case: Case) -> tuple[nn.Module, nn.Sequential, torch.Tensor]:
    """Return the case's TailMLP, the same modules in sequence, and an input. Raises NotAvailable without the case's device."""
    if case.device == "cuda" and not torch.cuda.is_available():
        raise NotAvailable("this machine has no CUDA device")
    use_threads(case)
    torch.manual_seed(0)
    model = build(case, package()).to(case.device, DTYPES[case.dtype])
    x = torch.randn(case.shape, device=case.device, dtype=DTYPES[case.dtype])
    return model, nn.Sequential(*model), x  # type: ignore[misc]


def step(model: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    """Return a callable that runs forward and backward and returns the gradients of the parameters."""
    weights = list(model.parameters())
    return lambda: torch.autograd.grad(model(x).float().square().mean(), weights)
