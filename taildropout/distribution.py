"""The law of K, the number of first features that tail dropout keeps.

Draw E ~ Exponential(λ) and keep feature j = 1 … n exactly when j ≤ E. Then

* K = min(n, ⌊E⌋), because the kept features are those with j ≤ ⌊E⌋;
* P(K ≥ j) = P(E ≥ j) = e^(−λj) for j ≤ n: a geometric law, censored at n;
* E[K] = Σ_{j=1..n} P(K ≥ j) = Σ_{j=1..n} e^(−λj) = (1 − e^(−λn)) / (e^λ − 1).

The drop probability p is the expected fraction of features dropped, so λ must solve E[K] = n(1 − p). In logarithms, with
φ(x) = log((1 − e^(−x)) / x), this reads φ(λn) − φ(λ) − λ = log(1 − p). Its left side falls strictly in λ, and lies between
−λ(n + 1)/2 (Jensen's inequality) and −λ (each j ≥ 1): a bracket for λ, which bisection halves down to neighbouring floats.
P(K = 0) = 1 − e^(−λ). In the limit n → ∞ with λn = s fixed, (1 − e^(−s)) / s = 1 − p: see `get_scale_param`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

# Below this rate, the grid of 2⁻²⁴ of a uniform (in compiled code and on accelerators) is too coarse: several k share a point.
_FINE_RATE = 2.0**-10


def check_p(p: object) -> float:
    """Return `p` as a float.

    Raises:
        TypeError: if `p` is not a real number.
        ValueError: if `p` is outside [0, 1] or NaN.
    """
    if isinstance(p, bool) or not isinstance(p, Real):
        raise TypeError(f"p={p!r} has type {type(p).__name__}; the drop probability is a number between 0 and 1")
    if not 0 <= float(p) <= 1:
        raise ValueError(f"p={p} is no drop probability; give a number between 0 and 1, the share of features to drop")
    return float(p)


def check_n(n: object, name: str = "n") -> int:
    """Return the number of features `n` as an int; `name` names the argument in messages.

    Raises:
        TypeError: if `n` is not an integer of Python or NumPy.
        ValueError: if `n` is below 1.
    """
    if isinstance(n, bool) or not isinstance(n, Integral):
        raise TypeError(f"{name}={n!r} has type {type(n).__name__}; the number of features is an int")
    if n < 1:
        raise ValueError(f"{name}={n} is no number of features; give 1 or more")
    return int(n)


def _phi(x: float) -> float:
    """Return log((1 − e^(−x)) / x) for x > 0 to full relative precision; near 0 by its Taylor series."""
    if x < 0.25:
        y = x * x
        return -x / 2 + y * (1 / 24 - y * (1 / 2880 - y * (1 / 181440 - y / 9676800)))
    return math.log(-math.expm1(-x) / x)


def _bisect(falling: Callable[[float], float], low: float, high: float, enough: float = 0.0) -> float:
    """Return the root of a falling function in [low, high], to the last bit or until |falling(root)| ≤ `enough`."""
    while low < (middle := low + (high - low) / 2) < high:
        value = falling(middle)
        if abs(value) <= enough:
            return middle
        if value > 0:
            low = middle
        else:
            high = middle
    return middle


@lru_cache(maxsize=4096, typed=True)  # typed: True and 3.0 must not pass for a cached 1 and 3
def rate(p: float, n: int) -> float:
    """Return the rate λ of the exponential behind K at which the expected share of features dropped is exactly `p`.

    Solves (1/n) Σ_{j=1..n} e^(−λj) = 1 − p, as derived at the top of this module.

    Args:
        p: drop probability in [0, 1].
        n: number of features, at least 1.

    Returns:
        λ > 0 in units of 1/feature; 0 for p = 0 (keep all) and inf for p = 1 (keep none).

    Raises:
        TypeError: if `p` is not a number or `n` not an int.
        ValueError: if `p` is outside [0, 1] or `n` below 1.

    Examples:
        >>> round(rate(0.5, 1), 6)  # one feature: P(E ≥ 1) = e^(−λ) = ½, so λ = log 2
        0.693147
    """
    p, n = check_p(p), check_n(n)
    if p == 0:
        return 0.0
    if p == 1:
        return math.inf
    log_keep = math.log1p(-p)
    root = _bisect(lambda x: _phi(x * n) - _phi(x) - x - log_keep, -2 * log_keep / (n + 1), -log_keep)
    return max(root, sys.float_info.min)


def get_scale_param(p: float, tol: float = 0.0) -> float:
    """Return the scale 1/(λn), the mean of the exponential behind K in units of n, in the limit of many features.

    Solves a(1 − e^(−1/a)) = 1 − p for a. For a given number of features use `rate`, which is exact.

    Args:
        p: drop probability in [0, 1].
        tol: relative error allowed in 1 − p, the expected share kept; 0 solves to the last bit. Default: 0

    Returns:
        The scale a ≥ 0: inf for p = 0, 0 for p = 1.

    Raises:
        TypeError: if `p` or `tol` is not a number.
        ValueError: if `p` is outside [0, 1], or `tol` is negative or NaN.

    Examples:
        >>> round(get_scale_param(0.5), 6)
        0.6275
        >>> 1 / (rate(0.5, 10_000) * 10_000)  # close to the limit
        0.62...
    """
    p = check_p(p)
    if isinstance(tol, bool) or not isinstance(tol, Real):
        raise TypeError(f"tol={tol!r} has type {type(tol).__name__}; the tolerance is a number, 0 or more")
    if not tol >= 0:
        raise ValueError(f"tol={tol} is no tolerance; give 0 or more")
    if p == 0 or p == 1:
        return math.inf if p == 0 else 0.0
    log_keep = math.log1p(-p)
    # −x/2 ≤ φ(x) ≤ −log x bracket the root.
    low, high = -2 * log_keep, math.exp(-log_keep)
    return 1 / _bisect(lambda x: _phi(x) - log_keep, low, high, math.log1p(tol))


def exponential_from_uniforms(
    like: Tensor, shape: Sequence[int], scale: float | Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draw exponentials of mean `scale` by inversion, on the device of `like`, in float32 and as fine near 0 as float32.

    A uniform with 24 random bits would give small E in steps of scale·2⁻²⁴, which skip features if the scale is large. So the
    uniform has 48 random bits. It excludes 0 and 1, where E would be 0·inf or inf.
    """
    randint = torch.randint if generator is None else partial(torch.randint, generator=generator)
    bits = randint(2**48, shape, device=like.device, dtype=torch.int64)
    uniform = ((bits.to(torch.float32) + 0.5) * 2.0**-48).clamp(max=1 - 2.0**-24)
    return -torch.log1p(-uniform) * scale


def exponential(like: Tensor, shape: Sequence[int], rate: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw E ~ Exponential(`rate`) on the device of `like`, one element per sample.

    Args:
        like: any tensor on the wanted device; its dtype does not matter.
        shape: shape of the result.
        rate: λ, greater than 0 and finite.
        generator: source of randomness; None means the default generator of the device.

    Returns:
        A tensor of the given shape in float32, or in float64 where CUDA's float32 generator is too coarse. min(n, ⌊E⌋) is a
        draw of K.
    """
    dtype = torch.float32  # on a CPU the generator computes in double precision
    if rate < _FINE_RATE and like.device.type != "cpu":
        if like.device.type != "cuda":  # may lack float64
            return exponential_from_uniforms(like, shape, 1 / rate, generator)
        dtype = torch.float64  # 53 random bits, in one launch
    # vmap supports `new_empty` here, but not `torch.empty`.
    return like.new_empty(shape, dtype=dtype).exponential_(rate, generator=generator)


class CensoredGeometric(Distribution):
    r"""The law of K, the number of first features that tail dropout keeps.

    .. math:: P(K = k) = e^{-\lambda k}(1 - e^{-\lambda}) \text{ for } k < n, \qquad P(K = n) = e^{-\lambda n}

    with λ = `rate(p, n)`, so that the mean is exactly n(1 − p).

    Args:
        p: drop probability in [0, 1]; a number, or a tensor whose shape is the batch shape.
        n: number of features, at least 1.
        validate_args: whether to check arguments and values, as in every `torch.distributions.Distribution`.

    Raises:
        TypeError: if `p` is not a number or a tensor, or `n` not an int.
        ValueError: if `p` is outside [0, 1], or `n` below 1.

    Shape:
        `sample(s)` has shape s + batch shape; `log_prob` and `cdf` broadcast their argument with the batch shape.
        All results are float64, so that every k is exact.

    Examples:
        >>> CensoredGeometric(0.25, 4).mean
        tensor(3., dtype=torch.float64)
        >>> CensoredGeometric(0.5, 8).sample((100,)).shape
        torch.Size([100])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"p": constraints.unit_interval}
    has_enumerate_support = True

    def __init__(self, p: float | Tensor, n: int, validate_args: bool | None = None) -> None:
        self.n = check_n(n)
        if not isinstance(p, Tensor):
            p = torch.tensor(check_p(p), dtype=torch.float64)
        self.p = p.to(torch.float64)
        rates = [rate(each, self.n) for each in self.p.flatten().tolist()]
        self.rate = torch.tensor(rates, dtype=torch.float64, device=self.p.device).reshape(self.p.shape)
        super().__init__(self.p.shape, validate_args=validate_args)

    def __repr__(self) -> str:
        """Return the name and the arguments; a p with several elements is shown by its shape, as in torch's distributions."""
        return f"{super().__repr__()[:-1]}, n: {self.n})"

    def expand(self, batch_shape: Any, _instance: Any = None) -> CensoredGeometric:
        """Return the same law with its batch shape expanded to `batch_shape`."""
        new: CensoredGeometric = self._get_checked_instance(CensoredGeometric, _instance)  # type: ignore[no-untyped-call]
        new.n = self.n
        new.p, new.rate = self.p.expand(batch_shape), self.rate.expand(batch_shape)
        super(CensoredGeometric, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The integers 0 … n."""
        return constraints.integer_interval(0, self.n)

    @property
    def mean(self) -> Tensor:
        """The mean n(1 − p), exact."""
        return self.n * (1 - self.p)

    @property
    def variance(self) -> Tensor:
        """The variance Σ (k − mean)² P(K = k), summed over the support because this sum has no cancellation near p = 0 or 1."""
        support = self.enumerate_support()
        return ((support - self.mean).square() * self._log_prob(support).exp()).sum(0)

    def _rate_times(self, k: Tensor | float) -> Tensor:
        """Return λk; for k = 0 it is 0 even if λ is infinite."""
        k = torch.as_tensor(k, dtype=torch.float64, device=self.p.device)
        return torch.where(k == 0, 0.0, self.rate * k)

    def _log_prob(self, k: Tensor) -> Tensor:
        below = torch.log(-torch.expm1(-self.rate)) - self._rate_times(k)
        return torch.where(k == self.n, -self._rate_times(k), below)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(K = value)."""
        if self._validate_args:
            self._validate_sample(value)
        return self._log_prob(value.to(torch.float64))

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(K ≤ value) for any real value."""
        value = torch.as_tensor(value, dtype=torch.float64, device=self.p.device)
        inside = -torch.expm1(-self._rate_times(value.floor() + 1))
        return torch.where(value < 0, 0.0, torch.where(value >= self.n, 1.0, inside))

    def entropy(self) -> Tensor:
        """Return the entropy λ E[K] − P(K < n) log(1 − e^(−λ)), in nats."""
        surprise = -torch.xlogy(-torch.expm1(-self._rate_times(self.n)), -torch.expm1(-self.rate))
        return surprise + torch.where(self.mean == 0, 0.0, self.rate * self.mean)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return 0 … n along a new first dim, expanded to the batch shape if `expand` is True."""
        values = torch.arange(self.n + 1, dtype=torch.float64, device=self.p.device)
        values = values.reshape(-1, *[1] * len(self.batch_shape))
        return values.expand(-1, *self.batch_shape) if expand else values

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw K = min(n, ⌊E⌋) with E ~ Exponential(λ); the result has shape `sample_shape` + batch shape."""
        shape = self._extended_shape(torch.Size(sample_shape))
        # In float64 Exponential(1)/λ loses nothing; λ = 0 and λ = inf, for p = 0 and p = 1, give the right limits.
        drawn = torch.empty(shape, dtype=torch.float64, device=self.p.device).exponential_() / self.rate
        return drawn.floor().clamp(max=self.n)
