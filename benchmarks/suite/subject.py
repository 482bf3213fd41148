"""The package under test: the installed one."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from .cases import CASES, NotAvailable, make


def package() -> ModuleType:
    """Return the installed taildropout. Raises NotAvailable if none is installed; an error during its import is a failure."""
    try:
        return import_module("taildropout")
    except ModuleNotFoundError as error:
        if error.name == "taildropout":
            raise NotAvailable("taildropout is not installed") from error
        raise


@cache
def prepared(name: str, layer: str) -> Callable[[], Any]:
    """Prepare the named case with one of `LAYERS`, once per process; return the callable that does the work once.

    Benchmarks call it instead of using asv's `setup`: with a `setup`, asv times single calls.
    """
    case = CASES[name].of(layer)
    return make(case, package() if layer == "TailDropout" else None)
