"""A dropout whose mask is computed from the input, and learned."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..dims import check_tensor
from ..tracing import node, refuse_script


class LearnedDropout(nn.Module):
    r"""Keep each feature of each position with a probability M that self-attention computes from the whole input.

    .. math:: M = \tfrac12 \cos(\mathrm{attention}(x) + B) + \tfrac12, \qquad y = x \odot \mathrm{round}(M)

    The attention has several heads and no output projection, and neither residual nor norm. B, one number per feature, is
    learned: it is `shift`, reflected at 0 and π, which keeps it in [0, π] without a place where its gradient ends. The rounded
    mask is exactly 0 or 1: in training 1 with probability M, in evaluation 1 where M ≥ ½. Backward takes it for M itself
    (straight through: Bengio, Léonard & Courville 2013, "Estimating or propagating gradients through stochastic neurons for
    conditional computation"). M and its rounding are float32, whatever input and autocast are. Nothing is rescaled.

    From Yan 2024, "Learned Dropout" (github.com/yiphei/yif-AI), who adds `penalty()` to the loss, so that features are dropped.

    Args:
        embed_dim: number of features C.
        n_head: number of heads, a divisor of `embed_dim`.
        shift_init: B at the start, in [0, π]: at 0 nearly all is kept, at π nearly all dropped. Default: 0
        bias: whether queries, keys and values have a bias. Default: False
        causal: whether a position sees only itself and those before it. Default: False

    Raises:
        TypeError: if an argument is of a wrong type.
        ValueError: if `embed_dim` or `n_head` is below 1, `n_head` is no divisor, or `shift_init` is outside [0, π].

    Shape:
        Input and output: :math:`(*, T, C)`, the same, with T positions; ValueError if it is another.

    Example:
        >>> layer = LearnedDropout(16, 4, causal=True)
        >>> features = layer(torch.randn(2, 10, 16))
        >>> loss = features.square().mean() + 0.1 * layer.penalty()
    """

    def __init__(
        self, embed_dim: int, n_head: int, shift_init: float = 0.0, bias: bool = False, *, causal: bool = False
    ) -> None:
        super().__init__()
        for name, size in (("embed_dim", embed_dim), ("n_head", n_head)):
            if isinstance(size, bool) or not isinstance(size, Integral):
                raise TypeError(f"{name}={size!r} is a {type(size).__name__}; give an int")
            if size < 1:
                raise ValueError(f"{name}={size}; give 1 or more")
        if embed_dim % n_head:
            raise ValueError(f"n_head={n_head} does not divide embed_dim={embed_dim}; every head gets as many features")
        if isinstance(shift_init, bool) or not isinstance(shift_init, int | float):
            raise TypeError(f"shift_init={shift_init!r} is a {type(shift_init).__name__}; give a number in [0, π]")
        if not 0 <= shift_init <= math.pi:
            raise ValueError(f"shift_init={shift_init} is outside [0, π]; 0 keeps nearly all, π drops nearly all")
        for name, flag in (("bias", bias), ("causal", causal)):
            if not isinstance(flag, bool):
                raise TypeError(f"{name}={flag!r} is a {type(flag).__name__}; give True or False")
        self.embed_dim, self.n_head, self.shift_init, self.causal = int(embed_dim), int(n_head), shift_init, causal
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=bias)
        self.shift = nn.Parameter(torch.full((embed_dim,), float(shift_init)))
        self._last: tuple[Tensor, Tensor] | None = None  # M, with its graph, and the share of ones

    def probability(self, input: Tensor) -> Tensor:
        """M, the probability to keep: of the input's shape, in float32 (float64 for float64)."""
        check_tensor(input)
        if input.is_nested:
            raise ValueError(
                "input is a nested tensor, of unlike numbers of positions; pad it: torch.nested.to_padded_tensor(input, 0.0)"
            )
        if input.dim() < 2 or input.shape[-1] != self.embed_dim:
            raise ValueError(f"input has shape {tuple(input.shape)}; give (…, positions, embed_dim={self.embed_dim})")
        query, key, value = self.qkv(input).unflatten(-1, (3, self.n_head, -1)).transpose(-2, -4).unbind(-3)
        attention = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)  # (…, heads, T, C / heads)
        attention = attention.transpose(-2, -3).flatten(-2)
        wide = torch.promote_types(attention.dtype, torch.float32)
        # B, a triangle wave of `shift`. Not by abs(), whose gradient at 0 is 0: it would never leave shift_init=0.
        turned = torch.remainder(self.shift.to(wide) + math.pi, 2 * math.pi) - math.pi
        return 0.5 * torch.cos(attention.to(wide) + torch.where(turned < 0, -turned, turned)) + 0.5

    def forward(self, input: Tensor) -> Tensor:
        """Multiply the input by its rounded mask."""
        if not isinstance(input, Tensor):
            return node(self, input)
        probability = self.probability(input)
        # In (0, 1], so that 0 is never rounded up, and 1 always is.
        limit = 1 - torch.rand_like(probability) if self.training else 0.5
        ones = (limit <= probability).to(probability.dtype)
        self._last = probability, ones.detach().mean()
        # The difference is exactly 0, so that the mask stays exact; its gradient is that of M.
        mask = ones + (probability - probability.detach())
        return input * mask.to(input.dtype)

    def penalty(self) -> Tensor:
        """mean(M² / 2) of the last forward, 0-d: what to add to the loss, so that features are dropped. Differentiable.

        Raises:
            RuntimeError: if there was no forward yet.
        """
        return self._of_last_forward()[0].square().mean() / 2

    @property
    def share_of_ones(self) -> Tensor:
        """The share of features that the last forward kept, 0-d; RuntimeError if there was none yet."""
        return self._of_last_forward()[1]

    def _of_last_forward(self) -> tuple[Tensor, Tensor]:
        if self._last is None:
            raise RuntimeError("LearnedDropout has not been called yet; its mask depends on an input: call it first")
        return self._last

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}  # a graph can be neither pickled nor copied

    __prepare_scriptable__ = refuse_script

    def extra_repr(self) -> str:
        """The arguments that construct this layer."""
        bias, causal = ", bias=True" if self.qkv.bias is not None else "", ", causal=True" if self.causal else ""
        return f"{self.embed_dim}, {self.n_head}, shift_init={self.shift_init}{bias}{causal}"
