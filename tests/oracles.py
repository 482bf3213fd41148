"""Slow, obvious float64 reference results, computed without the package, and faulty laws that the checks must reject."""

import itertools

import mpmath
import numpy as np
import scipy.optimize
import torch
from torch import Tensor


def keep_first(input: Tensor, k: int | Tensor, dim: int = -1) -> Tensor:
    """Keep feature j = 1 … n along `dim` iff j ≤ k. A tensor k is 0-d, or has the input's dims with size 1 at `dim`."""
    output = input.detach().clone()
    dim = dim % input.dim()
    n = input.shape[dim]
    k = torch.as_tensor(k).expand([1 if at == dim else size for at, size in enumerate(input.shape)])
    for index in itertools.product(*(range(size) for size in k.shape)):
        kept = k[index].item()
        for j in range(1, n + 1):
            if not j <= kept:
                output[(*index[:dim], j - 1, *index[dim + 1 :])] = 0
    return output


def keep_first_at_once(input: Tensor, k: Tensor, dim: int = -1) -> Tensor:
    """Compute `keep_first` without loops, for large tensors on any device."""
    place = torch.arange(1, input.shape[dim] + 1, device=input.device)
    place = place.reshape(-1, *[1] * (input.dim() - 1 - dim % input.dim()))
    return torch.where(place <= k, input, torch.zeros((), dtype=input.dtype, device=input.device))


def is_prefix(mask: Tensor, dim: int = -1) -> bool:
    """Return True if along `dim` no kept feature (True) follows a dropped one."""
    mask = mask.bool().movedim(dim, -1)
    return not (mask[..., 1:] & ~mask[..., :-1]).any().item()


def widths(output: Tensor, dim: int = -1) -> Tensor:
    """Return the number of ones along `dim` of an output for an input of ones; ValueError if they are not a prefix."""
    kept = output == 1
    if not (kept | (output == 0)).all():
        raise ValueError("an output is neither 0 nor the 1 that came in")
    if not is_prefix(kept, dim):
        raise ValueError("the kept features are no prefix")
    return kept.sum(dim)


def mean_kept(rate: float, n: int) -> float:
    """Return (1/n) Σ_{j=1..n} e^(−rate·j), term by term."""
    return float(np.exp(-rate * np.arange(1, n + 1)).sum() / n)


def mean_dropped(rate: float, n: int) -> float:
    """Return (1/n) Σ_{j=1..n} (1 − e^(−rate·j)), term by term."""
    return float(-np.expm1(-rate * np.arange(1, n + 1)).sum() / n)


def share_kept(rate: mpmath.mpf, n: int) -> mpmath.mpf:
    """Return `mean_kept` as a geometric series, (e^(−rate) − e^(−rate(n + 1))) / (1 − e^(−rate)) / n, in 700 digits."""
    with mpmath.workdps(700):
        q = mpmath.exp(-mpmath.mpf(rate))
        return (q - q ** (n + 1)) / (1 - q) / n


def rate(p: float, n: int) -> float:
    """Return the rate for a mean share p of dropped features: a root of the explicit sum. For 1e-12 < p < 1, n ≤ 10⁵."""

    def excess(log_rate: float) -> float:
        # Use the smaller share, because 1 − (a small number) loses digits.
        lam = np.exp(log_rate)
        return float(np.log(mean_dropped(lam, n) / p) if p < 0.5 else np.log((1 - p) / mean_kept(lam, n)))

    # Bounds: 1 − p ≤ e^(−rate), since the first feature is kept most often; p ≤ rate·(n + 1)/2, since 1 − e^(−x) ≤ x.
    bracket = np.log(p / (n + 1)), np.log(-np.log1p(-p)) + 1e-9
    return float(np.exp(scipy.optimize.brentq(excess, *bracket, xtol=1e-14, rtol=1e-14)))


def pmf(p: float, n: int) -> np.ndarray:
    """Return P(K = k) for k = 0 … n: that the exponential is in [k, k + 1), for k = n that it is n or more."""
    if p in (0, 1):
        certain: np.ndarray = np.eye(n + 1)[n if p == 0 else 0]
        return certain
    lam = rate(p, n)
    at_least = np.exp(-lam * np.arange(n + 1))
    return np.append(at_least[:-1] * -np.expm1(-lam), at_least[-1])


def original_rate(p: float, n: int) -> float:
    """Return the original package's rate 1/(a·n), where a(1 − e^(−1/a)) = 1 − p: exact only in the limit of large n."""
    return 1 / (n * scipy.optimize.brentq(lambda a: a * -np.expm1(-1 / a) - (1 - p), 1e-3, 1e8, xtol=1e-14))


def original_k(p: float, n: int, samples: int, dtype: torch.dtype) -> Tensor:
    """Draw K as the original package does: compare a uniform with P(E < j), both in the input's dtype."""
    dropped = 1 - torch.exp(-torch.arange(1, n + 1).to(dtype) * original_rate(p, n))
    return torch.cat([(dropped < torch.rand(part, 1, dtype=dtype)).sum(1) for part in _parts(samples, 10_000)])


def exponential_k(rate: float, n: int, samples: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw min(n, ⌊E⌋) with E rounded to a dtype: exact in float64, coarse in bfloat16."""
    return torch.empty(samples, dtype=torch.float64).exponential_(rate).to(dtype).double().floor().clamp(max=n).long()


def one_uniform_k(rate: float, n: int, samples: int) -> Tensor:
    """Draw K from one uniform on a grid of 2⁻²⁴, which skips most small k if the rate is small."""
    return (-torch.log1p(-torch.rand(samples)) / rate).floor().clamp(max=n).long()


def _parts(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
