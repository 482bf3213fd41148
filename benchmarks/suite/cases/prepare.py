"""Prepare a case: return the callable that is timed."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from . import distributed, layer, model
from .building import no_compiler, use_threads
from .case import ORIGINAL, Case, NotAvailable


def make(case: Case, package: ModuleType | None = None) -> Callable[[], Any]:
    """Prepare `case` with the layer of `package`, warm it up (compiled cases compile here) and check its result.

    Returns a callable without arguments that does the work once. It returns the output; for a layer's `train` the pair
    of output and gradient; for a model the loss. On CUDA it does not wait for the device (`synchronise` does).

    Raises NotAvailable if the machine or the package lacks something the case needs, WrongResult if the result is wrong.
    """
    if case.device == "cuda" and not torch.cuda.is_available():
        raise NotAvailable("this machine has no CUDA device")
    if case.layer == ORIGINAL and (case.model != "layer" or case.direction == "set_k"):
        raise NotAvailable("the original formulation is measured as a random layer alone")
    use_threads(case)
    torch.manual_seed(0)
    maker = {"layer": layer.make, "ddp": distributed.make_ddp, "data_parallel": distributed.make_data_parallel}
    try:
        return maker.get(case.model, model.make)(case, package)
    except Exception as error:
        if no_compiler(error):
            raise NotAvailable("this machine has no C++ compiler") from error
        raise
