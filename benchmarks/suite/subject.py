"""The package under test as asv's modules see it: the one that is installed."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from .cases import CASES, NotAvailable, make


def package() -> ModuleType:
    """The installed taildropout; NotAvailable where there is none, while one that fails to import is a failure."""
    try:
        return import_module("taildropout")
    except ModuleNotFoundError as error:
        if error.name == "taildropout":
            raise NotAvailable("taildropout is not installed") from error
        raise


@cache
def prepared(name: str, layer: str) -> Callable[[], Any]:
    """The named case with one of the layers, made once per process.

    This stands in the place of asv's `setup`, in whose presence asv times single calls.
    """
    case = CASES[name].of(layer)
    return make(case, package() if layer == "TailDropout" else None)
