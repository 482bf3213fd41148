"""The benchmarked cases, prepared for any version of the package: shared by suite, gate, traces and tests.

The direction of a case is what is timed:

    forward  (fwd)     the layer in training mode, input without gradient
    train              forward and `torch.autograd.grad` with a given gradient; for a model also the optimiser's step
    eval               the layer in evaluation mode
    set_k              the layer in training mode with k fixed to a third of the features

Every case is measured for three layers. `copy` is the unit of speed, `x.clone()`: it moves the memory once, since its
backward returns the gradient unchanged. In a model it is `nn.Identity`: the same model without dropout. A record also
holds `original`, the formulation of the original package, if the case is the layer alone.

`make(case, package)` prepares one case for a given taildropout module; this module never imports taildropout, so that
several versions can be used in one process.
"""

from .building import build_layer, compiled, feature, no_compiler, quote_library_path, synchronise, use_threads
from .case import DTYPES, LAYERS, ORIGINAL, Case, NotAvailable, WrongResult
from .catalogue import CASES, names
from .prepare import make

__all__ = [
    "CASES",
    "DTYPES",
    "LAYERS",
    "ORIGINAL",
    "Case",
    "NotAvailable",
    "WrongResult",
    "build_layer",
    "compiled",
    "feature",
    "make",
    "names",
    "no_compiler",
    "quote_library_path",
    "synchronise",
    "use_threads",
]
