"""TailMLP: Linear, activation, TailDropout, Linear, of which only what TailDropout keeps is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .._torch import forward_mode_active, has_global_hooks, has_hooks
from ..dims import sample_shape
from ..distribution import check_n, exponential, rate
from ..layer import TailDropout
from ..selection.dispatch import transformed
from .ragged import Activation, Staircase, one_step, products, stairs


class _Costs(NamedTuple):
    """The work of a device beside products, in the floating-point operations that its products could do meanwhile."""

    once: float  # calls of a training step, however many blocks
    block: float  # calls of a training step for each block
    moved: float  # an element read and written once
    activation: float  # of an element; its derivative costs half as much


# Fitted; on GPUs to 228 situations on one H100 in a virtual machine, whose host takes some .5 ms a step and .3 ms a block more
# than the plain block: 512 to 32 768 rows, 512 to 4096 features, 2 or 4 times as many hidden ones, p from .1 to .9, in training
# or not, each in 1 to 24 blocks. With these costs no situation takes more than 1.02 times as long as the plain block, and the
# fastest .23. A second run on a slower host gave 1.27 for half precision at 8192 rows of 4096 features; its costs are therefore
# half as high again as fitted, and only from some 16 384 such rows on is anything computed in blocks.
_COSTS = {
    "cpu": _Costs(0, 5e7, 50, 500),
    "float32": _Costs(2.5e10, 1.8e10, 14, 440),
    "tf32": _Costs(3.8e11, 7.6e10, 150, 110),
    "half": _Costs(3.2e12, 4.7e11, 140, 230),
}
_LEAST_GAIN = 0.12  # what a prediction must save before it is believed
_SMALL = 2**21  # multiplications in the first Linear, at less than 1 ms a step, below which little could be saved


class TailMLP(nn.Sequential):
    r"""Linear, activation, TailDropout, Linear: the feed-forward block of a transformer, cheaper than without any dropout.

    What TailDropout drops is not computed, forward or backward: samples are sorted by k, and a block of hidden features is
    computed for those samples alone that keep some of it. The result is that of the plain `nn.Sequential` of the same four
    modules with the same random numbers, up to rounding; `at_k`, `set_k` and checkpoints treat it as one.

    Where that would not pay (a small p or a small input), and where it could not be seen to be right (in compiled code, under
    a transform of `torch.func`, with hooks on one of the modules, other modules in their place, an activation that has
    parameters or is not elementwise, sharded tensors), it *is* the plain `nn.Sequential`. To save in a compiled model as well,
    call the block in a function under `torch.compiler.disable`.

    Args:
        in_features: size of each input sample.
        hidden_features: number of features in between, of which TailDropout keeps the first K.
        out_features: size of each output sample.
        activation: an elementwise module, such as `nn.GELU()`; f(0) need not be 0.
        p: drop probability: the expected share of hidden features dropped.
        bias: whether the two Linears have one. Default: True
        batch_dim: the dim, or dims, whose every index is a sample with its own K; `()`: one K for the whole input; None: all
            leading dims. Default: None

    Raises:
        TypeError: if a number of features is not an int, or `activation` no module.
        ValueError: if a number of features is below 1.
        TypeError, ValueError: as in `TailDropout`.

    Shape:
        Input: :math:`(*, \text{in\_features})`. Output: :math:`(*, \text{out\_features})`.

    Examples:
        >>> block = TailMLP(16, 64, 16, activation=nn.GELU(), p=0.5)
        >>> output = block(torch.randn(20, 16))
        >>> block.eval()[2].set_k(8)
        >>> output = block(torch.randn(20, 16))  # the first 8 of 64 hidden features
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
        """Apply the four modules, or what equals them."""
        if not torch.compiler.is_compiling() and self._worth_a_look(input) and self._as_made():
            output = self._without_the_dropped(input)
            if output is not None:
                return output
        return super().forward(input)  # type: ignore[no-any-return, no-untyped-call]

    def __getitem__(self, idx: int | slice) -> Any:
        """A module, or an nn.Sequential of some."""
        return nn.Sequential(*self)[idx] if isinstance(idx, slice) else super().__getitem__(idx)

    def _worth_a_look(self, input: Tensor) -> bool:
        """Whether the block is so large that a look at it, at some 10 µs, would not show, and no trace is recorded."""
        first = self._modules.get("0")
        if not (isinstance(first, nn.Linear) and isinstance(input, Tensor)):
            return False
        count = input.numel()
        return type(count) is int and count * first.out_features >= _SMALL

    def _as_made(self) -> bool:
        """Whether the modules are those of the constructor, and nobody looks at what goes in and out of them."""
        modules = list(self._modules.values())
        return (
            [type(module) for module in modules[:1] + modules[2:]] == [nn.Linear, TailDropout, nn.Linear]
            and not has_global_hooks()
            and not any(_observed(module) for module in modules if module is not None)
        )

    def _without_the_dropped(self, input: Tensor) -> Tensor | None:
        """The output, or None where the four modules themselves must give it, which may mean an error."""
        first, module, dropout, last = self._modules.values()
        assert isinstance(first, nn.Linear)
        assert isinstance(module, nn.Module)
        assert isinstance(dropout, TailDropout)
        assert isinstance(last, nn.Linear)
        w1: Tensor = first.weight
        b1: Tensor | None = first.bias
        w2: Tensor = last.weight
        b2: Tensor | None = last.bias
        tensors = [each for each in (input, w1, b1, w2, b2) if each is not None]
        if input.is_meta or not all(type(each) in (Tensor, nn.Parameter) and each.device == input.device for each in tensors):
            return None
        device, ends = input.device.type, w1.shape[1] + w2.shape[0]
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        costs = _costs(device, autocast or input.dtype)
        share = 0.0 if dropout.k is not None else 1 - dropout.p if dropout.training else 1.0
        rows = input.numel() // max(1, w1.shape[1])
        if _blocks(w1.shape[0], rows, ends, share, 1.0, costs) == 0:  # at best: to look closer takes longer than a small block
            return None
        if not (
            not transformed()
            and not (input.is_cuda and torch.cuda.is_current_stream_capturing())
            and not forward_mode_active()
            and input.numel() > 0
            and not input.is_nested
            and w1.numel() > 0
            and input.shape[-1] == w1.shape[1]
            and w1.shape[0] == w2.shape[1]
            and dropout.dropout_dim in (-1, input.dim() - 1)
            and is_elementwise(module)
        ):
            return None
        if autocast is not None and all(each.dtype in (torch.float32, torch.float16, torch.bfloat16) for each in tensors):
            input, w1, w2 = (each.to(autocast) for each in (input, w1, w2))
            b1, b2 = (None if each is None else each.to(autocast) for each in (b1, b2))
        elif any(each.dtype != input.dtype or not each.is_floating_point() for each in tensors):
            return None
        lead = input.shape[:-1]
        steps = _staircase(dropout, torch.Size((*lead, w1.shape[0])), input, ends, costs)
        if steps is None:
            return None
        output = products(input.reshape(-1, w1.shape[1]), w1, b1, w2, b2, steps, Activation(module, device, autocast))
        return output.reshape(*lead, w2.shape[0])


def _observed(module: nn.Module) -> bool:
    """Return True if a hook sees the inputs or outputs of `module`, or another function stands in place of its `forward`."""
    return has_hooks(module) or "forward" in module.__dict__


def _staircase(dropout: TailDropout, shape: torch.Size, input: Tensor, ends: int, costs: _Costs) -> Staircase | None:
    """What the layer keeps of hidden features of this shape, in as many blocks as pay; None if none do.

    It draws what the layer would, or nothing. `ends` is the number of features of input and output together.
    """
    n, rows = shape[-1], math.prod(shape[:-1])
    if dropout.k is not None:
        k, _ = dropout._k_for(shape, input.device, dropout.k)
        if k.numel() == 1:
            share, whole = dropout._largest_k / n, 1.0
        else:
            share, whole = (float(each) for each in torch.stack([k.double().mean() / n, (k == n).double().mean()]))
    elif dropout.training and 0 < dropout.p < 1:
        k, k_shape = None, sample_shape(shape, dropout._batch_dims, -1)[0]
        its_rate = rate(dropout.p, n)
        share, whole = 1 - dropout.p, 1.0 if math.prod(k_shape) == 1 else math.exp(-its_rate * n)
    else:
        return None
    blocks = _blocks(n, rows, ends, share, whole, costs)
    if blocks == 0:
        return None
    if k is None:
        k = exponential(input, k_shape, its_rate)
    if k.numel() == 1:
        return one_step(int(k), n, rows)
    return stairs(k.expand(*shape[:-1], 1).reshape(-1), n, blocks)


def _costs(device: str, dtype: torch.dtype) -> _Costs:
    """The costs on a device of products of this dtype; those of half precision, the most cautious, where none are known."""
    if device == "cpu":
        return _COSTS["cpu"]
    if device != "cuda" or dtype not in (torch.float32, torch.float64):
        return _COSTS["half"]
    return _COSTS["tf32" if dtype == torch.float32 and _rounds_to_tf32() else "float32"]


def _rounds_to_tf32() -> bool:
    """Return True if tensor cores compute products of float32 on CUDA devices."""
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # since torch 2.9, where to read `allow_tf32` can be an error
        return bool(matmul.fp32_precision == "tf32")
    return bool(matmul.allow_tf32)


def _blocks(n: int, rows: int, ends: int, share: float, whole: float, costs: _Costs) -> int:
    """In how many blocks to compute `share` of n hidden features of so many rows; 0 if that would not pay.

    `whole` is the share of the rows that keep all features, or 1 where all rows keep the same. Half a block is computed in vain
    for each of the other rows, on average, so that blocks are the more, the more work there is.
    """
    passes, activations, again = (3, 1.5, 1) if torch.is_grad_enabled() else (1, 1, 0)
    element = 2 * passes * ends + activations * costs.activation
    plain = rows * n * element
    element += again * costs.activation  # it is computed again for backward
    once, block = costs.once * passes / 3, costs.block * passes / 3
    if whole == 1:
        blocks, cost = 1, share * rows * n * element + block + once
    else:
        block += costs.moved * rows * ends  # adding up the products
        blocks = max(1, min(n, round(math.sqrt((1 - whole) * rows * n * element / (2 * block)))))
        sorting = 8 * costs.moved * rows * ends
        cost = (share + (1 - whole) / (2 * blocks)) * rows * n * element + blocks * block + sorting + once
    weights = 2 * passes * costs.moved * n * ends  # are read and their gradients written, however few the rows
    return blocks if weights + cost < (1 - _LEAST_GAIN) * (weights + plain) else 0


_elementwise: WeakKeyDictionary[nn.Module, dict[bool, bool]] = WeakKeyDictionary()


def is_elementwise(module: nn.Module) -> bool:
    """Whether a part of the module's result is its result for that part, tried out once for training and evaluation.

    Only of a module without parameters, buffers and modules inside, since these might change. A random one is not.
    """
    if module._parameters or module._buffers or module._modules:
        return False
    known = _elementwise.setdefault(module, {})
    if module.training not in known:
        known[module.training] = _tried(module)
    return known[module.training]


def _tried(module: nn.Module) -> bool:
    # Without any symmetry, so that no mean, sum or extreme of the part is that of the whole.
    before = 3 * torch.sin(0.37 * torch.arange(4 * 4 * 64, device="cpu").double() ** 2).float().reshape(4, 4, 64)
    part = (slice(0, 3), slice(1, 4), slice(20, 50))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        input = before.clone()
        try:
            whole, of_part = module(input), module(before[part].clone())
        except (RuntimeError, ValueError):  # it wants all features, or another number of dims
            return False
    if not isinstance(whole, Tensor) or whole.shape != before.shape or of_part.shape != before[part].shape:
        return False
    kept = getattr(module, "inplace", False) or torch.equal(input, before)
    return kept and torch.allclose(whole[part], of_part, equal_nan=True)
