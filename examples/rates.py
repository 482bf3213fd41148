"""Choose p: the loss at full width, the order of the features, and the shift of the mean between training and evaluation.

python -m examples.rates        writes examples/figures/rates.png and examples/results/rates.json

An MLP of 256 hidden features on 3000 images of Fashion-MNIST, few enough for regularisation to matter, for p from 1e-5 to 0.5
and without dropout. TailDropout's output is not rescaled, so the next layer's mean input is smaller in training.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taildropout import TailDropout, rate, scree

from .common.data import Data, fashion_mnist
from .common.study import BLUE, GREEN, GREY, ORANGE, Study, progress

SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {
        "samples": 128, "validation": 128, "test_samples": 128, "hidden": 16, "steps": 20, "seeds": [0], "rates": [0.5],
    },
    "default": {
        "seed": 0, "seeds": [0, 1, 2], "samples": 3000, "validation": 5000, "test_samples": 10_000, "hidden": 256,
        "steps": 1500, "batch": 100,
        "learning_rate": 1e-3, "tolerance": 0.01, "rates": [1e-5, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.2, 0.35, 0.5],
    },
    "full": {"seeds": list(range(10)), "samples": 20_000, "steps": 10_000},
}  # fmt: skip
MEASURES = [
    "training_loss", "loss", "loss_in_training_mode", "least_loss", "accuracy", "accuracy_at_width", "validation_accuracy",
    "width", "shift",
]  # fmt: skip


def train(p: float, data: Data, settings: Any) -> nn.Sequential:
    """Train a network with TailDropout(p) after its hidden features, and return it."""
    n = settings.hidden
    model = nn.Sequential(nn.Linear(784, n), nn.ReLU(), TailDropout(p), nn.Linear(n, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    for _ in range(settings.steps):
        chosen = torch.randint(len(data.inputs), (settings.batch,))
        optimizer.zero_grad()
        cross_entropy(model(data.inputs[chosen]), data.labels[chosen]).backward()
        optimizer.step()
    return model


@torch.no_grad()
def measure(model: nn.Sequential, p: float, data: Data, validation: tuple[Tensor, Tensor], settings: Any) -> list[float]:
    """Return the values of MEASURES, on test data unless their name says otherwise.

    `width` is the least width whose validation accuracy is within the tolerance of the best. `shift` is the distance between
    the next layer's mean output in training (exact, from P(K ≥ j)) and in evaluation, over its standard deviation.
    """
    n = settings.hidden
    test = data.test_inputs, data.test_labels
    in_training = cross_entropy(model.train()(test[0]), test[1]).item()
    training = cross_entropy(model.eval()(data.inputs), data.labels).item()
    correct = lambda output, label: output.argmax(1) == label  # noqa: E731
    on_validation = scree(model, "2", [validation], correct)
    width = on_validation.choose(settings.tolerance, maximize=True)
    loss = scree(model, "2", [test], nn.CrossEntropyLoss(reduction="none")).loss
    accuracy = scree(model, "2", [test], correct, widths=sorted({width, n})).loss
    features = model[1](model[0](test[0]))
    kept = torch.exp(-(rate(p, n) if p else 0.0) * torch.arange(1, n + 1))  # P(K ≥ j)
    output = model[3](features)
    shift = (model[3](features * kept) - output).mean(0).norm() / (output - output.mean(0)).square().sum(1).mean().sqrt()
    return [
        training, loss[-1].item(), in_training, loss.min().item(), accuracy[-1].item(), accuracy[0].item(),
        on_validation.loss[-1].item(), float(width), shift.item(),
    ]  # fmt: skip


def advice(rates: Sequence[float], found: Tensor, n: int, tolerance: float) -> list[str]:
    """Return sentences of advice from `found` (rates, seeds, measures); rates[0] is 0, which is no dropout."""
    mean = {name: found[..., i].mean(1) for i, name in enumerate(MEASURES)}
    accuracy = found[..., MEASURES.index("accuracy")]
    validated = mean["validation_accuracy"]
    best = max(range(1, len(rates)), key=lambda i: validated[i].item())
    cheap = [i for i in range(1, len(rates)) if validated[i] >= validated[0] - tolerance]
    narrow = min(cheap or range(1, len(rates)), key=lambda i: mean["width"][i].item())
    shifted = [p for p, shift in zip(rates[1:], mean["shift"][1:], strict=True) if shift > 0.1]

    def gain(i: int) -> str:
        points = 100 * (accuracy[i] - accuracy[0])
        error = points.std(correction=1) / len(points) ** 0.5 if len(points) > 1 else torch.nan
        return f"{points.mean():+.2f} ± {error:.2f} points of test accuracy against no dropout"

    def width(i: int) -> str:
        return f"{mean['width'][i]:.0f} of {n}"

    sentences = [
        f"Without dropout {width(0)} features are enough for a validation accuracy within {tolerance:.0%} of the best.",
        f"With p = {rates[narrow]:g}, the narrowest at little cost, {width(narrow)} are enough; full width: {gain(narrow)}.",
        f"For the full width alone p = {rates[best]:g} is best on validation data: {gain(best)}.",
    ]
    if shifted:
        sentences.append(
            f"The next layer's mean output shifts by over a tenth of its standard deviation from p = {shifted[0]:g} on."
        )
    else:
        sentences.append("The next layer's mean output shifts by less than a tenth of its standard deviation at every p.")
    return sentences


def draw(rates: Sequence[float], found: Tensor, n: int) -> Figure:
    """Draw four panels over p: loss, accuracy, width and shift. Dots are seeds, lines are means."""
    figure, panels = plt.subplots(2, 2, figsize=(10, 6.6), layout="constrained", sharex=True)
    (losses, accuracy), (width, shift) = panels
    curve(losses, rates, found, "loss", BLUE, "o", "test, full width")
    curve(losses, rates, found, "least_loss", GREEN, "s", "test, best width")
    curve(losses, rates, found, "loss_in_training_mode", ORANGE, "^", "test, training mode")
    curve(losses, rates, found, "training_loss", GREY, "v", "training data, full width")
    losses.set(title="loss: regularisation", ylabel="cross-entropy, nats per image", yscale="log")
    losses.set_yticks([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1], ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"])
    losses.minorticks_off()
    losses.legend(fontsize=8)
    curve(accuracy, rates, found, "accuracy", BLUE, "o", "full width", 100)
    curve(accuracy, rates, found, "accuracy_at_width", GREEN, "s", "at the chosen width", 100)
    accuracy.set(title="accuracy: what order costs", ylabel="accuracy on test images, %")
    accuracy.legend(fontsize=8)
    curve(width, rates, found, "width", BLUE, "o", "")
    width.set(title=f"compression: features that are enough, of {n}", ylabel="least width within 1 % of the best")
    curve(shift, rates, found, "shift", BLUE, "o", "")
    shift.set(title="shift of the next layer's mean output", ylabel="in its standard deviations, training to use")
    for axes in (width, shift):
        axes.set_xlabel("p, the expected share of features dropped (left: no dropout)")
        axes.set_ylim(0, None)
    ticks = [rates[1] / 10, *(10.0**i for i in range(-5, 0)), 0.5]
    width.set(xscale="log")
    width.set_xticks(ticks, ["0", *(f"{tick:g}" for tick in ticks[1:])])
    width.minorticks_off()
    for axes in panels.flat:
        axes.grid(alpha=0.3)
    return figure


def curve(
    axes: Axes, rates: Sequence[float], found: Tensor, name: str, colour: str, marker: str, label: str, factor: float = 1
) -> None:
    """Plot the measure `name` of `found`, times `factor`, over p; p = 0 stands a decade left of the least p."""
    values = factor * found[..., MEASURES.index(name)]
    places = [rates[1] / 10, *rates[1:]]
    axes.plot(places[1:], values.mean(1)[1:], "-", color=colour, linewidth=1, label=label or None, marker=marker, markersize=5)
    axes.plot(places[:1], values.mean(1)[:1], marker, color=colour, markersize=5)
    for seed in range(values.shape[1]):
        axes.plot(places, values[:, seed], ".", color=colour, markersize=3, alpha=0.6)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train for every p and seed, measure, draw the figure, print the advice."""
    study = Study(__file__, (__doc__ or "").partition("\n")[0], SETTINGS, argv)
    settings = study.settings
    data, validation = fashion_mnist().standardised(settings.samples, settings.test_samples, settings.validation)
    rates = [0.0, *settings.rates]

    def compute(p: float, seed: int) -> list[float]:
        torch.manual_seed(seed)
        return measure(train(p, data, settings), p, data, validation, settings)

    runs = [(p, seed) for p in rates for seed in settings.seeds]
    rows = [
        study.stored(f"{p:g}-{seed}", partial(compute, p, seed)) for p, seed in progress(runs, len(runs), "networks trained")
    ]
    found = torch.tensor(rows).view(len(rates), len(settings.seeds), len(MEASURES))
    means = {name: found[..., i].mean(1) for i, name in enumerate(MEASURES)}
    sentences = advice(rates, found, settings.hidden, settings.tolerance)
    print("\n".join(sentences))
    results = {"p": rates, "mean_over_seeds": means, "advice": sentences}
    results["each_seed"] = {name: found[..., i] for i, name in enumerate(MEASURES)}
    return study.save(draw(rates, found, settings.hidden), results)


if __name__ == "__main__":
    main()
