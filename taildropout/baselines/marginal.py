r"""Linear regression under dropout, the randomness integrated out: what training with dropout tends to, in closed form.

Let X have N rows and n columns, and let every row be multiplied by a random mask m of its own. Then the expected squared error

    L(w) = E ‖y − (M ⊙ X) w‖²  =  ‖y‖² − 2 yᵀX (μ ⊙ w) + wᵀ (XᵀX ⊙ S) w

needs no more of the mask than its moments μ = E[m] and S = E[m mᵀ]: it is quadratic, and (XᵀX ⊙ S) w = μ ⊙ Xᵀy at its minimum.

* **Dropout**, with r = 1 − p the probability to keep: μᵢ = r, and Sᵢⱼ = r² for i ≠ j, Sᵢᵢ = r. So L is ridge regression on the
  shrunken inputs, ‖y − rXw‖² + r(1 − r)‖Γw‖² with Γ = diag(XᵀX)^½ (Srivastava et al. 2014, "Dropout: a simple way to prevent
  neural networks from overfitting", section 9.1, whose p is the r here).
* **Tail dropout**: m is 1 up to K, so mᵢmⱼ = 1 exactly when K ≥ max(i, j), and Sᵢⱼ = P(K ≥ max(i, j)) = e^(−λ max(i, j)), which
  also is μ on its diagonal. The loss is the mean of that of the first k features over all k, by which every coefficient
  is shrunk by those before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..distribution import CensoredGeometric, check_n, check_p

Moments = tuple[Tensor, Tensor]


def dropout_moments(n: int, p: float, *, rescale: bool = False) -> Moments:
    """The moments of dropout's mask.

    Args:
        n: number of features, at least 1.
        p: drop probability in [0, 1].
        rescale: whether the mask is 1/(1 − p) where it keeps, as that of `nn.Dropout` is. The solution is then 1 − p times as
            large. Not possible for p = 1.

    Returns:
        E[m] of shape (n,) and E[m mᵀ] of shape (n, n), in float64.

    Raises:
        TypeError: if `p` is not a number or `n` not an int.
        ValueError: if `p` is outside [0, 1], or 1 with `rescale`, or `n` below 1.
    """
    keep, n = 1 - check_p(p), check_n(n)
    if rescale and keep == 0:
        raise ValueError("p=1 keeps nothing that could be rescaled; give p below 1, or rescale=False")
    mean = torch.full((n,), keep, dtype=torch.float64)
    second = torch.full((n, n), keep**2, dtype=torch.float64).fill_diagonal_(keep)
    return (mean / keep, second / keep**2) if rescale else (mean, second)


def tail_dropout_moments(n: int, p: float) -> Moments:
    """The moments of tail dropout's mask: P(K ≥ j), and P(K ≥ max(i, j)).

    Args:
        n: number of features, at least 1.
        p: drop probability in [0, 1].

    Returns:
        E[m] of shape (n,) and E[m mᵀ] of shape (n, n), in float64.

    Raises:
        TypeError, ValueError: as in `dropout_moments`.
    """
    rate = CensoredGeometric(check_p(p), n).rate
    position = torch.arange(1, n + 1, dtype=torch.float64)
    at_least = torch.exp(-rate * position)
    last = torch.arange(n)
    return at_least, at_least[torch.maximum(last[:, None], last)]


def _check(X: Tensor, y: Tensor, moments: Moments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    for name, tensor in (("X", X), ("y", y)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is a {type(tensor).__name__}; give a tensor")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} has dtype {tensor.dtype}; give a float tensor: {name}.float()")
    mean, second = moments
    if X.dim() != 2 or y.shape != X.shape[:1]:
        raise ValueError(f"X has shape {tuple(X.shape)} and y {tuple(y.shape)}; give (N, n) and (N,)")
    if mean.shape != X.shape[1:] or second.shape != (*mean.shape, *mean.shape):
        raise ValueError(
            f"moments have shapes {tuple(mean.shape)} and {tuple(second.shape)}, X has {X.shape[1]} columns; "
            f"make them with n={X.shape[1]}"
        )
    X, y = X.to(torch.float64), y.to(torch.float64)
    return X, y, mean.to(X), second.to(X)


def marginal_loss(X: Tensor, y: Tensor, weight: Tensor, moments: Moments) -> Tensor:
    """E ‖y − (M ⊙ X) w‖², exactly.

    Args:
        X: inputs, of shape (N, n).
        y: targets, of shape (N,).
        weight: w, of shape (n,).
        moments: E[m] and E[m mᵀ], as from `dropout_moments` and `tail_dropout_moments`.

    Returns:
        A 0-d float64 tensor, differentiable.

    Raises:
        TypeError: if X or y is no float tensor.
        ValueError: if shapes do not fit.
    """
    X, y, mean, second = _check(X, y, moments)
    if weight.shape != mean.shape:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; give {tuple(mean.shape)}")
    weight = weight.to(X)
    return y @ y - 2 * (X.T @ y) @ (mean * weight) + weight @ ((X.T @ X) * second) @ weight


def marginal_solution(X: Tensor, y: Tensor, moments: Moments) -> Tensor:
    """The w that minimises `marginal_loss`, of which it takes the arguments.

    Where several do (an input that is always dropped, or is a sum of others and nothing is dropped), it is one of them, with 0
    for inputs that are always dropped.

    Returns:
        A float64 tensor of shape (n,).

    Raises:
        TypeError, ValueError: as in `marginal_loss`.
    """
    X, y, mean, second = _check(X, y, moments)
    matrix, right = (X.T @ X) * second, mean * (X.T @ y)
    # In units in which the diagonal is 1: P(K ≥ n) may be 1e-30, and a pseudo-inverse would take it for 0.
    unit = matrix.diagonal().sqrt()
    unit = torch.where(unit > 0, 1 / unit, 0)
    solution: Tensor = unit * (torch.linalg.pinv(unit[:, None] * matrix * unit, hermitian=True) @ (unit * right))
    return solution
