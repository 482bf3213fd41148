"""How long does a call take, and how does that compare with nn.Dropout and with a copy?

`time_step` is absolute. asv would choose the number of calls per sample by the first call, which includes the
preparation. So each class fixes `number`: many small calls, some large ones, one step of a model.
"""

import torch

from .cases import CASES, LAYERS
from .measure import interleave, ratios
from .subject import prepared

BIG = 1 << 17  # elements from which a few calls make a sample

SMALL = tuple(name for name, case in CASES.items() if case.model == "layer" and case.numel < BIG)
LARGE = tuple(name for name, case in CASES.items() if case.model == "layer" and case.numel >= BIG)
MODELS = tuple(name for name, case in CASES.items() if case.model != "layer")


class _Step:
    param_names = ("case", "layer")
    version = "1"
    rounds = 1
    repeat = (5, 40, 1.0)

    def time_step(self, case: str, layer: str) -> None:
        prepared(case, layer)()
        if CASES[case].device == "cuda":
            torch.cuda.synchronize()


class Small(_Step):
    """How long does a call on a small tensor take? Mostly dispatch."""

    params = (SMALL, LAYERS)
    number = 200


class Large(_Step):
    """How long does a call on a large tensor take? Mostly memory traffic and random numbers."""

    params = (LARGE, LAYERS)
    number = 3


class Models(_Step):
    """How long does a training step of a model take with each layer? `copy` is the model without any dropout."""

    params = (MODELS, LAYERS)
    number = 1


class Ratio:
    """How many times as long as its rival does TailDropout take, with interleaved calls in one process?"""

    params = (tuple(CASES),)
    param_names = ("case",)
    version = "1"
    unit = "ratio"

    def track_over_nn_dropout(self, case: str) -> dict[str, object]:
        return paired(case, "nn.Dropout")

    def track_over_copy(self, case: str) -> dict[str, object]:
        return paired(case, "copy")


def paired(case: str, rival: str) -> dict[str, object]:
    """Return the paired ratios of TailDropout's time to the rival's, in a form of which asv takes median and quartiles."""
    runs = {layer: prepared(case, layer) for layer in ("TailDropout", rival)}
    figures = interleave(runs, device=CASES[case].device)
    return {"samples": ratios(figures, over=rival), "number": 1}
