"""How much faster is `scree` than the loop over `set_k` that it replaces?

The network is an MLP 784–256–256–10 in float32 on one thread, evaluated with a cross-entropy on 10 000 samples, in batches of
1000, at all 257 widths of its second hidden layer.
"""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import nn

from .cases import Case, WrongResult, feature, use_threads
from .subject import package

INPUTS, HIDDEN, CLASSES = 784, 256, 10
BATCHES, ROWS = 10, 1000
PARTS = 8  # the loop is timed in this many parts, each next to one whole scree

# The modules behind the layer, and the goal: the time of scree as a share of the loop's.
TAILS: dict[str, tuple[Callable[[], list[nn.Module]], float]] = {
    "linear": (lambda: [nn.Linear(HIDDEN, CLASSES)], 1 / 40),
    "relu-linear": (lambda: [nn.ReLU(), nn.Linear(HIDDEN, CLASSES)], 1 / 10),
}


class Scree:
    """What share of the loop's time does scree take, if a Linear follows the layer, and if an activation does?"""

    params = (tuple(TAILS),)
    param_names = ("tail",)
    version = "1"
    unit = "ratio"

    def track_time_over_loop(self, tail: str) -> dict[str, object]:
        return {"samples": over_loop(tail), "number": 1}


def over_loop(tail: str) -> list[float]:
    """Return ratios, time of `scree` over time of the loop, one for each of the loop's parts, scaled up to all widths.

    Raises WrongResult if the losses of `scree` and of the loop differ.
    """
    module = package()
    scree: Callable[..., Any] = feature(module, "scree")
    use_threads(Case("scree", (ROWS, INPUTS)))
    torch.manual_seed(0)
    layer = feature(module, "TailDropout")()
    before = [nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN)]
    after = TAILS[tail][0]()
    model = nn.Sequential(*before, *([] if isinstance(after[0], nn.ReLU) else [nn.ReLU()]), layer, *after)
    batches = [(torch.randn(ROWS, INPUTS), torch.randint(CLASSES, (ROWS,))) for _ in range(BATCHES)]
    loss = nn.CrossEntropyLoss()
    scree(model, layer, batches, loss, widths=[0, HIDDEN], progress=False)  # warm-up, as is the line below
    loop(model, layer, batches, loss, [0, HIDDEN])
    ratios, expected = [], torch.empty(HIDDEN + 1, dtype=torch.float64)
    for part in range(PARTS):
        widths = range(part, HIDDEN + 1, PARTS)
        start = perf_counter()
        result = scree(model, layer, batches, loss, progress=False)
        middle = perf_counter()
        expected[widths] = loop(model, layer, batches, loss, widths)
        end = perf_counter()
        ratios.append((middle - start) / ((end - middle) * (HIDDEN + 1) / len(widths)))
    if not torch.allclose(result.loss, expected, rtol=1e-5):
        raise WrongResult(f"scree and the loop differ by {float((result.loss - expected).abs().max()):.3g}")
    return ratios


def loop(model: nn.Module, layer: Any, batches: list[Any], loss: nn.Module, widths: Sequence[int]) -> torch.Tensor:
    """Return the mean loss at each width, computed by a loop over `set_k`."""
    model.eval()
    losses = []
    with torch.no_grad():
        for k in widths:
            layer.set_k(k)
            losses.append(sum(loss(model(input), target).item() for input, target in batches) / len(batches))
    layer.set_k(None)
    return torch.tensor(losses, dtype=torch.float64)
