"""Compress Fashion-MNIST with an autoencoder whose first k features are the best k, for every k at once.

python -m examples.autoencoder        writes examples/figures/autoencoder.png and .gif, examples/results/autoencoder.json
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from taildropout import TailDropout, at_k, scree

from .common.data import CLASSES, fashion_mnist
from .common.study import BLACK, BLUE, GREEN, GREY, ORANGE, YELLOW, Study, one_cycle, progress, width_axis

SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {"samples": 512, "test_samples": 200, "epochs": 1, "hidden": 16},
    "default": {
        "seed": 0, "samples": 60_000, "test_samples": 10_000, "epochs": 10, "batch": 256, "rate": 4e-3, "p": 0.5,
        "hidden": 256, "code": 64,
    },
    "full": {"epochs": 100, "hidden": 512},
}  # fmt: skip
TAIL, DROPOUT, NONE, ROTATED, PCA = (
    "TailDropout",
    "nn.Dropout",
    "no dropout",
    "no dropout, PCA of its code",
    "PCA of the images",
)
LOOKS = {TAIL: (BLUE, "-"), DROPOUT: (ORANGE, "-"), NONE: (GREEN, "-"), ROTATED: (GREEN, ":"), PCA: (BLACK, "--")}
SHOWN = [TAIL, DROPOUT, NONE, PCA]
WIDTHS = [1, 2, 4, 8, 16, 32, 64]
SHOES, SHIRTS = [5, 7, 9], [0, 6]


def autoencoder(layer: nn.Module, hidden: int, code: int, pixels: int = 784) -> nn.Sequential:
    """Return a network of three modules: an MLP encoder, the layer on its code, and an MLP decoder."""
    encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.GELU(), nn.Linear(hidden, code))
    return nn.Sequential(encoder, layer, nn.Sequential(nn.Linear(code, hidden), nn.GELU(), nn.Linear(hidden, pixels)))


def train(model: nn.Sequential, images: Tensor, epochs: int, batch: int, rate: float, what: str) -> dict[str, Tensor]:
    """Train on the mean squared error of reconstructed images (N, pixels); return the state_dict."""
    batches = max(len(images) // batch, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = one_cycle(optimizer, rate, epochs * batches, rise=0.1)
    for _ in progress(range(epochs), epochs, f"{what}, epochs"):
        for chosen in torch.randperm(len(images)).split(batch)[:batches]:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(images[chosen]), images[chosen]).backward()
            optimizer.step()
            schedule.step()
    return model.state_dict()


@torch.no_grad()
def principal(rows: Tensor, n: int) -> tuple[nn.Linear, nn.Linear]:
    """Return PCA of the rows (N, features) with n components, as a linear encoder and decoder."""
    mean = rows.mean(0)
    directions = torch.linalg.eigh((rows - mean).T @ (rows - mean))[1].flip(1)[:, :n]
    there, back = nn.Linear(len(mean), n), nn.Linear(n, len(mean))
    there.weight.copy_(directions.T)
    there.bias.copy_(-mean @ directions)
    back.weight.copy_(directions)
    back.bias.copy_(mean)
    return there, back


def networks(study: Study, images: Tensor) -> dict[str, nn.Sequential]:
    """Return the trained networks and PCA, each as encoder, TailDropout and decoder, so that `at_k` works on all of them."""
    settings = study.settings
    found: dict[str, nn.Sequential] = {}
    for name, layer in [(TAIL, TailDropout(settings.p)), (DROPOUT, nn.Dropout(settings.p)), (NONE, nn.Identity())]:

        def compute(name: str = name, layer: nn.Module = layer) -> dict[str, Tensor]:
            model = autoencoder(layer, settings.hidden, settings.code)
            return train(model, images, settings.epochs, settings.batch, settings.rate, name)

        model = autoencoder(TailDropout(settings.p), settings.hidden, settings.code)
        model.load_state_dict(study.stored(name, compute))
        found[name] = model
    encoder, _, decoder = found[NONE]
    with torch.no_grad():
        there, back = principal(encoder(images), settings.code)
    found[ROTATED] = nn.Sequential(nn.Sequential(encoder, there), TailDropout(), nn.Sequential(back, decoder))
    there, back = principal(images, settings.code)
    found[PCA] = nn.Sequential(there, TailDropout(), back)
    return {name: model.eval() for name, model in found.items()}


@torch.no_grad()
def reconstruct(model: nn.Sequential, images: Tensor, mean: Tensor, k: int) -> np.ndarray:
    """Reconstruct centred images (N, 784) from the first k features of their codes; return images (N, 28, 28)."""
    with at_k(model, k):
        return (model(images) + mean).clamp(0, 1).reshape(-1, 28, 28).numpy()


def draw_curves(axes: Axes, errors: dict[str, list[float]]) -> None:
    """Plot the error of each network at widths 0, 1 … code."""
    for name, error in errors.items():
        colour, line = LOOKS[name]
        axes.plot(error, line, color=colour, label=name)
    width_axis(axes, [len(error) - 1])
    axes.set(title="error on test images", ylabel="mean squared error per pixel", yscale="log")
    axes.set_yticks([0.01, 0.02, 0.05, 0.1], ["0.01", "0.02", "0.05", "0.1"])
    axes.minorticks_off()
    axes.legend(fontsize=8)


def draw_embedding(axes: Axes, code: np.ndarray, labels: Tensor, area: float) -> None:
    """Plot histograms of the first feature `code` (N,) for groups of classes; `area` is the area under ROC for the title."""
    low, high = np.quantile(code, [0.002, 0.998])
    bins = np.linspace(low, high, 60)
    kinds = [("shirts, T-shirts", SHIRTS, ORANGE), ("shoes", SHOES, BLUE), ("all others", None, GREY)]
    for name, classes, colour in kinds:
        others = [each for each in range(10) if each not in SHIRTS + SHOES]
        chosen = torch.isin(labels, torch.tensor(classes or others)).numpy()
        axes.hist(code[chosen], bins, color=colour, alpha=0.25 if classes is None else 0.65, label=name)
    axes.set(title=f"TailDropout, k = 1: area under ROC {area:.3f}", xlabel="first feature", ylabel="test images")
    axes.legend(fontsize=8)


def draw(
    models: dict[str, nn.Sequential], errors: dict[str, list[float]], images: Tensor, mean: Tensor, labels: Tensor, area: float
) -> Figure:
    """Draw the error curves, the embedding at k = 1, and a grid of reconstructions."""
    figure = plt.figure(figsize=(11, 7.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.1, 1], squeeze=False)[:, 0]
    left, right = above.subplots(1, 2)
    draw_curves(left, errors)
    with torch.no_grad():
        draw_embedding(right, models[TAIL][0](images)[:, 0].numpy(), labels, area)
    below.suptitle("the same test images from their first k features", fontsize=10)
    columns = ["image", *WIDTHS]
    grid = below.subplots(len(SHOWN), 2 * len(columns))
    for side, kind in enumerate(["boot", "shirt"]):
        image = images[labels == CLASSES.index(kind)][:1]
        for axes_row, name in zip(grid, SHOWN, strict=True):
            axes_row[0].set_ylabel(name, rotation=0, ha="right", va="center")
            for axes, k in zip(axes_row[side * len(columns) :], columns, strict=False):
                picture = (
                    (image + mean).reshape(1, 28, 28).numpy() if k == "image" else reconstruct(models[name], image, mean, k)
                )
                axes.imshow(picture[0], cmap="gray_r", vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set(visible=True, color=YELLOW if k == "image" else GREY, linewidth=0.6)
                if name == SHOWN[0]:
                    axes.set_title(k if k == "image" else f"k = {k}", fontsize=8)
    return figure


def animate(models: dict[str, nn.Sequential], images: Tensor, mean: Tensor, labels: Tensor, path: str, zoom: int = 2) -> None:
    """Write an animated GIF with one frame per width: images of eight classes, and their reconstructions by each network."""
    chosen = images[[int((labels == each).nonzero()[0]) for each in labels.unique()[[0, 1, 3, 5, 6, 7, 8, 9]]]]
    margin, top, side = 90, 18, 28 * zoom
    frames = []
    widths = [*range(9), 10, 12, 16, 20, 24, 32, 40, 48, 56, 64]
    for k in widths:
        frame = Image.new("L", (margin + side * len(chosen), top + side * (1 + len(SHOWN))), 255)
        pen = ImageDraw.Draw(frame)
        pen.text((6, 3), f"k = {k}", fill=0)
        pen.rectangle((margin, 6, margin + (frame.width - margin - 8) * k / 64, 12), fill=96)
        for row, name in enumerate(["test image", *SHOWN]):
            pen.text((6, top + row * side + side // 2 - 6), name.replace("of the images", "").strip(), fill=0)
            pictures = reconstruct(models[name], chosen, mean, k) if row else (chosen + mean).reshape(-1, 28, 28).numpy()
            strip = np.concatenate(list((255 * (1 - pictures)).astype(np.uint8)), axis=1)
            frame.paste(
                Image.fromarray(strip).resize((strip.shape[1] * zoom, side), Image.Resampling.NEAREST),
                (margin, top + row * side),
            )
        frames.append(frame.quantize(12))
    durations = [500] * (len(widths) - 1) + [2500]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train the networks, measure the error at every width, draw the figures."""
    study = Study(__file__, (__doc__ or "").partition("\n")[0], SETTINGS, argv)
    settings = study.settings
    data = fashion_mnist().head(settings.samples, settings.test_samples)
    mean = data.inputs.mean(0)  # otherwise the first feature of a network learns the mean
    images, labels = data.test_inputs - mean, data.test_labels
    models = networks(study, data.inputs - mean)
    test = [(batch, batch) for batch in images.split(1000)]
    errors, areas = {}, {}
    chosen = torch.isin(labels, torch.tensor(SHOES + SHIRTS))
    shoes = torch.isin(labels, torch.tensor(SHOES))[chosen]
    for name, model in models.items():
        errors[name] = scree(model, "1", test, nn.MSELoss(reduction="none")).loss.tolist()
        with torch.no_grad():
            area = float(roc_auc_score(shoes, model[0](images[chosen])[:, 0]))
        areas[name] = max(area, 1 - area)  # the sign of a feature is arbitrary
    full = {name: error[-1] for name, error in errors.items()}
    better = [k for k in range(1, settings.code + 1) if errors[TAIL][k] < errors[PCA][k]]
    cost = full[TAIL] / full[NONE] - 1
    print(f"TailDropout beats PCA of the images at {len(better)} of {settings.code} widths. At full width its error differs by")
    print(f"{cost:+.1%} from that without dropout. At k = 1 shoes and shirts have an area under ROC of {areas[TAIL]:.3f}.")
    gif = study.path("figures", "gif")
    animate(models, images, mean, labels, str(gif))
    return study.save(
        draw(models, errors, images, mean, labels, areas[TAIL]),
        {
            "mean_squared_error_at_every_width": errors,
            "full_width_error_relative_to_no_dropout": {name: error / full[NONE] for name, error in full.items()},
            "widths_at_which_TailDropout_beats_PCA_of_the_images": better,
            "area_under_ROC_of_the_first_feature_shoes_against_shirts": areas,
        },
    )


if __name__ == "__main__":
    main()
