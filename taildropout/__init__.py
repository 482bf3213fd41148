"""Tail dropout: a network that learns its features in order of importance."""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from .distribution import CensoredGeometric, get_scale_param, rate
from .functional import keep_first, tail_dropout
from .insert import insert_dropout, remove_dropout, replace_dropout
from .layer import TailDropout
from .mlp import GatedTailMLP, TailMLP
from .models import at_k
from .pruning import PruningError, load_pruned, prune
from .widths import Frontier, Scree, frontier, scree

if TYPE_CHECKING:
    from . import baselines

__version__ = "0.2.0.dev0"

__all__ = [
    "CensoredGeometric",
    "Frontier",
    "GatedTailMLP",
    "PruningError",
    "Scree",
    "TailDropout",
    "TailMLP",
    "at_k",
    "baselines",
    "frontier",
    "get_scale_param",
    "insert_dropout",
    "keep_first",
    "load_pruned",
    "prune",
    "rate",
    "remove_dropout",
    "replace_dropout",
    "scree",
    "tail_dropout",
]


def __getattr__(name: str) -> ModuleType:
    if name == "baselines":  # imported on first use, because few programs need it
        return import_module(".baselines", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
