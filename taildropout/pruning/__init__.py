"""Cut a network down to the first k features of its layers (`prune`), and load a pruned network again (`load_pruned`)."""

from .cut import PruningError
from .loading import load_pruned
from .pruner import prune

__all__ = ["PruningError", "load_pruned", "prune"]
