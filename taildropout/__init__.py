"""Tail dropout: a network that learns its features in order of importance."""

from .distribution import CensoredGeometric, get_scale_param, rate
from .functional import keep_first, tail_dropout
from .layer import TailDropout
from .models import at_k, replace_dropout

__version__ = "0.1.0"

__all__ = [
    "CensoredGeometric",
    "TailDropout",
    "at_k",
    "get_scale_param",
    "keep_first",
    "rate",
    "replace_dropout",
    "tail_dropout",
]
