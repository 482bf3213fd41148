"""A linear autoencoder with TailDropout finds the principal directions in order; with nn.Dropout or no dropout it does not.

python -m examples.pca        writes examples/figures/pca.png and examples/results/pca.json

Without dropout all bases of the principal subspace have the same loss. If every prefix of the features has to reconstruct as
well as possible, PCA's basis is the only optimum (Rippel, Gelbart & Adams 2014, "Learning ordered representations with
nested dropout"). Training is Adam with new draws of K at every step; it does not use PCA.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from taildropout import TailDropout, at_k

from .common.data import digits
from .common.study import BLACK, BLUE, GREEN, GREY, ORANGE, Study, one_cycle, progress

SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {"steps": 150, "seeds": [0]},
    "default": {"seed": 0, "seeds": [0, 1, 2], "steps": 8000, "rate": 0.05, "p": 0.6, "leading": 10},
    "full": {"seeds": list(range(10)), "steps": 20_000},
}
LAYERS = {"TailDropout": TailDropout, "nn.Dropout": nn.Dropout, "no dropout": lambda p: nn.Identity()}
LOOKS = {"TailDropout": (BLUE, "o"), "nn.Dropout": (ORANGE, "^"), "no dropout": (GREEN, "s")}


def gaussian(seed: int, samples: int = 2000, features: int = 32, decay: float = 0.85) -> Tensor:
    """Return Gaussian data (samples, features) with standard deviations decay^j along random orthogonal directions."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(features, features, generator=generator))[0]
    inputs = torch.randn(samples, features, generator=generator) * decay ** torch.arange(features) @ directions
    return inputs - inputs.mean(0)


def all_digits() -> Tensor:
    """Return all digits (1797, 64), centred, in units of their standard deviation."""
    found = digits()
    inputs = torch.cat([found.inputs, found.test_inputs])
    inputs = inputs - inputs.mean(0)
    return inputs / inputs.std()


def train(inputs: Tensor, layer: nn.Module, n: int, steps: int, rate: float, what: str) -> nn.Module:
    """Train a linear autoencoder with n features on all inputs at every step, and return it."""
    features = inputs.shape[1]
    model = nn.Sequential(nn.Linear(features, n, bias=False), layer, nn.Linear(n, features, bias=False))
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = one_cycle(optimizer, rate, steps, rise=0.1)
    for _ in progress(range(steps), steps, what):
        optimizer.zero_grad()
        (model(inputs) - inputs).square().sum(1).mean().backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def judge(model: nn.Module, inputs: Tensor, n: int) -> dict[str, Tensor]:
    """Compare with PCA: return the share of variance left at widths 0 … n, and |cosine| of decoder direction j with PCA's."""
    model = model.double()
    inputs = inputs.double()
    singular, directions = torch.linalg.svd(inputs, full_matrices=False)[1:]
    whole = inputs.square().sum()
    pca = 1 - torch.cat([torch.zeros(1), singular.square().cumsum(0)[:n] / whole])
    # nn.Dropout and Identity have no width, so TailDropout replaces them.
    cut = nn.Sequential(model[0], TailDropout(), model[2]).eval()
    left = []
    for k in range(n + 1):
        with at_k(cut, k):
            left.append((cut(inputs) - inputs).square().sum() / whole)
    decoder = model[2].weight / model[2].weight.norm(dim=0)
    return {
        "left": torch.stack(left),
        "pca": pca,
        "cosine": (decoder * directions[:n].T).sum(0).abs(),
        "decoder": decoder.T,
        "directions": directions[:n],
    }


def run(study: Study) -> dict[str, Any]:
    """Train each layer on both data sets; return, per data set and layer, a list with the result of `judge` for each seed."""
    settings = study.settings
    found: dict[str, Any] = {}
    for name, inputs, n in [("Gaussian", gaussian(settings.seed), 16), ("digits", all_digits(), 32)]:
        found[name] = {}
        for layer, make in LAYERS.items():
            seeds = settings.seeds if layer == "TailDropout" else settings.seeds[:1]
            found[name][layer] = []
            for seed in seeds:
                what = f"{name}, {layer}, seed {seed}"

                def compute(
                    seed: int = seed, make: Any = make, what: str = what, inputs: Tensor = inputs, n: int = n
                ) -> dict[str, Tensor]:
                    torch.manual_seed(seed)
                    model = train(inputs, make(settings.p), n, settings.steps, settings.rate, what)
                    return judge(model, inputs, n)

                found[name][layer].append(study.stored(f"{name}-{layer}-{seed}", compute))
    return found


def summary(found: dict[str, Any], leading: int) -> dict[str, Any]:
    """Return, per data set, TailDropout's figures (the worst over the seeds) and the curves of the first seed."""
    results: dict[str, Any] = {}
    for name, layers in found.items():
        tail = layers["TailDropout"]
        excess = max((each["left"] / each["pca"] - 1).max().item() for each in tail)
        cosine = min(each["cosine"][:leading].mean().item() for each in tail)
        results[name] = {
            "largest_excess_over_pca_of_any_width": excess,
            "mean_cosine_of_the_leading": cosine,
            "least_cosine_of_the_leading": min(each["cosine"][:leading].min().item() for each in tail),
            "mean_cosine_of_all": min(each["cosine"].mean().item() for each in tail),
            "goals": {"excess_at_most_0.02": excess <= 0.02, "mean_cosine_at_least_0.98": cosine >= 0.98},
            "variance_left_at_every_width": {"PCA": tail[0]["pca"]}
            | {layer: each[0]["left"] for layer, each in layers.items()},
            "cosine_of_every_direction": {layer: each[0]["cosine"] for layer, each in layers.items()},
        }
        print(
            f"{name}: variance left at most {excess:.2%} above PCA's at any width, mean cosine of the first {leading} "
            f"directions {cosine:.4f} (worst of {len(tail)} seeds)"
        )
    return results


def draw(found: dict[str, Any]) -> Figure:
    """Draw variance left and cosines beside those of PCA, and the decoder directions of the digits as pictures."""
    figure = plt.figure(figsize=(10, 8.6), layout="constrained")
    curves, pictures = figure.subfigures(2, 1, height_ratios=[2, 1.25], squeeze=False)[:, 0]
    for row, (name, layers) in zip(curves.subplots(2, 2), found.items(), strict=True):
        left, cosine = row
        pca = layers["TailDropout"][0]["pca"]
        for layer, each in layers.items():
            colour, marker = LOOKS[layer]
            left.plot(100 * each[0]["left"], marker, color=colour, markersize=4, label=layer, linestyle="-", linewidth=0.8)
            cosine.plot(range(1, len(pca)), each[0]["cosine"], marker, color=colour, markersize=4, linestyle="-", linewidth=0.8)
        left.plot(100 * pca, color=BLACK, linewidth=1.2, label="PCA", zorder=3)
        left.set(
            yscale="log", ylabel="variance left, %", title=f"{name}: what the first k features leave", xlabel="features kept, k"
        )
        cosine.set(ylim=(0, 1.03), ylabel="|cosine|", xlabel="feature, j")
        cosine.set_title(f"{name}: decoder direction j with principal direction j")
        left.set_yticks(*nice_percent(left))
        left.minorticks_off()
    figure.axes[0].legend()
    rows = {
        "PCA": found["digits"]["TailDropout"][0]["directions"],
        **{layer: each[0]["decoder"] for layer, each in found["digits"].items()},
    }
    grid = pictures.subplots(4, 12)
    pictures.suptitle("digits: the first 12 decoder directions (sign chosen to fit PCA's)", fontsize=10)
    for axes, (layer, directions) in zip(grid, rows.items(), strict=True):
        for j, (place, direction, principal) in enumerate(zip(axes, directions, rows["PCA"], strict=False)):
            picture = (direction * torch.sign(direction @ principal)).reshape(8, 8).numpy()
            place.imshow(picture, cmap="PuOr", vmin=-abs(picture).max(), vmax=abs(picture).max())
            place.set(xticks=[], yticks=[])
            place.spines[:].set(visible=True, color=GREY, linewidth=0.5)
            if layer == "PCA":
                place.set_title(f"{j + 1}", fontsize=8)
        axes[0].set_ylabel(layer, rotation=0, ha="right", va="center")
    return figure


def nice_percent(axes: Axes) -> tuple[list[float], list[str]]:
    """Return ticks at 0.1, 0.2, 0.5, 1 … 200 % within the limits of the y axis, and their labels."""
    low = axes.get_ylim()[0]
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200) if tick >= low and tick <= axes.get_ylim()[1]]
    return ticks, [f"{tick:g}" for tick in ticks]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train all layers, compare with PCA, draw the figure."""
    study = Study(__file__, (__doc__ or "").partition("\n")[0], SETTINGS, argv)
    found = run(study)
    return study.save(draw(found), summary(found, study.settings.leading))


if __name__ == "__main__":
    main()
