"""Linear regression under dropout and TailDropout: the solutions over p, and the variance of SGD around them.

python -m examples.marginal        writes examples/figures/marginal.png and examples/results/marginal.json

Left and middle: the minimum of the expected loss, in closed form (`taildropout.baselines.marginal`), for masks of 0 and 1. As
p grows to 1, dropout tends to n regressions on one feature each, and TailDropout to regressing the residual on one feature
after the other. Right: SGD, on all rows with new masks each step, does not converge; it fluctuates around that minimum. Its
stationary covariance Σ solves a linear equation, exactly: with steps w ← w − η(A w − b), A and b random through the masks,

    Σ = E[(I − ηA) Σ (I − ηA)] + η² Cov(A w* − b)

The expectation is summed over every mask. The points are SGD through the layers themselves. The noise of a step grows and falls
with p(1 − p), but the pull back to the minimum falls as 1 − p, so the variance increases with p.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from taildropout import CensoredGeometric, TailDropout
from taildropout.baselines import dropout_moments, marginal_solution, tail_dropout_moments

from .common.study import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, YELLOW, Study, progress

ROWS, CORRELATION, NOISE, RATE = 100, 0.6, 2.0, 0.0015
WEIGHT = [2.0, -1.5, 1.0, 1.0, -0.5, 0.5]
FEATURES = len(WEIGHT)
COLOURS = [BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY]
PATH = [i / 100 for i in range(100)]
LAYERS = {"nn.Dropout": dropout_moments, "TailDropout": tail_dropout_moments}
SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {"steps": 2000, "p": [0.2, 0.5]},
    "default": {"seed": 1, "steps": 10_000, "runs": 16, "p": [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]},
    "full": {"steps": 100_000},
}


def problem() -> tuple[Tensor, Tensor]:
    """Return correlated, standardised features (ROWS, FEATURES) and centred, noisy targets (ROWS,), in float64."""
    lag = torch.arange(FEATURES, dtype=torch.float64)
    factor = torch.linalg.cholesky(CORRELATION ** (lag - lag[:, None]).abs())
    X = torch.randn(ROWS, FEATURES, dtype=torch.float64) @ factor.T
    X = (X - X.mean(0)) / X.std(0)
    y = X @ torch.tensor(WEIGHT, dtype=torch.float64) + NOISE * torch.randn(ROWS, dtype=torch.float64)
    return X, y - y.mean()


def masks(layer: str, p: float) -> tuple[Tensor, Tensor]:
    """Return all masks of 0 and 1 (masks, FEATURES), and their probabilities (masks,)."""
    if layer == "nn.Dropout":
        every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=FEATURES)), dtype=torch.float64)
        return every, ((1 - p) ** every * p ** (1 - every)).prod(1)
    k = torch.arange(FEATURES + 1)
    return (torch.arange(1, FEATURES + 1) <= k[:, None]).double(), CensoredGeometric(p, FEATURES).log_prob(k).exp()


def stationary_variance(layer: str, p: float, X: Tensor, y: Tensor) -> float:
    """Return the trace of Σ: the mean squared distance of SGD's iterates from the minimum."""
    solution = marginal_solution(X, y, LAYERS[layer](FEATURES, p))
    every, probability = masks(layer, p)
    z = every[:, None] * X  # (masks, rows, features)
    outer = (z[..., :, None] * z[..., None, :]).flatten(2)  # the part of each row in A
    gradient = z * (z @ solution - y)[..., None]  # the part of each row in A w* − b

    def mean(of: Tensor) -> Tensor:
        return torch.einsum("m,m...->...", probability, of)

    def covariance(of: Tensor) -> Tensor:
        """Return the covariance of the sum over rows: rows have independent masks, so their covariances add up."""
        return mean(torch.einsum("mri,mrj->mij", of, of)) - torch.einsum("ri,rj->ij", mean(of), mean(of))

    n = FEATURES
    contraction = torch.eye(n, dtype=torch.float64) - RATE * mean(outer).sum(0).reshape(n, n)
    # E[A Σ A] beyond H Σ H, as a matrix on the entries of Σ: element (ab, cd) is Cov(A_ac, A_bd).
    spread = covariance(outer).reshape(n, n, n, n).permute(0, 2, 1, 3).reshape(n * n, n * n)
    operator = torch.kron(contraction, contraction) + RATE**2 * spread
    noise = RATE**2 * covariance(gradient).flatten()
    sigma = torch.linalg.solve(torch.eye(n * n, dtype=torch.float64) - operator, noise)
    return float(sigma.reshape(n, n).trace())


def sgd_variance(layer: str, p: float, X: Tensor, y: Tensor, steps: int, runs: int) -> Tensor:
    """Return, for each run of SGD with the layer, the mean squared distance from the minimum after its first tenth: (runs,)."""
    solution = marginal_solution(X, y, LAYERS[layer](FEATURES, p))
    drop: nn.Module = TailDropout(p, batch_dim=[0, 1]) if layer == "TailDropout" else nn.Dropout(p)
    scale = 1 - p if layer == "nn.Dropout" else 1  # scale back to a mask of 0 and 1
    copies = X.expand(runs, -1, -1).contiguous()
    weight, total = solution.expand(runs, -1).clone(), torch.zeros(runs, dtype=torch.float64)
    for step in progress(range(steps), steps, f"{layer}, p = {p}"):
        z = drop(copies) * scale
        error = torch.einsum("srn,sn->sr", z, weight) - y
        weight -= RATE * torch.einsum("srn,sr->sn", z, error)
        if step >= steps // 10:
            total += (weight - solution).square().sum(1)
    return total / (steps - steps // 10)


def table(found: dict[str, Any]) -> str:
    """Return the variances as a Markdown table."""
    lines = ["| p | layer | exact | SGD, ± standard error |", "| --- | --- | ---: | ---: |"]
    for i, p in enumerate(found["p"]):
        for layer in LAYERS:
            figures = found[layer]
            sgd = f"{figures['variance of SGD'][i]:.4f} ± {figures['standard error'][i]:.4f}"
            lines.append(f"| {p} | {layer} | {figures['exact variance'][i]:.4f} | {sgd} |")
    return "\n".join(lines)


def draw(found: dict[str, Any], X: Tensor, y: Tensor) -> Figure:
    """Draw the solutions over p for both layers, and the variances: exact as lines, of SGD as points."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    parabola = torch.tensor([p * (1 - p) for p in PATH])
    axes[1].sharey(axes[0])
    for axis, layer in zip(axes[:2], LAYERS, strict=True):
        path = torch.tensor(found[layer]["path"])
        last_label = -torch.inf
        for j in path[-1].argsort().tolist():
            axis.plot(PATH, path[:, j], color=COLOURS[j])
            last_label = max(path[-1, j].item(), last_label + 0.14)  # one above the other where lines meet
            axis.annotate(f"{j + 1}", (1.0, last_label), color=COLOURS[j], va="center", fontsize=8)
        axis.axhline(0, color=GREY, linewidth=0.5, zorder=0)
        axis.set(title=f"{layer}: coefficients at the minimum", xlabel="p", xlim=(0, 1.05))
        beside = axis.twinx()
        beside.plot(PATH, parabola, "--", color=GREY, linewidth=1)
        beside.annotate("p(1 − p)", (0.5, 0.265), color=GREY, ha="center", fontsize=8)
        beside.set(ylim=(0, 1.2), yticks=[])
    axes[0].set_ylabel("coefficient of features 1 … 6")

    last, fine = axes[2], [i / 50 for i in range(1, 43)]
    for layer, colour, marker in [("nn.Dropout", ORANGE, "^"), ("TailDropout", BLUE, "o")]:
        figures = found[layer]
        exact = [stationary_variance(layer, p, X, y) for p in fine]
        last.plot(fine, exact, color=colour, label=f"{layer}, exact")
        bars = {"yerr": figures["standard error"], "fmt": marker, "color": colour, "markersize": 4}
        last.errorbar(found["p"], figures["variance of SGD"], **bars, label=f"{layer}, SGD")
        if layer == "nn.Dropout":
            last.plot(PATH, 4 * max(exact) * parabola, "--", color=GREY, linewidth=1, label="p(1 − p), scaled")
    last.set(title=f"variance of SGD's iterates, step {RATE}", xlabel="p", ylabel="E ‖w − w*‖²", xlim=(0, 1.05), ylim=(0, None))
    last.legend(fontsize=8)
    return figure


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Compute the solutions, run SGD, draw the figure."""
    study = Study(__file__, (__doc__ or "").partition("\n")[0], SETTINGS, argv)
    settings = study.settings
    X, y = problem()
    found: dict[str, Any] = {"p": settings.p, "p of the path": PATH}
    for layer, moments in LAYERS.items():
        done = [
            study.stored(f"{layer}-{p}", partial(sgd_variance, layer, p, X, y, settings.steps, settings.runs))
            for p in settings.p
        ]
        found[layer] = {
            "path": [marginal_solution(X, y, moments(FEATURES, p)).tolist() for p in PATH],
            "exact variance": [stationary_variance(layer, p, X, y) for p in settings.p],
            "variance of SGD": [run.mean().item() for run in done],
            "standard error": [(run.std() / settings.runs**0.5).item() for run in done],
        }
    print(table(found))
    return study.save(draw(found, X, y), found)


if __name__ == "__main__":
    main()
