"""Build parts of a case: the layer, its compiled form, the number of threads, the synchronisation with a device."""

import os
import shlex
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from .case import DTYPES, ORIGINAL, Case, NotAvailable
from .catalogue import CASES
from .original import ThresholdDropout


def feature(owner: object, name: str) -> Any:
    """Return the attribute `name` of the package or of its layer; raise NotAvailable if this version lacks it."""
    try:
        return getattr(owner, name)
    except AttributeError:
        raise NotAvailable(f"{getattr(owner, '__name__', type(owner).__name__)} has no {name}") from None


def build_layer(case: Case, package: ModuleType | None) -> torch.nn.Module:
    """Return the layer of the case; only TailDropout needs `package`.

    Raises NotAvailable if TailDropout is wanted and `package` is None or lacks it.
    """
    if case.layer == "nn.Dropout":
        return torch.nn.Dropout(case.p)
    if case.layer == "copy":
        return Copy() if case.model == "layer" else torch.nn.Identity()
    if case.layer == ORIGINAL:
        return ThresholdDropout(case.p, case.batch_dim, case.dropout_dim, case.shape, DTYPES[case.dtype])
    if package is None:
        raise NotAvailable("taildropout is not installed")
    batch_dim = case.batch_dim if isinstance(case.batch_dim, int) else list(case.batch_dim)
    layer: torch.nn.Module = feature(package, "TailDropout")(case.p, batch_dim, case.dropout_dim)
    return layer


class Copy(torch.nn.Module):
    """Compute `x.clone()`: the unit of speed, which writes as much as a dropout and reads all."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


def use_threads(case: Case) -> None:
    """Set torch's number of threads to that of the case (None: all cores). Cases may differ, so call it before each."""
    wanted = case.threads or os.cpu_count() or 1
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)


def compiled(case: Case, module: torch.nn.Module) -> Callable[..., torch.Tensor]:
    """Return the module, compiled if the case's mode says so.

    Shapes are static: otherwise torch would compile the second shape of a process for all shapes, and the figure would
    depend on earlier measurements. So the limit on compiled versions of the same code is raised.
    """
    if case.mode == "eager":
        return module
    quote_library_path()
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * len(CASES))
    call: Callable[..., torch.Tensor] = torch.compile(module, mode=case.mode, fullgraph=True, dynamic=False)
    return call


def quote_library_path() -> None:
    """Quote torch's library path if it contains a space, so that inductor can link: it quotes only include paths."""
    from torch.utils import cpp_extension

    if " " in cpp_extension.TORCH_LIB_PATH and "'" not in cpp_extension.TORCH_LIB_PATH:
        cpp_extension.TORCH_LIB_PATH = shlex.quote(cpp_extension.TORCH_LIB_PATH)


def synchronise(case: Case) -> Callable[[], None] | None:
    """Return the function that waits for the case's device; None on the CPU, which is synchronous."""
    return torch.cuda.synchronize if case.device == "cuda" else None


def no_compiler(error: BaseException | None) -> bool:
    """Return True if inductor failed because no C++ compiler is installed; inductor wraps that error in others."""
    while error is not None:
        if "InvalidCxxCompiler" in f"{type(error).__name__} {error}":
            return True
        error = error.__cause__ or error.__context__
    return False
