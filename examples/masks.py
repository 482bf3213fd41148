"""Show dropout on a matrix product: first features, random widths, nn.Dropout's subsets, and a truncated SVD.

python -m examples.masks        writes examples/figures/masks.png and examples/results/masks.json

A photograph is a matrix. It is approximated by a product H·W with a few features, learned by gradient descent with the layer on
H: each row of H is a sample with its own K.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

from taildropout import TailDropout, keep_first

from .common.study import BLUE, GREY, ORANGE, Study, one_cycle, progress

SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {"steps": 100},
    "default": {"seed": 0, "features": 16, "steps": 8000, "rate": 0.05, "p": 0.5, "pool": 4},
    "full": {"features": 64, "steps": 40_000, "pool": 2},
}


def photograph(pool: int) -> Tensor:
    """Return scikit-learn's image of a temple as a matrix of centred grey values, the means of `pool` × `pool` pixels."""
    grey = torch.tensor(load_sample_image("china.jpg"), dtype=torch.float32).mean(2) / 255
    pooled = nn.functional.avg_pool2d(grey[None], pool)[0]
    return pooled - pooled.mean()


def factors(target: Tensor, layer: nn.Module, n: int, steps: int, rate: float) -> tuple[Tensor, Tensor]:
    """Learn and return H (rows, n) and W (n, columns) for which layer(H)·W approximates `target` (rows, columns)."""
    rows, columns = target.shape
    h = nn.Parameter(torch.randn(rows, n) / n)
    w = nn.Parameter(torch.randn(n, columns) / n)
    optimizer = torch.optim.Adam([h, w], lr=rate)
    schedule = one_cycle(optimizer, rate, steps, rise=0.1)
    for _ in progress(range(steps), steps, type(layer).__name__):
        optimizer.zero_grad()
        (layer(h) @ w - target).square().mean().backward()
        optimizer.step()
        schedule.step()
    return h.detach(), w.detach()


def error(approximation: Tensor, target: Tensor) -> float:
    """Return the share of the target's variance that the approximation does not explain."""
    return ((approximation - target).square().sum() / target.square().sum()).item()


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Factorise with each layer, measure the error at every width, draw the figure."""
    study = Study(__file__, (__doc__ or "").partition("\n")[0], SETTINGS, argv)
    settings = study.settings
    n = settings.features
    target = photograph(settings.pool)
    tail, plain = TailDropout(settings.p), nn.Dropout(settings.p)
    by_tail = study.stored("tail", lambda: factors(target, tail, n, settings.steps, settings.rate))
    by_plain = study.stored("plain", lambda: factors(target, plain, n, settings.steps, settings.rate))
    left, singular, right = torch.linalg.svd(target, full_matrices=False)
    by_svd = left[:, :n] * singular[:n], right[:n]

    widths = [1, 2, 4, 8, n]
    torch.manual_seed(settings.seed)
    cut = {k: torch.arange(n) < k for k in widths}
    subset = {k: torch.randperm(n) < k for k in widths}
    draws = [tail(torch.ones_like(by_tail[0])) for _ in widths]
    rows: list[tuple[str, str, tuple[Tensor, Tensor], list[Tensor]]] = [
        ("SVD,\ntruncated", GREY, by_svd, [cut[k].expand_as(by_svd[0]) for k in widths]),
        ("TailDropout,\nfirst k features", BLUE, by_tail, [cut[k].expand_as(by_tail[0]) for k in widths]),
        ("TailDropout,\na draw in training,\nits own K in each row", BLUE, by_tail, draws),
        (
            "nn.Dropout,\nk features at random,\nn/k times as large",
            ORANGE,
            by_plain,
            [subset[k].expand_as(by_plain[0]) for k in widths],
        ),
    ]
    figure = plt.figure(figsize=(9.6, 5.8), layout="constrained")
    outer = figure.add_gridspec(len(rows), 1 + len(widths), width_ratios=[0.75] + [1] * len(widths))
    for i, (name, colour, (h, w), masks) in enumerate(rows):
        label = figure.add_subplot(outer[i, 0])
        label.axis("off")
        label.text(1, 0.5, name, ha="right", va="center", transform=label.transAxes)
        for j, (k, mask) in enumerate(zip(widths, masks, strict=True)):
            # As nn.Dropout does in training, scale up the kept features.
            approximation = (h * mask) @ w * (n / k if colour == ORANGE else 1)
            inner = outer[i, 1 + j].subgridspec(1, 2, width_ratios=[1, 6], wspace=0.02)
            mask_axes, axes = figure.add_subplot(inner[0]), figure.add_subplot(inner[1])
            mask_axes.imshow(
                mask.numpy(), cmap=ListedColormap(["#F0F0F0", colour]), vmin=0, vmax=1, aspect="auto", interpolation="nearest"
            )
            axes.imshow(approximation.numpy(), cmap="gray", vmin=target.min().item(), vmax=target.max().item(), aspect="auto")
            for each in (mask_axes, axes):
                each.set(xticks=[], yticks=[])
                each.spines[:].set(visible=True, color=GREY, linewidth=0.5)
            what = f"draw {j + 1}" if masks is draws else f"k = {k}"
            axes.set_title(f"{what}: {error(approximation, target):.1%} left", fontsize=9)
    figure.suptitle(
        f"A photograph as H·W with {n} features: the mask on H (colour: kept; row: sample, column: feature), and the product"
    )

    def at_every_width(h: Tensor, w: Tensor) -> list[float]:
        return [error(keep_first(h, k) @ w, target) for k in range(n + 1)]

    curves = {"SVD": at_every_width(*by_svd), "TailDropout": at_every_width(*by_tail), "nn.Dropout": at_every_width(*by_plain)}
    excess = max(a / b - 1 for a, b in zip(curves["TailDropout"], curves["SVD"], strict=True))
    print(f"TailDropout's first k features leave at most {excess:.2%} more than the SVD's, at any k from 0 to {n}")
    return study.save(figure, {"largest_excess_over_svd_of_any_width": excess, "variance_left_by_the_first_k_features": curves})


if __name__ == "__main__":
    main()
