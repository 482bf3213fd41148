"""Prepare and check a case that is the layer alone."""

from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch

from .building import build_layer, compiled, feature
from .case import DTYPES, ORIGINAL, Case, WrongResult

CALLS_BEFORE_TIMING = 3  # compiles, and lets CUDA graphs record and replay


def make(case: Case, package: ModuleType | None) -> Callable[[], Any]:
    """Prepare and check a case that is the layer alone; see `prepare.make`."""
    run, x, gradient = prepare(case, package)
    for _ in range(CALLS_BEFORE_TIMING):
        result = run()
    check(case, x, gradient, result)
    return run


def prepare(case: Case, package: ModuleType | None) -> tuple[Callable[[], Any], torch.Tensor, torch.Tensor]:
    """Return a callable that does the work once, the input, and the gradient of the output. Nothing is compiled yet."""
    layer = build_layer(case, package).to(case.device)
    layer.train(case.direction != "eval")
    if case.direction == "set_k" and case.layer == "TailDropout":
        feature(layer, "set_k")(case.n // 3)
    call = compiled(case, layer)
    x, gradient = inputs(case.shape, DTYPES[case.dtype], case.device)
    torch.manual_seed(0)  # `inputs` seeds only when it makes new tensors
    leaf = x.detach().requires_grad_()
    run = train(call, leaf, gradient) if case.direction == "train" else lambda: call(x)
    return run, x, gradient


def train(call: Callable[..., Any], x: torch.Tensor, gradient: torch.Tensor) -> Callable[[], Any]:
    """Return a callable for forward and backward that accumulates no gradients, so that only the layer's work is timed."""

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        output = call(x)
        return output, torch.autograd.grad(output, x, gradient)[0]

    return run


@lru_cache(maxsize=1)
def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an input and a gradient of the output: Gaussian numbers without zeros, so a 0 in the output is a dropped feature.

    All layers of a measurement share them, because a tensor's place in memory changes the time of a call by some percent.
    """
    torch.manual_seed(0)
    drawn = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
    x, gradient = (torch.where(each == 0, torch.ones_like(each), each) for each in drawn)
    return x, gradient


def check(case: Case, x: torch.Tensor, gradient: torch.Tensor, result: Any) -> None:
    """Raise WrongResult unless `result` is a correct output of the layer for `x`."""
    output, grad = result if case.direction == "train" else (result, None)
    if output.shape != x.shape or output.dtype != x.dtype:
        raise WrongResult(
            f"{case.name}: the output is {tuple(output.shape)} {output.dtype}, the input {tuple(x.shape)} {x.dtype}"
        )
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
    """Check that the output is 0 or bitwise `x`, that kept features are a prefix, and that k is right for the direction."""
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
    """Check that along the last dimension no kept feature follows a dropped one."""
    require(not bool((~kept[..., :-1] & kept[..., 1:]).any()), case, "the kept features are no prefix")


def check_draws(case: Case, k: torch.Tensor) -> None:
    """Check the numbers of kept features: one k per sample, not the same for all, with about the mean of the law.

    `k` has all dims of the input but `dropout_dim`.
    """
    batch = (case.batch_dim,) if isinstance(case.batch_dim, int) else case.batch_dim
    features = case.dropout_dim % len(case.shape)
    shared = [d - (d > features) for d in range(len(case.shape)) if d != features and d not in batch]
    if shared:
        require(torch.equal(k.amin(shared), k.amax(shared)), case, "k differs within a sample")
        k = k.amin(shared)
    dropped = 1 - k.double().mean().item() / case.n
    # K / n lies in [0, 1], so its variance is at most p (1 - p); six standard deviations are never exceeded by chance.
    slack = 6 * (case.p * (1 - case.p) / k.numel()) ** 0.5
    require(abs(dropped - case.p) <= slack, case, f"drops {dropped:.4f} of the features instead of {case.p}")
    if case.p == 0.5:  # eight samples are equal by chance once in 1e5 draws; seeds are fixed
        require(bool((k != k.flatten()[0]).any()), case, "all samples share one k")


def require(condition: bool, case: Case, message: str) -> None:
    """Raise WrongResult with the case's name unless `condition` holds."""
    if not condition:
        raise WrongResult(f"{case.name}, {case.layer}: {message}")
