"""Nested dropout by other laws of k than TailDropout's."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor, nn

from .._torch import constant_in_graphs
from ..dims import as_given, check_dims, features_of, refuse_strided, sample_shape
from ..distribution import CensoredGeometric, check_p
from ..functional import check_float, keep_first
from ..tracing import node, refuse_script

_LAWS = ("uniform", "geometric", "power_of_two", "censored_geometric")
_GRID = 2**48  # a draw is one of so many equally likely integers


def widths_law(law: str, n: int, min_k: int = 0, p: float | None = None, ratio: float | None = None) -> Tensor:
    """P(K = k) for k = 0 … n, in float64: see `NestedDropout`, which checks the arguments.

    Raises:
        ValueError: if min_k is greater than n, or p cannot be reached.
    """
    if min_k > n:
        raise ValueError(f"min_k={min_k} is greater than the {n} features; give {n} or less")
    probability = torch.zeros(n + 1, dtype=torch.float64)
    if law == "uniform":
        probability[min_k:] = 1
    elif law == "geometric" and ratio is not None:
        probability[min_k:] = ratio ** torch.arange(n + 1 - min_k, dtype=torch.float64)
    elif law == "power_of_two":
        sizes = [2**power for power in range(n.bit_length()) if min_k <= 2**power]
        probability[[*sizes, n]] = 1
    elif p is not None:
        # K = min_k + K', with K' on the n − min_k others: its mean is n(1 − p) if K' drops the share p·n / (n − min_k).
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
    """P(K ≤ k), k = 0 … n − 1, on the grid of the draws; kept for the next call."""
    key = law, n, min_k, p, ratio, device
    thresholds = _kept.get(key)
    if thresholds is None:
        at_most = widths_law(law, n, min_k, p, ratio).cumsum(0)[:-1]
        thresholds = (at_most * _GRID).round().to(torch.int64).clamp(max=_GRID).to(device)
        if type(thresholds) is Tensor:  # and none that is fake
            if len(_kept) >= 128:
                _kept.clear()
            _kept[key] = thresholds
    return thresholds


def _check_min_k(min_k: object) -> int:
    if isinstance(min_k, bool) or not isinstance(min_k, Integral):
        raise TypeError(f"min_k={min_k!r} is a {type(min_k).__name__}; give an int")
    if min_k < 0:
        raise ValueError(f"min_k={min_k} is negative; give 0 (K may be 0) up to the number of features")
    return int(min_k)


def _check_ratio(ratio: object) -> float:
    if isinstance(ratio, bool) or not isinstance(ratio, Real):
        raise TypeError(f"ratio={ratio!r} is a {type(ratio).__name__}; give a number above 0, at most 1")
    if not 0 < float(ratio) <= 1:
        raise ValueError(f"ratio={ratio}; give a number above 0, at most 1")
    return float(ratio)


class NestedDropout(nn.Module):
    r"""In training, keep a random number K of each sample's first features, by a law of your choice.

    It differs from `TailDropout` in the law of K alone: the same `keep_first`, no rescaling, all features in evaluation. The
    full width n is among the values of every law, and no value is below `min_k`.

    ====================  ===========================================================================================
    law                   P(K = k)
    ====================  ===========================================================================================
    `uniform`             the same for k = min_k … n. As in ordered dropout, at every width.
    `geometric`           proportional to ratio^k for k = min_k … n, so that widths above 1 / (1 − ratio) are rare.
                          Nested dropout has min_k = 1.
    `power_of_two`        the same for each of 1, 2, 4 … that lies in min_k … n, and for n. The sizes of Matryoshka
                          representations.
    `censored_geometric`  TailDropout's law on the features after the first min_k. p is the expected share of all n
                          that is dropped, at most 1 − min_k/n; TailDropout itself is min_k = 0.
    ====================  ===========================================================================================

    From Rippel, Gelbart & Adams 2014, "Learning ordered representations with nested dropout"; Kusupati et al. 2022, "Matryoshka
    representation learning" (which adds up the losses of all sizes where this draws one); Horváth et al. 2021, "FjORD: fair and
    accurate federated learning under heterogeneous targets with ordered dropout".

    Args:
        law: one of those above. Default: "uniform"
        min_k: the fewest features kept. Default: 0
        p: drop probability in [0, 1]; of `censored_geometric` only, which needs it.
        ratio: P(K = k + 1) / P(K = k), in (0, 1]; of `geometric` only, which needs it.
        batch_dim: the dim, or dims, whose every index draws its own K; `()`: one K for the whole input. Default: 0
        dropout_dim: the dim of features. Default: -1

    Raises:
        TypeError: if an argument is of a wrong type, or is missing or given for a law that has none; in training, if the input
            is not float.
        ValueError: if an argument is out of range; in training, if min_k is greater than n, or p than 1 − min_k/n.

    Shape:
        Input and output: :math:`(*)`, the same, with one dim or more. IndexError or ValueError if the dims do not fit it.

    Example:
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
        self.p = None if p is None else check_p(p)
        self.batch_dim = as_given(batch_dim, self._batch_dims)

    def forward(self, input: Tensor) -> Tensor:
        """Drop the tail of the input's features."""
        if not isinstance(input, Tensor):
            return node(self, input)
        refuse_strided(input)
        shape, feature = sample_shape(input.shape, self._batch_dims, self.dropout_dim)
        count = input.numel()
        if not self.training or (type(count) is int and count == 0):
            return input
        check_float(input)
        n = features_of(input, feature)
        thresholds = _thresholds(self.law, n, self.min_k, self.p, self.ratio, input.device)
        draw = torch.randint(_GRID, shape, device=input.device)
        return keep_first(input, torch.searchsorted(thresholds, draw, right=True), feature)

    __prepare_scriptable__ = refuse_script

    def extra_repr(self) -> str:
        """The arguments that construct this layer."""
        given = "".join(f", {name}={value}" for name, value in (("p", self.p), ("ratio", self.ratio)) if value is not None)
        return f"{self.law!r}, min_k={self.min_k}{given}, batch_dim={self.batch_dim}, dropout_dim={self.dropout_dim}"
