"""Classify Fashion-MNIST at every width with one network: TailDropout, compared with one network per width and others.

python -m examples.classifier        writes examples/figures/classifier.png and examples/results/classifier.json

Compared are networks trained at one width each; a truncated singular value decomposition of the weight that computes the
features; and a Matryoshka loss (Kusupati et al. 2022, "Matryoshka representation learning"), the sum over nested widths,
trained for the same time as TailDropout. At the end the network with TailDropout is pruned.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taildropout import TailDropout, prune, scree

from .common.data import Data, fashion_mnist
from .common.study import BLACK, BLUE, GREEN, ORANGE, PURPLE, Study, median_times, one_cycle, progress, width_axis

SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {
        "seeds": [0], "samples": 512, "validation": 256, "test_samples": 256, "mlp": 8, "cnn": 4, "epochs": 1, "calls": 3,
    },
    "default": {
        "seed": 0, "seeds": [0, 1, 2], "samples": 20_000, "validation": 5000, "test_samples": 10_000, "batch": 128, "p": 0.5,
        "mlp": 256, "cnn": 64, "epochs": 6, "mlp_rate": 2e-3, "cnn_rate": 4e-3, "tolerance": 0.01, "calls": 60,
    },
    "full": {"samples": 55_000, "epochs": 20},
}  # fmt: skip
TAIL, NONE, NESTED, EACH, SVD = "TailDropout", "no dropout", "Matryoshka loss", "trained at this width", "no dropout, SVD"
LOOKS = {TAIL: (BLUE, "o-"), EACH: (BLACK, "D:"), NESTED: (PURPLE, "^--"), SVD: (GREEN, "v--"), NONE: (ORANGE, "s-")}
LAYER = "layer"


def mlp(layer: nn.Module, n: int) -> nn.Sequential:
    """Return an MLP of 784 – n – 10 features, with the layer on the n hidden ones."""
    model = nn.Sequential()
    model.maker, model.activation = nn.Linear(784, n), nn.ReLU()
    model.layer, model.reader = layer, nn.Linear(n, 10)
    return model


def cnn(layer: nn.Module, n: int) -> nn.Sequential:
    """Return a CNN: two convolutions, to 16 and to n channels of 7 × 7, the layer on the n channels, and a Linear."""
    model = nn.Sequential(nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU())
    model.maker, model.activation = nn.Conv2d(16, n, 3, 2, 1), nn.ReLU()
    model.layer, model.flatten, model.reader = layer, nn.Flatten(), nn.Linear(49 * n, 10)
    return model


KINDS: dict[str, tuple[Callable[[nn.Module, int], nn.Sequential], int]] = {"mlp": (mlp, -1), "cnn": (cnn, 1)}


def widths_of(n: int) -> list[int]:
    """Return the widths 1, 2, 4 … n."""
    return [2**i for i in range(n.bit_length()) if 2**i < n] + [n]


def plain_loss(model: nn.Sequential, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of the network."""
    return cross_entropy(model(inputs), labels)


def nested_loss(model: nn.Sequential, inputs: Tensor, labels: Tensor, n: int) -> Tensor:
    """Return the sum of the cross-entropies at widths 1, 2, 4 … n. Each width adds its new features' part to the output."""
    features = model[:-1](inputs)
    weight, output = model.reader.weight, model.reader.bias
    total, before = torch.zeros(()), 0
    for width in widths_of(n):
        new = slice(before * weight.shape[1] // n, width * weight.shape[1] // n)
        output = output + features[:, new] @ weight[:, new].T
        total, before = total + cross_entropy(output, labels), width
    return total


def train(
    model: nn.Sequential, loss: Callable[..., Tensor], data: Data, steps: int, batch: int, rate: float, what: str
) -> dict[str, Tensor]:
    """Train with a one-cycle learning rate; return the state_dict."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = one_cycle(optimizer, rate, steps, rise=0.2)
    order = torch.cat([torch.randperm(len(data.inputs)) for _ in range(-(-steps * batch // len(data.inputs)))])
    for chosen in progress(order.split(batch)[:steps], steps, what):
        optimizer.zero_grad()
        loss(model, data.inputs[chosen], data.labels[chosen]).backward()
        optimizer.step()
        schedule.step()
    return model.state_dict()


def step_ratio(make: Callable[..., nn.Sequential], layer: nn.Module, n: int, data: Data, batch: int, calls: int) -> float:
    """Return the median processor time of a step with the Matryoshka loss over that of a step with TailDropout."""
    inputs, labels = data.inputs[:batch], data.labels[:batch]

    def step(model: nn.Sequential, loss: Callable[..., Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.Adam(model.parameters())

        def call() -> None:
            optimizer.zero_grad()
            loss(model, inputs, labels).backward()
            optimizer.step()

        return call

    steps = {"tail": step(make(layer, n), plain_loss), "nested": step(make(nn.Identity(), n), partial(nested_loss, n=n))}
    times = median_times(steps, calls)
    return times["nested"] / times["tail"]


def accuracies(model: nn.Sequential, dim: int, inputs: Tensor, labels: Tensor, widths: Sequence[int]) -> list[float]:
    """Return the accuracy at each width, in [0, 1], of a network that may have been trained with another layer."""
    cut = copy.deepcopy(model)
    cut.layer = TailDropout(dropout_dim=dim)
    batches = list(zip(inputs.split(1000), labels.split(1000), strict=True))
    return scree(cut.eval(), LAYER, batches, lambda output, label: output.argmax(1) == label, widths=widths).loss.tolist()


@torch.no_grad()
def svd_accuracies(model: nn.Sequential, n: int, dim: int, data: Data, widths: Sequence[int]) -> list[float]:
    """Return the test accuracy for each rank in `widths`, with the weight before the features truncated to it."""
    found = []
    for rank in widths:
        cut = copy.deepcopy(model)
        left, singular, right = torch.linalg.svd(cut.maker.weight.flatten(1), full_matrices=False)
        truncated = (left[:, :rank] * singular[:rank]) @ right[:rank]
        cut.maker.weight.copy_(truncated.view_as(cut.maker.weight))
        found += accuracies(cut, dim, data.test_inputs, data.test_labels, [n])
    return found


def parameters(make: Callable[..., nn.Sequential], n: int, widths: Sequence[int]) -> dict[str, list[int]]:
    """Return the numbers of parameters of networks of each width, and of the widest with a weight factorised to each rank."""
    sizes = [sum(map(torch.numel, make(nn.Identity(), width).parameters())) for width in widths]
    rows, columns = make(nn.Identity(), n).maker.weight.flatten(1).shape
    return {
        "first features": sizes,
        "SVD": [sizes[-1] + min(rank * (rows + columns) - rows * columns, 0) for rank in widths],
    }


def measure_pruned(model: nn.Sequential, k: int, data: Data, dim: int, n: int, calls: int) -> dict[str, Any]:
    """Return accuracy, parameters and time per call, before and after pruning to k features."""
    inputs = data.test_inputs[:256]
    smaller = prune(model, LAYER, k, inputs[:4], remove=True).eval()
    both = {"whole": model, "pruned": smaller}
    with torch.no_grad():
        accuracy = {
            name: (each(data.test_inputs).argmax(1) == data.test_labels).float().mean().item() for name, each in both.items()
        }
        times = median_times({name: partial(each, inputs) for name, each in both.items()}, calls)
    return {
        "k": k,
        "parameters": {name: sum(map(torch.numel, each.parameters())) for name, each in both.items()},
        "test_accuracy": accuracy,
        "microseconds_per_256_images": {name: 1e6 * time for name, time in times.items()},
        "speedup": times["whole"] / times["pruned"],
    }


def compare(study: Study, kind: str, data: Data, validation: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Train and measure all methods for one kind of network ("mlp" or "cnn"); return the figures for `draw`."""
    settings = study.settings
    make, dim = KINDS[kind]
    n, rate = getattr(settings, kind), getattr(settings, f"{kind}_rate")
    widths = widths_of(n)
    steps = settings.epochs * max(len(data.inputs) // settings.batch, 1)
    test = data.test_inputs, data.test_labels

    def trained(
        name: str, seed: int, layer: nn.Module, loss: Callable[..., Tensor], width: int = n, steps: int = steps
    ) -> nn.Sequential:
        what = f"{kind}, {name}, seed {seed}" + (f", width {width}" if width < n else "")

        def compute() -> dict[str, Tensor]:
            torch.manual_seed(seed)
            return train(make(layer, width), loss, data, steps, settings.batch, rate, what)

        model = make(layer, width)
        model.load_state_dict(study.stored(what.replace(", ", "-").replace(" ", "-"), compute))
        return model.eval()

    tails = [trained(TAIL, seed, TailDropout(settings.p, dropout_dim=dim), plain_loss) for seed in settings.seeds]
    nones = [trained(NONE, seed, nn.Identity(), plain_loss) for seed in settings.seeds]
    layer = TailDropout(settings.p, dropout_dim=dim)
    ratio = study.stored(f"{kind}-ratio", lambda: step_ratio(make, layer, n, data, settings.batch, settings.calls))
    nested = trained(NESTED, settings.seed, nn.Identity(), partial(nested_loss, n=n), steps=max(round(steps / ratio), 1))
    each = [trained(EACH, settings.seed, nn.Identity(), plain_loss, width) for width in widths[:-1]] + nones[:1]
    curves = {
        TAIL: accuracies(tails[0], dim, *test, widths),
        EACH: [accuracies(model, dim, *test, [width])[0] for model, width in zip(each, widths, strict=True)],
        NESTED: accuracies(nested, dim, *test, widths),
        SVD: svd_accuracies(nones[0], n, dim, data, widths),
        NONE: accuracies(nones[0], dim, *test, widths),
    }
    full = {
        name: [accuracies(model, dim, *test, [n])[0] for model in models] for name, models in [(TAIL, tails), (NONE, nones)]
    }
    lost = [none - tail for tail, none in zip(full[TAIL], full[NONE], strict=True)]
    correct = lambda output, label: output.argmax(1) == label  # noqa: E731
    on_validation = scree(tails[0], LAYER, [validation], correct)
    k = on_validation.choose(settings.tolerance, maximize=True)
    pruned = measure_pruned(tails[0], k, data, dim, n, settings.calls)
    cost = sum(lost) / len(lost)
    print(f"{kind}: TailDropout costs {100 * cost:.2f} points of accuracy at full width ({len(lost)} seeds)")
    print(
        f"{kind}: pruned to {k} of {n} features: {pruned['parameters']['pruned'] / pruned['parameters']['whole']:.0%} of the "
        f"parameters, accuracy {pruned['test_accuracy']['pruned']:.4f} ({pruned['test_accuracy']['whole']:.4f} before), "
        f"{pruned['speedup']:.1f} times as fast"
    )
    return {
        "widths": widths,
        "parameters_at_every_width": parameters(make, n, widths),
        "test_accuracy_at_every_width": curves,
        "test_accuracy_at_full_width_of_every_seed": full,
        "points_of_accuracy_lost_at_full_width": {"mean": 100 * cost, "each seed": [100 * one for one in lost]},
        "steps": {TAIL: steps, NESTED: max(round(steps / ratio), 1), "time of a step, Matryoshka over TailDropout": ratio},
        "pruned": pruned,
    }


def draw(results: dict[str, Any]) -> Figure:
    """Draw accuracy over width, and over the number of parameters, with one column of panels per kind of network."""
    figure, panels = plt.subplots(2, len(results), figsize=(11, 7.6), layout="constrained", sharey=True)
    names = {"mlp": "MLP: features of the hidden layer", "cnn": "CNN: channels of the second convolution"}
    for (over_width, over_size), (kind, found) in zip(panels.T, results.items(), strict=True):
        pruned, sizes = found["pruned"], found["parameters_at_every_width"]
        for name, curve in found["test_accuracy_at_every_width"].items():
            colour, style = LOOKS[name]
            for axes, places in [(over_width, found["widths"]), (over_size, sizes["SVD" if name == SVD else "first features"])]:
                axes.plot(places, [100 * value for value in curve], style, color=colour, markersize=5, label=name)
        for axes, place in [(over_width, pruned["k"]), (over_size, pruned["parameters"]["pruned"])]:
            accuracy = 100 * pruned["test_accuracy"]["pruned"]
            axes.plot(place, accuracy, "o", color=BLUE, markersize=11, fillstyle="none", label="TailDropout, pruned")
            axes.grid(alpha=0.3)
        width_axis(over_width, found["widths"])
        over_width.set(title=names[kind], xlim=(0.9, 1.1 * max(found["widths"])), xlabel="features kept, k (SVD: rank)")
        over_size.set(xscale="log", xlabel="parameters of the network")
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy on test images, %")
    panels[0, 0].legend()
    return figure


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Compare the methods for both kinds of network, and draw the figure."""
    study = Study(__file__, (__doc__ or "").partition("\n")[0], SETTINGS, argv)
    settings = study.settings
    data, validation = fashion_mnist().standardised(settings.samples, settings.test_samples, settings.validation)
    results = {kind: compare(study, kind, data, validation) for kind in KINDS}
    return study.save(draw(results), results)


if __name__ == "__main__":
    main()
