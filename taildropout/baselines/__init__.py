"""The field's other dropouts, for comparison with TailDropout: a layer a file, and the linear regression that each amounts to.

`InvertedDropout` is `nn.Dropout` written out; `DropConnectLinear` drops weights, `StochasticReLU` activations; `NestedDropout`
keeps first features by other laws of k; `LearnedDropout` learns its mask. `marginal` is dropout on linear regression, solved.
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
