"""Prepares and checks a case that is the layer alone."""

from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch

from .building import build_layer, compiled, feature
from .case import DTYPES, ORIGINAL, Case, WrongResult

CALLS_BEFORE_TIMING = 3  # compiles, and lets CUDA graphs record and replay


def make(case: Case, package: ModuleType | None) -> Callable[[], Any]:
    """See `prepare.make`."""
    run, x, gradient = prepare(case, package)
    for _ in range(CALLS_BEFORE_TIMING):
        result = run()
    check(case, x, gradient, result)
    return run


def prepare(case: Case, package: ModuleType | None) -> tuple[Callable[[], Any], torch.Tensor, torch.Tensor]:
    """What does the work once, not yet called, so not yet compiled; with its input and gradient."""
    layer = build_layer(case, package).to(case.device)
    layer.train(case.direction != "eval")
    if case.direction == "set_k" and case.layer == "TailDropout":
        feature(layer, "set_k")(case.n // 3)
    call = compiled(case, layer)
    x, gradient = inputs(case.shape, DTYPES[case.dtype], case.device)
    torch.manual_seed(0)  # the inputs may have been there
    leaf = x.detach().requires_grad_()
    run = train(call, leaf, gradient) if case.direction == "train" else lambda: call(x)
    return run, x, gradient


def train(call: Callable[..., Any], x: torch.Tensor, gradient: torch.Tensor) -> Callable[[], Any]:
    """Forward and backward without a place where gradients add up, so that every layer pays for its own work only."""

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        output = call(x)
        return output, torch.autograd.grad(output, x, gradient)[0]

    return run


@lru_cache(maxsize=1)
def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Input and gradient: Gaussian numbers without a zero, so that a zero in the output is a dropped feature.

    What is measured side by side shares them: where a tensor lies in memory changes the time of a call by some percent.
    """
    torch.manual_seed(0)
    drawn = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
    x, gradient = (torch.where(each == 0, torch.ones_like(each), each) for each in drawn)
    return x, gradient


def check(case: Case, x: torch.Tensor, gradient: torch.Tensor, result: Any) -> None:
    """Raise WrongResult unless `result` is what the layer must give for `x`."""
    output, grad = result if case.direction == "train" else (result, None)
    if output.shape != x.shape or output.dtype != x.dtype:
        raise WrongResult(f"{case.name}: {tuple(output.shape)} {output.dtype} from {tuple(x.shape)} {x.dtype}")
    if case.layer in ("TailDropout", ORIGINAL):
        check_tail(case, x, output.detach())
        kept = output != 0
        if grad is not None and not torch.equal(grad, torch.where(kept, gradient, 0)):
            raise WrongResult(f"{case.name}: the gradient is not that of the kept features")
    elif case.layer == "copy" or case.direction == "eval":
        require(torch.equal(output, x), case, "the output is not the input")
    else:
        scaled = torch.where(output == 0, output, x / (1 - case.p))
        require(torch.allclose(output, scaled, rtol=2**-6), case, "the output is neither 0 nor x / (1 - p)")


def check_tail(case: Case, x: torch.Tensor, output: torch.Tensor) -> None:
    """The output is 0 or bitwise `x`, what is kept is a prefix, and each sample has a k of its own."""
    kept = (output != 0).movedim(case.dropout_dim, -1)
    require(torch.equal(output, torch.where(output != 0, x, 0)), case, "an output is neither 0 nor bitwise the input")
    check_prefix(kept, case)
    k = kept.sum(-1)
    if case.direction == "eval":
        require(bool((k == case.n).all()), case, "evaluation drops features")
    elif case.direction == "set_k":
        require(
            bool((k == case.n // 3).all()), case, f"set_k({case.n // 3}) keeps {sorted(set(k.flatten().tolist()))[:5]} features"
        )
    else:
        check_draws(case, k)


def check_prefix(kept: torch.Tensor, case: Case) -> None:
    """`kept` never rises along its last dimension."""
    require(not bool((~kept[..., :-1] & kept[..., 1:]).any()), case, "the kept features are no prefix")


def check_draws(case: Case, k: torch.Tensor) -> None:
    """`k`, all dimensions but the features', is one number per sample, drawn apart, with about the mean of the law."""
    batch = (case.batch_dim,) if isinstance(case.batch_dim, int) else case.batch_dim
    features = case.dropout_dim % len(case.shape)
    shared = [d - (d > features) for d in range(len(case.shape)) if d != features and d not in batch]
    if shared:
        require(torch.equal(k.amin(shared), k.amax(shared)), case, "k differs within a sample")
        k = k.amin(shared)
    dropped = 1 - k.double().mean().item() / case.n
    # K / n lies in [0, 1], so its variance is at most p (1 - p); six deviations are beyond any luck.
    slack = 6 * (case.p * (1 - case.p) / k.numel()) ** 0.5
    require(abs(dropped - case.p) <= slack, case, f"drops {dropped:.4f} of the features instead of {case.p}")
    if case.p == 0.5:  # eight samples agree by chance once in 1e5 draws, and seeds are fixed
        require(bool((k != k.flatten()[0]).any()), case, "all samples share one k")


def require(condition: bool, case: Case, message: str) -> None:
    """Raise WrongResult with the case's name unless `condition` holds."""
    if not condition:
        raise WrongResult(f"{case.name}, {case.layer}: {message}")
