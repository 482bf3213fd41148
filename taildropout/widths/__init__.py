"""`scree`, the loss of a network at every width; `frontier`, a width for each layer; and their results."""

from .measuring import scree
from .result import Scree
from .sizes import Frontier
from .whole_network import frontier

__all__ = ["Frontier", "Scree", "frontier", "scree"]
