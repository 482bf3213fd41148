"""prune, a smaller copy of a network that computes the same as the network at widths k; load_pruned, from its state_dict."""

from .cut import PruningError
from .loading import load_pruned
from .pruner import prune

__all__ = ["PruningError", "load_pruned", "prune"]
