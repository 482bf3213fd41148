r"""Linear regression under dropout, averaged over the random masks: the limit of training with dropout, in closed form.

Let X have N rows and n columns, and let every row be multiplied by its own random mask m. Then the expected squared error

    L(w) = E ‖y − (M ⊙ X) w‖²  =  ‖y‖² − 2 yᵀX (μ ⊙ w) + wᵀ (XᵀX ⊙ S) w

depends on the mask only through its moments μ = E[m] and S = E[m mᵀ]. L is quadratic, and its minimum solves
(XᵀX ⊙ S) w = μ ⊙ Xᵀy.

* **Dropout**, with r = 1 − p the probability to keep: μᵢ = r, and Sᵢⱼ = r² for i ≠ j, Sᵢᵢ = r. So L is ridge regression on the
  shrunken inputs, ‖y − rXw‖² + r(1 − r)‖Γw‖² with Γ = diag(XᵀX)^½ (Srivastava et al. 2014, "Dropout: a simple way to prevent
  neural networks from overfitting", section 9.1, whose p is the r here).
* **Tail dropout**: m is 1 up to K, so mᵢmⱼ = 1 exactly when K ≥ max(i, j), and Sᵢⱼ = P(K ≥ max(i, j)) = e^(−λ max(i, j)). The
  diagonal of S is μ. The loss is the mean over K of the loss with the first K features, so every coefficient is shrunk by the
  coefficients before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..distribution import CensoredGeometric, check_n, check_p

Moments = tuple[Tensor, Tensor]


def dropout_moments(n: int, p: float, *, rescale: bool = False) -> Moments:
    """Return the first two moments of the mask of dropout.

    Args:
        n: number of features, at least 1.
        p: drop probability in [0, 1].
        rescale: if True, a kept feature has the mask 1/(1 − p), as in `nn.Dropout`. The solution is then 1 − p times as
            large. Not possible for p = 1. Default: False

    Returns:
        E[m] of shape (n,) and E[m mᵀ] of shape (n, n), in float64.

    Raises:
        TypeError: if `p` is not a number or `n` not an int.
        ValueError: if `p` is outside [0, 1], `p` is 1 with `rescale`, or `n` is below 1.

    Examples:
        >>> mean, second = dropout_moments(2, 0.5)
        >>> second
        tensor([[0.5000, 0.2500],
                [0.2500, 0.5000]], dtype=torch.float64)
    """
    keep, n = 1 - check_p(p), check_n(n)
    if rescale and keep == 0:
        raise ValueError("p=1 keeps nothing that could be rescaled; give p below 1, or rescale=False")
    mean = torch.full((n,), keep, dtype=torch.float64)
    second = torch.full((n, n), keep**2, dtype=torch.float64).fill_diagonal_(keep)
    return (mean / keep, second / keep**2) if rescale else (mean, second)


def tail_dropout_moments(n: int, p: float) -> Moments:
    """Return the first two moments of the mask of tail dropout: P(K ≥ j) and P(K ≥ max(i, j)).

    Args:
        n: number of features, at least 1.
        p: drop probability in [0, 1].

    Returns:
        E[m] of shape (n,) and E[m mᵀ] of shape (n, n), in float64.

    Raises:
        TypeError: if `p` is not a number or `n` not an int.
        ValueError: if `p` is outside [0, 1] or `n` below 1.

    Examples:
        >>> mean, second = tail_dropout_moments(2, 0.5)
        >>> mean  # the two elements have the mean 1 − p
        tensor([0.6180, 0.3820], dtype=torch.float64)
    """
    rate = CensoredGeometric(check_p(p), n).rate
    position = torch.arange(1, n + 1, dtype=torch.float64)
    at_least = torch.exp(-rate * position)
    last = torch.arange(n)
    return at_least, at_least[torch.maximum(last[:, None], last)]


def _check(X: Tensor, y: Tensor, moments: Moments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return X, y and both moments in float64, after a check of types and shapes."""
    for name, tensor in (("X", X), ("y", y)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} has type {type(tensor).__name__}; give a tensor")
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
    """Return the expected squared error E ‖y − (M ⊙ X) w‖² of linear regression under dropout, exactly.

    Args:
        X: inputs, of shape (N, n).
        y: targets, of shape (N,).
        weight: w, of shape (n,).
        moments: E[m] and E[m mᵀ], as from `dropout_moments` and `tail_dropout_moments`.

    Returns:
        A differentiable 0-d float64 tensor.

    Raises:
        TypeError: if `X` or `y` is not a float tensor.
        ValueError: if the shapes do not fit each other.

    Examples:
        >>> marginal_loss(torch.eye(2), torch.ones(2), torch.ones(2), dropout_moments(2, 0.5))
        tensor(1., dtype=torch.float64)
    """
    X, y, mean, second = _check(X, y, moments)
    if weight.shape != mean.shape:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; give {tuple(mean.shape)}")
    weight = weight.to(X)
    return y @ y - 2 * (X.T @ y) @ (mean * weight) + weight @ ((X.T @ X) * second) @ weight


def marginal_solution(X: Tensor, y: Tensor, moments: Moments) -> Tensor:
    """Return the weights w that minimise `marginal_loss`.

    If several w minimise the loss (a feature is always dropped; or p is 0 and a feature is a linear combination of others), the
    result is one of these, with 0 for features that are always dropped.

    Args:
        X: inputs, of shape (N, n).
        y: targets, of shape (N,).
        moments: E[m] and E[m mᵀ], as from `dropout_moments` and `tail_dropout_moments`.

    Returns:
        A float64 tensor of shape (n,).

    Raises:
        TypeError: if `X` or `y` is not a float tensor.
        ValueError: if the shapes do not fit each other.

    Examples:
        >>> marginal_solution(torch.eye(2), torch.ones(2), dropout_moments(2, 0.5))
        tensor([1., 1.], dtype=torch.float64)
    """
    X, y, mean, second = _check(X, y, moments)
    matrix, right = (X.T @ X) * second, mean * (X.T @ y)
    # Scale the diagonal to 1, because P(K ≥ n) may be 1e-30, which a pseudo-inverse would round to 0.
    unit = matrix.diagonal().sqrt()
    unit = torch.where(unit > 0, 1 / unit, 0)
    solution: Tensor = unit * (torch.linalg.pinv(unit[:, None] * matrix * unit, hermitian=True) @ (unit * right))
    return solution
