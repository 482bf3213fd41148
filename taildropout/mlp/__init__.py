"""TailMLP, the feed-forward block that computes only what TailDropout keeps."""

from .block import TailMLP

__all__ = ["TailMLP"]
