"""How long do other dropout layers take, compared with TailDropout and nn.Dropout on the same work?"""

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import nn

from .cases import Case, build_layer, feature, use_threads
from .cases.layer import CALLS_BEFORE_TIMING, check_prefix, inputs, require
from .measure import interleave, ratios
from .subject import package

NAMES = (
    "DropConnectLinear",
    "InvertedDropout",
    "LearnedDropout",
    "NestedDropout-uniform",
    "NestedDropout-log_uniform",
    "NestedDropout-geometric",
    "NestedDropout-power_of_two",
    "NestedDropout-censored_geometric",
    "StochasticReLU",
)
RIVALS = ("nn.Dropout", "TailDropout")
SEQUENCES, POSITIONS, FEATURES, HEADS = 16, 64, 512, 8  # as many elements as 1024x512
OPTIONS: dict[str, dict[str, Any]] = {"geometric": {"ratio": 0.99}, "censored_geometric": {"p": 0.5}}


class Ratio:
    """How many times as long as nn.Dropout, and as TailDropout, does another layer take for forward and backward?

    A rival does the same work: a Linear follows it for DropConnectLinear, a ReLU precedes it for StochasticReLU.
    """

    params = (NAMES,)
    param_names = ("layer",)
    version = "1"
    unit = "ratio"

    def track_over_nn_dropout(self, layer: str) -> dict[str, object]:
        return paired(layer, "nn.Dropout")

    def track_over_tail_dropout(self, layer: str) -> dict[str, object]:
        return paired(layer, "TailDropout")


def paired(name: str, rival: str) -> dict[str, object]:
    """Return the paired ratios of the baseline's time to the rival's, in a form of which asv takes median and quartiles."""
    runs = {layer: prepared(name, layer) for layer in (name, rival)}
    return {"samples": ratios(interleave(runs), over=rival, of=name), "number": 1}


@cache
def prepared(name: str, layer: str) -> Callable[[], Any]:
    """Return the result of `make` with the installed package, made once per process."""
    return make(name, layer, package())


def make(name: str, layer: str, package: ModuleType) -> Callable[[], Any]:
    """Return a callable for forward and backward of the baseline `name`, after a check of its output.

    `layer` is `name`, or the rival that takes its place. Raises NotAvailable if the package lacks the baseline, WrongResult if
    the output is wrong.
    """
    case = Case(name, (SEQUENCES, POSITIONS, FEATURES), batch_dim=(0, 1), direction="train")
    use_threads(case)
    shared, gradient = inputs(case.shape, torch.float32, "cpu")
    x = shared.detach().requires_grad_()
    torch.manual_seed(0)
    module = beside(name, build_layer(case.of(layer), package)) if layer in RIVALS else build(name, package)
    wanted = [x, *module.parameters()]

    def run() -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        output = module(x)
        return output, torch.autograd.grad(output, wanted, gradient)

    for _ in range(CALLS_BEFORE_TIMING):
        output, gradients = run()
    finite = all(bool(each.isfinite().all()) for each in (output, *gradients))
    require(finite and output.shape == x.shape, case, "the output or a gradient is not finite, or of another shape")
    if layer == name:
        check(case, x.detach(), output.detach(), run)
    return run


def build(name: str, package: ModuleType) -> nn.Module:
    """Return the baseline layer that is timed, from the package's `baselines`, for inputs of FEATURES features."""
    kind, _, law = name.partition("-")
    make = feature(feature(package, "baselines"), kind)
    if kind == "NestedDropout":
        module = make(law, batch_dim=[0, 1], **OPTIONS.get(law, {}))
    elif kind == "DropConnectLinear":
        module = make(FEATURES, FEATURES)
    else:
        module = make(FEATURES, HEADS, shift_init=torch.pi / 2) if kind == "LearnedDropout" else make()
    return module  # type: ignore[no-any-return]


def beside(name: str, rival: nn.Module) -> nn.Module:
    """Return the rival with the module that does the baseline's other work: a Linear, a ReLU, or none."""
    if name == "DropConnectLinear":
        return nn.Sequential(rival, nn.Linear(FEATURES, FEATURES))
    return nn.Sequential(nn.ReLU(), rival) if name == "StochasticReLU" else rival


def check(case: Case, x: torch.Tensor, output: torch.Tensor, run: Callable[[], Any]) -> None:
    """Raise WrongResult unless two calls differ, outputs are 0 or the (scaled) input, and a prefix or about half is kept.

    DropConnectLinear drops weights, so for it only the two calls are compared. LearnedDropout learns its share, so for it the
    share is not checked.
    """
    require(not torch.equal(run()[0], output), case, "two calls give the same output")
    if case.name == "DropConnectLinear":
        return
    kept = output != 0
    scale = 2 if case.name == "InvertedDropout" else 1
    require(torch.equal(output, torch.where(kept, scale * x, 0)), case, "an output is neither 0 nor the input, as scaled")
    if case.name.startswith("NestedDropout"):
        check_prefix(kept, case)
        require(bool(kept.all(-1).any()) or "geometric" in case.name, case, "no sample keeps all features")
    elif case.name != "LearnedDropout":
        # Six standard deviations of half a million draws: never exceeded by chance.
        drawn = kept[x > 0].double()
        slack = 3 / drawn.numel() ** 0.5
        require(abs(drawn.mean().item() - 0.5) <= slack, case, f"keeps {drawn.mean():.4f} instead of one half")
