"""prune, a copy of a network without the features beyond k that computes the same as the network at k."""

from .graph import PruningError
from .pruner import prune

__all__ = ["PruningError", "prune"]
