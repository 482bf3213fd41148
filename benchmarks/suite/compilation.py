"""Count dynamo's graphs of the layer and its recompilations, and time the start of a compiled case.

For counting, the backend runs each graph as it is, so no compiler is needed.
"""

from collections.abc import Callable
from time import perf_counter
from types import ModuleType
from typing import Any

import torch

from .cases import Case, WrongResult, build_layer, feature, layer, model, synchronise


def graphs(package: ModuleType) -> int:
    """Return the number of graphs that dynamo makes of the layer."""
    made, call, x = counted(bare_layer(package))
    call(x)
    return len(made)


def breaks(package: ModuleType) -> int:
    """Return the number of graph breaks in the layer, empty graphs included."""
    from torch._dynamo.utils import counters

    counters.clear()
    _, call, x = counted(bare_layer(package))
    call(x)
    return sum(counters["graph_break"].values())


def recompilations_for_k(package: ModuleType) -> int:
    """Return the number of recompilations caused by a change of k."""
    layer = bare_layer(package)
    made, call, x = counted(layer)
    feature(layer, "set_k")(1)
    call(x)
    before = len(made)
    for k in (2, 3, 31, 0):
        layer.set_k(k)
        kept = call(x) != 0
        if int(kept[0].sum()) != k:
            raise WrongResult(f"set_k({k}) keeps {int(kept[0].sum())} features when compiled")
    return len(made) - before


def recompilations_for_batch(package: ModuleType) -> int:
    """Return the number of recompilations caused by a change of the batch size, with dynamic shapes."""
    made, call, x = counted(bare_layer(package), dynamic=True)
    call(x)
    before = len(made)
    for batch in (3, 17, 1000):
        call(torch.randn(batch, 32))
    return len(made) - before


def seconds(case: Case, package: ModuleType | None) -> float:
    """Return the seconds until a compiled case gives its first result, with empty caches of the compiler. Resets dynamo."""
    from torch._inductor import utils

    fresh = getattr(utils, "fresh_cache", None) or utils.fresh_inductor_cache  # its name until 2.7
    torch._dynamo.reset()
    run = (layer if case.model == "layer" else model).prepare(case, package)[0]
    with fresh():
        start = perf_counter()
        run()
        (synchronise(case) or (lambda: None))()
        return perf_counter() - start


COUNTS = {count.__name__: count for count in (graphs, breaks, recompilations_for_k, recompilations_for_batch)}


def bare_layer(package: ModuleType) -> Any:
    """Return a TailDropout with its default dims."""
    return build_layer(Case("compilation", (64, 32)), package)


def counted(layer: Any, dynamic: bool = False) -> tuple[list[object], Callable[..., torch.Tensor], torch.Tensor]:
    """Return a list to which dynamo adds each graph it makes, the compiled layer, and an input without zeros."""
    made: list[object] = []

    def backend(graph: Any, inputs: object) -> Any:
        made.append(graph)
        return graph.forward

    torch._dynamo.reset()
    torch.manual_seed(0)
    call = torch.compile(layer, backend=backend, dynamic=dynamic or None)
    return made, call, torch.randn(64, 32).abs() + 1
