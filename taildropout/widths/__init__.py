"""Measure the loss at every width of a layer (`scree`), and find the best widths of all layers at many costs (`frontier`)."""

from .measuring import scree
from .result import Scree
from .sizes import Frontier
from .whole_network import frontier

__all__ = ["Frontier", "Scree", "frontier", "scree"]
