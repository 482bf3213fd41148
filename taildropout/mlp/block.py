"""TailMLP: Linear, activation, TailDropout, Linear, of which only what TailDropout keeps is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import forward_mode_active, has_global_hooks, has_hooks
from ..distribution import check_n, exponential, rate
from ..layer import TailDropout
from ..selection import transformed
from . import cost
from .activation import OfModule
from .autograd import ragged_product
from .compiled import output_in_graph
from .elementwise import is_elementwise
from .operands import Operands
from .ragged import Ragged, k_per_row, same_k


class TailMLP(nn.Sequential):
    r"""Linear, activation, TailDropout, Linear: a transformer's feed-forward block that skips what TailDropout drops.

    Dropped features are computed neither forward nor backward: rows are sorted by k, and each block of hidden features is
    computed only for the rows that keep some of it. The result equals that of `nn.Sequential` with the same four modules and
    the same random numbers, up to rounding. `at_k`, `set_k` and checkpoints work as on that `nn.Sequential`.

    The block computes as a plain `nn.Sequential` where skipping would not be faster (a small p, a small input), and where the
    result might differ: in compiled code, under a transform of `torch.func`, with hooks on one of the modules, with other
    modules in their place, with sharded tensors, or with an activation that has parameters or is not elementwise. To skip
    within a compiled model too, call the block in a function under `torch.compiler.disable`.

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
        TypeError: if a number of features is not an int, `activation` is not a module, or `p` or `batch_dim` has a wrong type.
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
        if not isinstance(activation, nn.Module):
            raise TypeError(f"activation={activation!r} is a {type(activation).__name__}; give a module, such as nn.GELU()")
        sizes = {"in_features": in_features, "hidden_features": hidden_features, "out_features": out_features}
        inner, hidden, outer = (check_n(size, name) for name, size in sizes.items())
        dropout = TailDropout(p, batch_dim)
        super().__init__(nn.Linear(inner, hidden, bias), activation, dropout, nn.Linear(hidden, outer, bias))

    def forward(self, input: Tensor) -> Tensor:
        """Apply the four modules; where it pays, by a ragged product with the same result."""
        if self._worth_deciding(input) and self._as_constructed():
            output = output_in_graph(self, input) if torch.compiler.is_compiling() else self._ragged_output(input)
            if output is not None:
                return output
        return super().forward(input)  # type: ignore[no-any-return, no-untyped-call]

    def __getitem__(self, idx: int | slice) -> Any:
        """Return a module, or an `nn.Sequential` of the modules of a slice."""
        return nn.Sequential(*self)[idx] if isinstance(idx, slice) else super().__getitem__(idx)

    def _worth_deciding(self, input: Tensor) -> bool:
        """Return True if the block is so large that the time of a decision is negligible, and no trace is recorded."""
        first = self._modules.get("0")
        if not (isinstance(first, nn.Linear) and isinstance(input, Tensor)):
            return False
        count = input.numel()
        return type(count) is int and cost.worth_deciding(count, first.out_features)

    def _as_constructed(self) -> bool:
        """Return True if the modules are of the constructor's types, and no hook sees their inputs or outputs."""
        modules = list(self._modules.values())
        return (
            [type(module) for module in modules[:1] + modules[2:]] == [nn.Linear, TailDropout, nn.Linear]
            and not has_global_hooks()
            and not any(_observed(module) for module in modules if module is not None)
        )

    def _ragged_output(self, input: Tensor) -> Tensor | None:
        """Return the output, or None where the four modules must compute it or raise the error."""
        first, module, dropout, last = self._modules.values()
        assert isinstance(first, nn.Linear)
        assert isinstance(module, nn.Module)
        assert isinstance(dropout, TailDropout)
        assert isinstance(last, nn.Linear)
        if input.is_meta:  # autocast is unknown there
            return None
        operands = Operands(input, first.weight, first.bias, last.weight, last.bias)
        device = input.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        costs = cost.costs_of(device, autocast or input.dtype)
        if not operands.plain() or not _may_pay(operands, dropout, costs):
            return None
        if not (_ragged_is_safe(input) and operands.fit()):
            return None
        if not (dropout.dropout_dim in (-1, input.dim() - 1) and is_elementwise(module)):
            return None
        cast = operands.in_one_dtype(autocast)
        ragged = None if cast is None else _ragged(dropout, cast, costs)
        if cast is None or ragged is None:
            return None
        output = ragged_product(cast.in_rows(), ragged, OfModule(module, device, autocast))
        return output.reshape(*input.shape[:-1], -1)


def _observed(module: nn.Module) -> bool:
    """Return True if a hook sees the inputs or outputs of `module`, or another function stands in place of its `forward`."""
    return has_hooks(module) or "forward" in module.__dict__


def _ragged_is_safe(input: Tensor) -> bool:
    """Return False if a transform, forward mode, a nested tensor or a CUDA graph needs the plain modules."""
    return (
        not (transformed() or input.is_nested)
        and not (input.is_cuda and torch.cuda.is_current_stream_capturing())
        and not forward_mode_active()
    )


def _may_pay(operands: Operands, dropout: TailDropout, costs: cost.Costs) -> bool:
    """Return True if a ragged product could pay at the best k, which is decided faster than a small block is computed."""
    x, w1, _, w2, _ = operands
    share = 0.0 if dropout.k is not None else 1 - dropout.p if dropout.training else 1.0
    rows = x.numel() // max(1, w1.shape[1])
    return cost.blocks_that_pay(w1.shape[0], rows, w1.shape[1] + w2.shape[0], share, 1.0, costs, torch.is_grad_enabled()) > 0


def _ragged(dropout: TailDropout, operands: Operands, costs: cost.Costs) -> Ragged | None:
    """Return the part of the hidden features that `dropout` keeps, in as many blocks as pay; None if no number pays.

    Random numbers are drawn only if the result is not None, and then the same as `dropout` draws.
    """
    x, w1, _, w2, _ = operands
    n, ends = w1.shape[0], w1.shape[1] + w2.shape[0]
    shape = torch.Size((*x.shape[:-1], n))
    rows = math.prod(shape[:-1])
    if dropout.k is not None:
        k, _ = dropout.k_for(shape, x.device)
        share, whole = _shares(k, dropout.fixed_k.largest, n)
    elif dropout.training and 0 < dropout.p < 1:
        k = None
        share, whole = 1 - dropout.p, 1.0
        if math.prod(dropout.k_shape(shape)) > 1:
            whole = math.exp(-rate(dropout.p, n) * n)  # P(K = n)
    else:
        return None
    blocks = cost.blocks_that_pay(n, rows, ends, share, whole, costs, torch.is_grad_enabled())
    if blocks == 0:
        return None
    if k is None:
        k = exponential(x, dropout.k_shape(shape), rate(dropout.p, n))
    if k.numel() == 1:
        return same_k(int(k), n, rows)
    return k_per_row(k.expand(*shape[:-1], 1).reshape(-1), n, blocks)


def _shares(k: Tensor, largest: int, n: int) -> tuple[float, float]:
    """Return the mean share of the features kept, and the share of the samples that keep all; 1 if all have the same k."""
    if k.numel() == 1:
        return min(largest, n) / n, 1.0
    share, whole = torch.stack([k.double().mean() / n, (k == n).double().mean()]).tolist()
    return share, whole
