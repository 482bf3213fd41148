"""The closed forms against sums over every mask and every k, against ridge regression, and against the limit of SGD."""

import itertools
from collections.abc import Iterator

import oracles
import pytest
import torch
from torch import Tensor, nn

from taildropout import TailDropout
from taildropout.baselines import dropout_moments, marginal_loss, marginal_solution, tail_dropout_moments

P = pytest.mark.parametrize("p", [0.0, 0.01, 0.3, 0.5, 0.9])
N = pytest.mark.parametrize("n", [1, 2, 8])


def problem(n: int = 8, rows: int = 30) -> tuple[Tensor, Tensor]:
    """Correlated inputs of different size, and noisy targets."""
    X = torch.randn(rows, n, dtype=torch.float64) @ torch.randn(n, n, dtype=torch.float64)
    return X, X @ torch.randn(n, dtype=torch.float64) + torch.randn(rows, dtype=torch.float64)


def every_mask(n: int, p: float) -> Iterator[tuple[float, Tensor]]:
    """Return all 2^n masks of dropout with their probabilities."""
    for mask in itertools.product([0.0, 1.0], repeat=n):
        kept = int(sum(mask))
        yield (1 - p) ** kept * p ** (n - kept), torch.tensor(mask, dtype=torch.float64)


def every_k(n: int, p: float) -> Iterator[tuple[float, Tensor]]:
    """Return all prefixes with their probabilities."""
    for k, probability in enumerate(oracles.pmf(p, n)):
        yield float(probability), (torch.arange(1, n + 1) <= k).double()


KINDS = {"dropout": (dropout_moments, every_mask), "tail dropout": (tail_dropout_moments, every_k)}
KIND = pytest.mark.parametrize("kind", KINDS)


@P
@N
@KIND
def test_moments_are_sums_over_every_mask(kind: str, n: int, p: float) -> None:
    moments, masks = KINDS[kind]
    mean, second = moments(n, p)
    torch.testing.assert_close(mean, sum(weight * mask for weight, mask in masks(n, p)))
    torch.testing.assert_close(second, sum(weight * torch.outer(mask, mask) for weight, mask in masks(n, p)))


@P
@N
@KIND
def test_the_loss_is_the_sum_over_every_mask(kind: str, n: int, p: float) -> None:
    moments, masks = KINDS[kind]
    (X, y), weight = problem(n), torch.randn(n, dtype=torch.float64)
    # Every row has a mask of its own, but they add up: so it makes no difference that all have the same one here.
    expected = sum(share * ((y - (X * mask) @ weight) ** 2).sum() for share, mask in masks(n, p))
    torch.testing.assert_close(marginal_loss(X, y, weight, moments(n, p)), expected)


@P
@N
@KIND
def test_the_solution_is_that_of_least_squares_over_every_mask(kind: str, n: int, p: float) -> None:
    moments, masks = KINDS[kind]
    X, y = problem(n)
    stacked = torch.cat([share**0.5 * X * mask for share, mask in masks(n, p) if share])
    target = torch.cat([share**0.5 * y for share, _ in masks(n, p) if share])
    expected = torch.linalg.lstsq(stacked, target).solution
    torch.testing.assert_close(marginal_solution(X, y, moments(n, p)), expected, rtol=1e-7, atol=1e-9)


@P
@KIND
def test_the_solution_has_no_gradient_left(kind: str, p: float) -> None:
    X, y = problem()
    moments = KINDS[kind][0](8, p)
    solution = marginal_solution(X, y, moments).requires_grad_()
    (gradient,) = torch.autograd.grad(marginal_loss(X, y, solution, moments), solution)
    assert gradient.abs().max() < 1e-9 * (X.T @ y).abs().max()


@P
def test_dropout_is_ridge_regression(p: float) -> None:
    (X, y), weight = problem(), torch.randn(8, dtype=torch.float64)
    keep, gamma = 1 - p, X.square().sum(0).sqrt()
    ridge = ((y - keep * X @ weight) ** 2).sum() + keep * (1 - keep) * ((gamma * weight) ** 2).sum()
    torch.testing.assert_close(marginal_loss(X, y, weight, dropout_moments(8, p)), ridge)
    # The rescaled mask of nn.Dropout gives the same loss at 1 − p times the weight.
    torch.testing.assert_close(marginal_loss(X, y, keep * weight, dropout_moments(8, p, rescale=True)), ridge)
    solutions = [marginal_solution(X, y, dropout_moments(8, p, rescale=rescale)) for rescale in (False, True)]
    torch.testing.assert_close(keep * solutions[0], solutions[1])


@KIND
def test_without_dropout_it_is_least_squares_and_with_nothing_else_it_is_0(kind: str) -> None:
    X, y = problem()
    moments = KINDS[kind][0]
    torch.testing.assert_close(marginal_solution(X, y, moments(8, 0)), torch.linalg.lstsq(X, y).solution)
    assert not marginal_solution(X, y, moments(8, 1)).any()
    torch.testing.assert_close(marginal_loss(X, y, torch.ones(8), moments(8, 1)), y @ y)


def test_orthogonal_inputs_are_shrunk_by_dropout_and_not_by_tail_dropout() -> None:
    # With XᵀX diagonal: rXᵀy / r for both, coefficient by coefficient, as μ and the diagonal of S agree; only what
    # correlates is shrunk. Rescaled, dropout shrinks all by 1 − p.
    X, y = torch.linalg.qr(problem()[0]).Q, problem()[1]
    for moments in (dropout_moments(8, 0.4), tail_dropout_moments(8, 0.4)):
        torch.testing.assert_close(marginal_solution(X, y, moments), X.T @ y)
    torch.testing.assert_close(marginal_solution(X, y, dropout_moments(8, 0.4, rescale=True)), 0.6 * X.T @ y)


def test_features_that_hardly_come_are_solved_for_all_the_same() -> None:
    X, y = problem()
    moments = tail_dropout_moments(8, 0.9999)
    assert moments[0][-1] < 1e-20 * moments[0][0]
    solution = marginal_solution(X, y, moments)
    # In units of the root of P(K ≥ j), the system is well conditioned.
    mean, second = moments
    unit = mean.sqrt()
    matrix, right = (X.T @ X) * second / torch.outer(unit, unit), X.T @ y * mean / unit
    torch.testing.assert_close(solution * unit, torch.linalg.solve(matrix, right), rtol=1e-3, atol=0)


def test_an_input_that_is_0_and_one_that_comes_twice() -> None:
    X, y = problem(3)
    X[:, 1] = 0
    moments = tail_dropout_moments(3, 0.4)
    solution = marginal_solution(X, y, moments)
    assert solution[1] == 0
    twice = torch.cat([X[:, :1], X[:, :1]], 1)
    torch.testing.assert_close(
        twice @ marginal_solution(twice, y, dropout_moments(2, 0)), X[:, :1] @ (X[:, :1].T @ y) / (X[:, 0] @ X[:, 0])
    )


@pytest.mark.parametrize("kind", ["nn.Dropout", "TailDropout"])
def test_it_is_the_limit_of_sgd(kind: str) -> None:
    """Averaged SGD through the real layer ends at the solution: |z| < 6 of the mean of 32 batches' means, seeds fixed."""
    X, y = problem(4, 20)
    X = X / X.square().mean(0).sqrt()
    y = X @ torch.tensor([1.0, -2.0, 0.5, 1.0], dtype=torch.float64) + torch.randn(20, dtype=torch.float64)
    p, steps, lr = 0.4, 6000, 0.002
    layer = nn.Dropout(p) if kind == "nn.Dropout" else TailDropout(p)
    moments = dropout_moments(4, p, rescale=True) if kind == "nn.Dropout" else tail_dropout_moments(4, p)
    solution = marginal_solution(X, y, moments)
    weight, iterates = torch.zeros(4, dtype=torch.float64), []
    for _ in range(steps):
        masked = layer(X)
        # The error is quadratic, so that the mean of the iterates is the solution itself at any step size that converges.
        weight = weight + lr * (masked.T @ (y - masked @ weight))
        iterates.append(weight)
    batches = torch.stack(iterates[400:]).reshape(28, -1, 4).mean(1)
    z = (batches.mean(0) - solution) / (batches.std(0) / 28**0.5)
    assert z.abs().max() < 6
    # It is another solution that is far off, so the test can tell them apart.
    other = marginal_solution(X, y, dropout_moments(4, 0))
    assert ((batches.mean(0) - other) / (batches.std(0) / 28**0.5)).abs().max() > 12


def test_float32_inputs_are_solved_in_float64() -> None:
    X, y = problem()
    solution = marginal_solution(X.float(), y.float(), tail_dropout_moments(8, 0.3))
    assert solution.dtype == torch.float64
    torch.testing.assert_close(solution, marginal_solution(X, y, tail_dropout_moments(8, 0.3)), rtol=1e-4, atol=1e-4)


def test_arguments_that_do_not_fit_are_refused() -> None:
    X, y = problem()
    moments = dropout_moments(8, 0.5)
    for make in (dropout_moments, tail_dropout_moments):
        for n, p, error in [(0, 0.5, ValueError), (2.0, 0.5, TypeError), (3, 1.5, ValueError), (3, "0.5", TypeError)]:
            with pytest.raises(error, match=r"(give|is a number|is an int)"):
                make(n, p)
    with pytest.raises(ValueError, match="p=1 keeps nothing that could be rescaled"):
        dropout_moments(3, 1, rescale=True)
    for arguments, message in [
        ((X, y[:-1], moments), r"X has shape \(30, 8\) and y \(29,\); give \(N, n\) and \(N,\)"),
        ((X, y[:, None], moments), r"y \(30, 1\)"),
        ((X[0], y, moments), r"X has shape \(8,\)"),
        ((X[:, :5], y, moments), r"X has 5 columns; make them with n=5"),
    ]:
        with pytest.raises(ValueError, match=message):
            marginal_solution(*arguments)
    with pytest.raises(TypeError, match="y has type list; give a tensor"):
        marginal_solution(X, y.tolist(), moments)
    with pytest.raises(TypeError, match=r"X has dtype torch.int64; give a float tensor: X.float\(\)"):
        marginal_solution(X.long(), y, moments)
    with pytest.raises(ValueError, match=r"weight has shape \(7,\); give \(8,\)"):
        marginal_loss(X, y, torch.ones(7), moments)
