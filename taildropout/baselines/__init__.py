"""Other dropouts, for comparison with TailDropout: one layer per file, and linear regression under dropout in closed form.

`InvertedDropout` is `nn.Dropout` in plain tensor code. `DropConnectLinear` drops weights, `StochasticReLU` drops activations.
`NestedDropout` draws K from other laws. `LearnedDropout` learns its mask. `marginal` solves linear regression under dropout
exactly.
"""

from .drop_connect import DropConnectLinear
from .inverted import InvertedDropout
from .learned import LearnedDropout
from .marginal import dropout_moments, marginal_loss, marginal_solution, tail_dropout_moments
from .nested import NestedDropout
from .stochastic_relu import StochasticReLU

__all__ = [
    "DropConnectLinear",
    "InvertedDropout",
    "LearnedDropout",
    "NestedDropout",
    "StochasticReLU",
    "dropout_moments",
    "marginal_loss",
    "marginal_solution",
    "tail_dropout_moments",
]
