"""scree, the loss of a network at every width, and Scree, its result."""

from .measuring import scree
from .result import Scree

__all__ = ["Scree", "scree"]
