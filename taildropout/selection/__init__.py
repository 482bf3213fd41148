"""keep_first for checked arguments: plain torch, rows in C, a Triton kernel, compiled code, sharded and jagged tensors.

`keep.keep` is the definition: `where(one_to_n <= k, input, 0)`.
"""

from . import dispatch
from .dispatch import kept_positions
from .dtensor import is_sharded, on_shard
from .jagged import Spread, is_jagged, on_components
from .keep import select
from .layout import transformed

__all__ = [
    "Spread",
    "dispatch",
    "is_jagged",
    "is_sharded",
    "kept_positions",
    "on_components",
    "on_shard",
    "select",
    "transformed",
]
