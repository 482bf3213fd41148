"""A dropout that learns to compute its mask from the input."""

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

    The attention has several heads, but no output projection, residual or norm. B, one number per feature, is learned: it is
    the parameter `shift`, reflected at 0 and π, so that B stays in [0, π] and its gradient is nowhere 0. The rounded mask is
    exactly 0 or 1: in training 1 with probability M, in evaluation 1 where M ≥ ½. Backward uses the gradient of M (the
    straight-through estimator: Bengio, Léonard & Courville 2013, "Estimating or propagating gradients through stochastic
    neurons for conditional computation"). M and its rounding are float32 for every input and autocast dtype. The output is not
    rescaled.

    From Yan 2024, "Learned Dropout" (github.com/yiphei/yif-AI), who adds `penalty()` to the loss so that features are dropped.

    Args:
        embed_dim: number of features C.
        n_head: number of heads, a divisor of `embed_dim`.
        shift_init: initial B in [0, π]: 0 keeps nearly all features, π drops nearly all. Default: 0
        bias: whether queries, keys and values have a bias. Default: False
        causal: whether a position attends only to itself and earlier positions. Default: False

    Raises:
        TypeError: if an argument has a wrong type.
        ValueError: if `embed_dim` or `n_head` is below 1, `n_head` does not divide `embed_dim`, or `shift_init` is outside
            [0, π].

    Shape:
        Input and output: :math:`(*, T, C)`, the same, with T positions; another shape raises ValueError.

    Examples:
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
                raise TypeError(f"{name}={size!r} has type {type(size).__name__}; give an int")
            if size < 1:
                raise ValueError(f"{name}={size}; give 1 or more")
        if embed_dim % n_head:
            raise ValueError(
                f"n_head={n_head} does not divide embed_dim={embed_dim}; all heads have the same number of features"
            )
        if isinstance(shift_init, bool) or not isinstance(shift_init, int | float):
            raise TypeError(f"shift_init={shift_init!r} has type {type(shift_init).__name__}; give a number in [0, π]")
        if not 0 <= shift_init <= math.pi:
            raise ValueError(f"shift_init={shift_init} is outside [0, π]; 0 keeps nearly all, π drops nearly all")
        for name, flag in (("bias", bias), ("causal", causal)):
            if not isinstance(flag, bool):
                raise TypeError(f"{name}={flag!r} has type {type(flag).__name__}; give True or False")
        self.embed_dim, self.n_head, self.shift_init, self.causal = int(embed_dim), int(n_head), shift_init, causal
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=bias)
        self.shift = nn.Parameter(torch.full((embed_dim,), float(shift_init)))
        self._last: tuple[Tensor, Tensor] | None = None  # M with its graph, and the share of ones

    def probability(self, input: Tensor) -> Tensor:
        """Return M, the probability to keep each element, of the input's shape, in float32 (in float64 for a float64 input).

        Raises:
            TypeError: if `input` is not a tensor.
            ValueError: if `input` is not of shape (…, T, embed_dim).
        """
        check_tensor(input)
        if input.is_nested:
            raise ValueError(
                "input is a nested tensor, whose numbers of positions differ; pad it: torch.nested.to_padded_tensor(input, 0.0)"
            )
        if input.dim() < 2 or input.shape[-1] != self.embed_dim:
            raise ValueError(f"input has shape {tuple(input.shape)}; give (…, positions, embed_dim={self.embed_dim})")
        query, key, value = self.qkv(input).unflatten(-1, (3, self.n_head, -1)).transpose(-2, -4).unbind(-3)
        attention = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)  # (…, heads, T, C / heads)
        attention = attention.transpose(-2, -3).flatten(-2)
        wide = torch.promote_types(attention.dtype, torch.float32)
        # B is a triangle wave of `shift`. The gradient of abs() at 0 is 0, so with abs() `shift` would stay at shift_init=0.
        turned = torch.remainder(self.shift.to(wide) + math.pi, 2 * math.pi) - math.pi
        return 0.5 * torch.cos(attention.to(wide) + torch.where(turned < 0, -turned, turned)) + 0.5

    def forward(self, input: Tensor) -> Tensor:
        """Multiply the input by the mask, 0 or 1."""
        if not isinstance(input, Tensor):
            return node(self, input)
        probability = self.probability(input)
        # The limit is in (0, 1], so that M = 0 is never rounded up and M = 1 always is.
        limit = 1 - torch.rand_like(probability) if self.training else 0.5
        ones = (limit <= probability).to(probability.dtype)
        self._last = probability, ones.detach().mean()
        # The difference is exactly 0, so the mask stays 0 or 1; its gradient is the gradient of M.
        mask = ones + (probability - probability.detach())
        return input * mask.to(input.dtype)

    def penalty(self) -> Tensor:
        """Return mean(M² / 2) of the last forward, a differentiable 0-d tensor. In the loss it makes the layer drop features.

        Raises:
            RuntimeError: if the layer was not called yet.
        """
        return self._of_last_forward()[0].square().mean() / 2

    @property
    def share_of_ones(self) -> Tensor:
        """The share of features that the last forward kept, 0-d. RuntimeError if the layer was not called yet."""
        return self._of_last_forward()[1]

    def _of_last_forward(self) -> tuple[Tensor, Tensor]:
        if self._last is None:
            raise RuntimeError("LearnedDropout was not called yet, and its mask depends on the input; call it first")
        return self._last

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}  # a graph can be neither pickled nor copied

    __prepare_scriptable__ = refuse_script

    def extra_repr(self) -> str:
        """Return the arguments that construct this layer."""
        bias, causal = ", bias=True" if self.qkv.bias is not None else "", ", causal=True" if self.causal else ""
        return f"{self.embed_dim}, {self.n_head}, shift_init={self.shift_init}{bias}{causal}"
