"""prune, a smaller copy of a network that computes the same as the network at widths k; load_pruned, from its state_dict."""

from .cut import PruningError
from .pruner import prune

__all__ = ["PruningError", "prune"]
