"""Nested dropout with a choice of laws of K."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor, nn

from .._torch import constant_in_graphs
from ..dims import as_given, check_dims, check_float, check_layout, features_of, sample_shape
from ..distribution import CensoredGeometric, check_p
from ..functional import keep_first
from ..tracing import node, refuse_script

_LAWS = ("uniform", "log_uniform", "geometric", "power_of_two", "censored_geometric")
_GRID = 2**48  # a draw is one of this many equally likely integers


def widths_law(law: str, n: int, min_k: int = 0, p: float | None = None, ratio: float | None = None) -> Tensor:
    """Return P(K = k) for k = 0 … n, of shape (n + 1,), in float64. `NestedDropout` describes and checks the arguments.

    Raises:
        ValueError: if `min_k` is greater than n, or `p` greater than 1 − min_k/n.
    """
    if min_k > n:
        raise ValueError(f"min_k={min_k} is greater than the {n} features; give {n} or less")
    probability = torch.zeros(n + 1, dtype=torch.float64)
    if law == "uniform":
        probability[min_k:] = 1
    elif law == "log_uniform":
        # Between numbers k and k + 1 the density 1 / k integrates to log(1 + 1 / k).
        probability[max(1, min_k) :] = torch.arange(max(1, min_k), n + 1, dtype=torch.float64).reciprocal().log1p()
    elif law == "geometric" and ratio is not None:
        probability[min_k:] = ratio ** torch.arange(n + 1 - min_k, dtype=torch.float64)
    elif law == "power_of_two":
        sizes = [2**power for power in range(n.bit_length()) if min_k <= 2**power]
        probability[[*sizes, n]] = 1
    elif p is not None:
        # K = min_k + K', where K' is TailDropout's law on the other n − min_k features. If K' drops the share
        # p·n / (n − min_k) of these, the mean of K is n(1 − p).
        others, dropped = n - min_k, p * n
        if dropped > others * (1 + 1e-12):
            raise ValueError(
                f"p={p} is too much for min_k={min_k} of {n} features, of which at most {others} can be dropped: "
                f"give p={others / n} or less"
            )
        inner = CensoredGeometric(min(1.0, dropped / others), others) if others else None
        probability[min_k:] = inner.log_prob(inner.enumerate_support()).exp() if inner else 1
    return probability / probability.sum()


_kept: dict[tuple[object, ...], Tensor] = {}


@constant_in_graphs
def _thresholds(law: str, n: int, min_k: int, p: float | None, ratio: float | None, device: torch.device) -> Tensor:
    """Return P(K ≤ k) for k = 0 … n − 1 as int64 multiples of 1/`_GRID`, and keep the tensor for the next call."""
    key = law, n, min_k, p, ratio, device
    thresholds = _kept.get(key)
    if thresholds is None:
        at_most = widths_law(law, n, min_k, p, ratio).cumsum(0)[:-1]
        thresholds = (at_most * _GRID).round().to(torch.int64).clamp(max=_GRID).to(device)
        if type(thresholds) is Tensor:  # a fake tensor is not kept
            if len(_kept) >= 128:
                _kept.clear()
            _kept[key] = thresholds
    return thresholds


def _check_min_k(min_k: object) -> int:
    if isinstance(min_k, bool) or not isinstance(min_k, Integral):
        raise TypeError(f"min_k={min_k!r} has type {type(min_k).__name__}; give an int")
    if min_k < 0:
        raise ValueError(f"min_k={min_k} is negative; give 0 (K may be 0) up to the number of features")
    return int(min_k)


def _check_whole(whole: object) -> float:
    if isinstance(whole, bool) or not isinstance(whole, Real):
        raise TypeError(f"whole={whole!r} has type {type(whole).__name__}; give a number between 0 and 1")
    if not 0 <= float(whole) <= 1:
        raise ValueError(f"whole={whole} is no share of the samples; give a number between 0 and 1")
    return float(whole)


def _check_ratio(ratio: object) -> float:
    if isinstance(ratio, bool) or not isinstance(ratio, Real):
        raise TypeError(f"ratio={ratio!r} has type {type(ratio).__name__}; give a number above 0, at most 1")
    if not 0 < float(ratio) <= 1:
        raise ValueError(f"ratio={ratio}; give a number above 0, at most 1")
    return float(ratio)


class NestedDropout(nn.Module):
    r"""In training, keep a random number K of each sample's first features, by a law of your choice.

    Only the law of K differs from `TailDropout`: `keep_first` is the same, the output is not rescaled, and evaluation keeps all
    features. With every law K can be n, and K is never below `min_k`. Whatever the law, each sample keeps all features with
    probability `whole`, an attribute that may change between steps: it may rise during training, say.

    ====================  ===========================================================================================
    law                   P(K = k)
    ====================  ===========================================================================================
    `uniform`             equal for k = min_k … n. As in ordered dropout, with every width.
    `log_uniform`         proportional to log(1 + 1/k) for k = max(1, min_k) … n: between 1 and 2 as often as between 32 and 64.
    `geometric`           proportional to ratio^k for k = min_k … n, so widths far above 1 / (1 − ratio) are rare.
                          Rippel et al. have min_k = 1.
    `power_of_two`        equal for n and for each of 1, 2, 4 … in min_k … n. These are the sizes of Matryoshka
                          representations.
    `censored_geometric`  TailDropout's law on the features after the first min_k. p is the expected share of all n
                          features dropped, at most 1 − min_k/n. With min_k = 0 it is TailDropout.
    ====================  ===========================================================================================

    From Rippel, Gelbart & Adams 2014, "Learning ordered representations with nested dropout"; Kusupati et al. 2022, "Matryoshka
    representation learning" (who add up the losses of all sizes, while this layer draws one size); Horváth et al. 2021, "FjORD:
    fair and accurate federated learning under heterogeneous targets with ordered dropout".

    Args:
        law: a name from the table. Default: "uniform"
        min_k: the smallest number of features kept. Default: 0
        p: drop probability in [0, 1]; required by `censored_geometric`, and not allowed for other laws.
        ratio: P(K = k + 1) / P(K = k), in (0, 1]; required by `geometric`, and not allowed for other laws.
        whole: the probability that a sample keeps all features whatever the law, in [0, 1]. Compiled code is compiled again for
            another value. Default: 0
        batch_dim: the dim or dims whose every index is a sample with its own K; `()` draws one K for the whole input.
            Default: 0
        dropout_dim: the dim of features. Default: -1

    Raises:
        TypeError: if an argument has a wrong type, or `p` or `ratio` is missing or not allowed for the law; in training, if the
            input is not float.
        ValueError: if an argument is out of range; in training, if `min_k` is greater than n, or `p` than 1 − min_k/n.

    Shape:
        Input and output: :math:`(*)`, the same, with one dim or more. An input that lacks a dim raises IndexError.

    Examples:
        >>> layer = NestedDropout("censored_geometric", min_k=1, p=0.5)
        >>> (layer(torch.ones(100, 8)).sum(1) >= 1).all()
        tensor(True)
    """

    def __init__(
        self,
        law: str = "uniform",
        min_k: int = 0,
        *,
        p: float | None = None,
        ratio: float | None = None,
        whole: float = 0.0,
        batch_dim: int | Sequence[int] = 0,
        dropout_dim: int = -1,
    ) -> None:
        super().__init__()
        if law not in _LAWS:
            raise ValueError(f"law={law!r} is none of {', '.join(map(repr, _LAWS))}")
        for name, value, owner in (("p", p, "censored_geometric"), ("ratio", ratio, "geometric")):
            if (law == owner) is not (value is not None):
                wanted = (
                    f"needs {name}: give {name}=0.5, say" if law == owner else f"has no {name}; {owner!r} has: leave it out"
                )
                raise TypeError(f"{name}={value!r}, but the law {law!r} {wanted}")
        self._batch_dims, self.dropout_dim = check_dims(batch_dim, dropout_dim)
        self.law, self.min_k, self.ratio = law, _check_min_k(min_k), None if ratio is None else _check_ratio(ratio)
        self.p, self.whole = None if p is None else check_p(p), _check_whole(whole)
        self.batch_dim = as_given(batch_dim, self._batch_dims)

    def forward(self, input: Tensor) -> Tensor:
        """Drop the tail of the input's features."""
        if not isinstance(input, Tensor):
            return node(self, input)
        check_layout(input)
        shape, feature = sample_shape(input.shape, self._batch_dims, self.dropout_dim)
        count = input.numel()
        if not self.training or (type(count) is int and count == 0):
            return input
        check_float(input)
        return keep_first(input, self.draw(shape, features_of(input, feature), input.device), feature)

    def draw(self, shape: Sequence[int], n: int, device: torch.device | str = "cpu") -> Tensor:
        """Draw an independent K of n features for each sample: an int64 tensor of this shape.

        For a layer that takes k, such as `TailDropout.set_k`, so that `TailMLP` skips features dropped by another law.

        Raises:
            TypeError: if `whole` is not a number.
            ValueError: if `whole` is outside [0, 1], `min_k` is greater than n, or `p` than 1 − min_k/n.
        """
        thresholds = _thresholds(self.law, n, self.min_k, self.p, self.ratio, torch.device(device))
        if whole := _check_whole(self.whole):
            thresholds = ((1 - whole) * thresholds.double()).round().to(torch.int64)
        return torch.searchsorted(thresholds, torch.randint(_GRID, tuple(shape), device=device), right=True)

    __prepare_scriptable__ = refuse_script

    def extra_repr(self) -> str:
        """Return the arguments that construct this layer."""
        optional = ("p", self.p), ("ratio", self.ratio), ("whole", self.whole or None)
        given = "".join(f", {name}={value}" for name, value in optional if value is not None)
        return f"{self.law!r}, min_k={self.min_k}{given}, batch_dim={self.batch_dim}, dropout_dim={self.dropout_dim}"
