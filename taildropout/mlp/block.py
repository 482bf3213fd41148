"""TailMLP: Linear, activation, TailDropout, Linear, computed only for the hidden features that TailDropout keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..distribution import check_n
from ..layer import TailDropout
from .skipping import Parts, skipping_output


def check_activation(activation: object) -> nn.Module:
    """Return `activation`, or raise TypeError if it is not a module."""
    if not isinstance(activation, nn.Module):
        raise TypeError(f"activation={activation!r} has type {type(activation).__name__}; give a module, such as nn.GELU()")
    return activation


def check_bias(bias: object) -> bool:
    """Return `bias`, or raise TypeError if it is not a bool."""
    if not isinstance(bias, bool):
        raise TypeError(f"bias={bias!r} has type {type(bias).__name__}; give True or False")
    return bias


class TailMLP(nn.Sequential):
    r"""Linear, activation, TailDropout, Linear: a transformer's feed-forward block that skips dropped features.

    Dropped features are computed neither forward nor backward: rows are sorted by k, and each block of hidden features is
    computed only for the rows that keep some of it. The result equals that of `nn.Sequential` with the same four modules and
    the same random numbers, up to rounding. `at_k` and checkpoints work as on that `nn.Sequential`; `block[2].set_k` sets k.

    The block computes as a plain `nn.Sequential` where skipping would not be faster (a small p, a small input), and where the
    result might differ: under a transform of `torch.func`, with hooks on one of the modules, with other modules in their
    place, with sharded tensors, for complex numbers, or with an activation that has parameters, is not elementwise or keeps
    something of its calls. An activation whose own plain tensors require grad, or that begins to draw random numbers, causes a
    warning once.

    The block predicts whether skipping is faster from the sizes, from p or k, and on a CPU from a few timings, which the first
    call for a dtype and a number of threads makes in 40 to 50 ms. Either way the random numbers are the same, and results are
    equal up to rounding. To repeat a run bit by bit, set the environment variable TAILDROPOUT_MLP_COSTS to the seven numbers of
    `Costs` in `taildropout/mlp/cost.py`, such as "0,4e7,50,120,380,2,.08".

    `torch.compile` keeps the block as one operator on a CPU, if its activation is GELU, ReLU, SiLU, Tanh, Sigmoid or Identity.
    Another p or another value of k needs no recompilation, and a changing number of rows one; the page How it works lists the
    exceptions. With another activation a compiled block computes everything, and warns once. On other devices it computes
    everything too; to skip there, call the block in a function under `torch.compiler.disable`.

    Args:
        in_features: number of features of the input.
        hidden_features: number n of hidden features, of which TailDropout keeps the first K.
        out_features: number of features of the output.
        activation: an elementwise module, such as `nn.GELU()`; f(0) need not be 0.
        p: drop probability: the expected share of hidden features dropped.
        bias: if True, both Linears have a bias. Default: True
        batch_dim: the dim or dims whose every index is a sample with its own K; `()` draws one K for the whole input; None
            means all dims but the last. Default: None

    Raises:
        TypeError: if a number of features is not an int, `activation` is not a module, `bias` is not a bool, or `p` or
            `batch_dim` has a wrong type.
        ValueError: if a number of features is below 1, `p` is outside [0, 1], or dims repeat.

    Shape:
        Input: :math:`(*, \text{in\_features})`. Output: :math:`(*, \text{out\_features})`.

    Examples:
        >>> block = TailMLP(16, 64, 16, activation=nn.GELU(), p=0.5)
        >>> block(torch.randn(20, 16)).shape
        torch.Size([20, 16])
        >>> block.eval()[2].set_k(8)
        >>> output = block(torch.randn(20, 16))  # uses the first 8 of 64 hidden features
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        *,
        activation: nn.Module,
        p: float,
        bias: bool = True,
        batch_dim: int | Sequence[int] | None = None,
    ) -> None:
        check_activation(activation)
        check_bias(bias)
        sizes = {"in_features": in_features, "hidden_features": hidden_features, "out_features": out_features}
        inner, hidden, outer = (check_n(size, name) for name, size in sizes.items())
        dropout = TailDropout(p, batch_dim)
        super().__init__(nn.Linear(inner, hidden, bias), activation, dropout, nn.Linear(hidden, outer, bias))

    def forward(self, input: Tensor) -> Tensor:
        """Apply the four modules; where that is faster, by a ragged product with the same result up to rounding."""
        modules = list(self._modules.values())
        output = skipping_output(Parts(*modules), input) if len(modules) == 4 else None
        return super().forward(input) if output is None else output  # type: ignore[no-untyped-call]

    def __getitem__(self, idx: int | slice) -> Any:
        """Return the module at an index, or an `nn.Sequential` of the modules in a slice."""
        return nn.Sequential(*self)[idx] if isinstance(idx, slice) else super().__getitem__(idx)
