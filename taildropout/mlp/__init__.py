"""TailMLP and GatedTailMLP, feed-forward blocks that compute only what TailDropout keeps."""

from .block import TailMLP
from .gated import GatedTailMLP

__all__ = ["GatedTailMLP", "TailMLP"]
