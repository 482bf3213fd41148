"""Compare the variance of activations under dropout with its closed form, at each layer, during training.

python -m examples.experiments.activation_variance        writes figures/ and results/ activation_variance under examples

The mask m of a layer is independent of its input a, so the mean and the covariance of its output follow from the moments of m
and a (⊙ is the elementwise product):

    E[m ⊙ a] = E[m] ⊙ E[a],    Cov[m ⊙ a] = E[m mᵀ] ⊙ E[a aᵀ] − E[m ⊙ a] E[m ⊙ a]ᵀ

The diagonal is E[a²]/(1 − p) − E[a]² for nn.Dropout, and q E[a²] − q² E[a]² with q = P(K ≥ j) for TailDropout. A
formula that replaces a by its mean is wrong, because a varies. The covariance of the next linear layer's output is W Cov Wᵀ.
The network is an MLP on Fashion-MNIST, 784 – 256 – 256 – 10, with a dropout layer after each hidden layer.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taildropout import TailDropout
from taildropout.baselines import dropout_moments, tail_dropout_moments

from ..common.data import fashion_mnist
from ..common.intervals import interval
from ..common.study import BLACK, BLUE, GREY, ORANGE, Study, progress

SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {"seeds": [0, 1], "steps": [0, 5, 10], "images": 512},
    "default": {
        "seed": 0, "seeds": list(range(10)), "p": 0.5, "rate": 0.1, "batch": 256, "steps": [0, 10, 30, 100, 300, 700],
        "images": 10_000,
    },
}  # fmt: skip
HIDDEN = 256
NONE, DROPOUT, TAIL = "no dropout", "nn.Dropout", "TailDropout"
LAYERS: dict[str, Callable[[float], nn.Module]] = {NONE: lambda p: nn.Identity(), DROPOUT: nn.Dropout, TAIL: TailDropout}
LOOKS = {NONE: (GREY, "s"), DROPOUT: (ORANGE, "^"), TAIL: (BLUE, "o")}
PLACES = ["first dropout", "second linear layer", "second dropout", "output"]
FORMS = ["measured", "closed form", "a at its mean"]
Moments = tuple[Tensor, Tensor]


def network(layer: str, p: float) -> nn.Sequential:
    """Return an MLP of 784 – 256 – 256 – 10 features, with the layer as modules 2 and 5."""
    make = LAYERS[layer]
    return nn.Sequential(
        nn.Linear(784, HIDDEN), nn.ReLU(), make(p), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), make(p), nn.Linear(HIDDEN, 10)
    )


def moments(layer: str, n: int, p: float) -> Moments:
    """Return E[m] (n,) and E[m mᵀ] (n, n) of the layer's mask m of n features, with its scale."""
    if layer == NONE:
        return torch.ones(n, dtype=torch.float64), torch.ones(n, n, dtype=torch.float64)
    return tail_dropout_moments(n, p) if layer == TAIL else dropout_moments(n, p, rescale=True)


def covariance(a: Tensor, mask: Moments, at_mean: bool = False) -> Tensor:
    """Return Cov[m ⊙ a] over samples and masks, from samples of a (N, n); `at_mean` replaces a by its mean."""
    a = a.double()
    mean = a.mean(0)
    second = mean.outer(mean) if at_mean else a.T @ a / len(a)
    return mask[1] * second - (mask[0] * mean).outer(mask[0] * mean)


@torch.no_grad()
def variances(model: nn.Sequential, mask: Moments, inputs: Tensor) -> Tensor:
    """Return the variance in training mode, averaged over features: (FORMS, PLACES)."""
    found, known = [], []
    for place, layer in enumerate(model.train()):
        before, inputs = inputs, layer(inputs)
        if place in (2, 5):
            known = [covariance(before, mask), covariance(before, mask, at_mean=True)]
            formulas = [each.diagonal() for each in known]
        elif place in (3, 6):
            weight = layer.weight.double()
            formulas = [(weight @ each * weight).sum(1) for each in known]
        else:
            continue
        found.append(torch.stack([each.mean() for each in (inputs.double().var(0, correction=0), *formulas)]))
    return torch.stack(found, 1)


def run(layer: str, seed: int, inputs: Tensor, labels: Tensor, settings: Any) -> Tensor:
    """Train, and return the `variances` after each number of steps in settings.steps: (steps, forms, places)."""
    torch.manual_seed(seed)
    model = network(layer, settings.p)
    mask = moments(layer, HIDDEN, settings.p)
    optimizer = torch.optim.SGD(model.parameters(), settings.rate)
    batches = torch.Generator().manual_seed(seed)  # the same for every layer
    found = []
    for step in range(max(settings.steps) + 1):
        if step in settings.steps:
            found.append(variances(model, mask, inputs[: settings.images]))
        chosen = torch.randint(len(inputs), (settings.batch,), generator=batches)
        optimizer.zero_grad()
        cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
        optimizer.step()
    return torch.stack(found)


def analyse(found: dict[str, Tensor], settings: Any) -> dict[str, Any]:
    """Return, by layer, place and step, the measured variance and its ratio to each formula, as intervals over seeds.

    `found` holds, by layer, the results of `run`: (seeds, steps, forms, places).
    """

    def row(each: Tensor, step: int, place: int) -> dict[str, Any]:
        measured, closed, at_mean = each[:, step, :, place].unbind(1)
        return {
            "variance": interval(measured.tolist()),
            "measured_over_closed_form": interval((measured / closed).tolist()),
            "measured_over_a_at_its_mean": None if (at_mean <= 0).any() else interval((measured / at_mean).tolist()),
        }

    return {
        layer: {name: {step: row(each, i, place) for i, step in enumerate(settings.steps)} for place, name in enumerate(PLACES)}
        for layer, each in found.items()
    }


def say(answers: dict[str, Any], settings: Any) -> list[str]:
    """Return the findings as sentences."""
    last = settings.steps[-1]
    ratios = [
        row["measured_over_closed_form"]
        for layer in (DROPOUT, TAIL)
        for rows in answers[layer].values()
        for row in rows.values()
    ]
    outside = sum(not each.low <= 1 <= each.high for each in ratios)
    worst = max(abs(each.mean - 1) for each in ratios)
    grown = {
        layer: ", ".join(
            f"{answers[layer][place][last]['variance'].mean / answers[NONE][place][last]['variance'].mean:.2f}"
            for place in PLACES
        )
        for layer in (DROPOUT, TAIL)
    }
    return [
        f"Mean variance of a feature after {last} steps, with 95 % t intervals over {len(settings.seeds)} seeds.",
        f"Measured over closed form, with both dropouts at {len(PLACES)} places and {len(settings.steps)} times in training: "
        f"the mean over seeds is nowhere further than {100 * worst:.2f} % from 1, and {outside} of {len(ratios)} intervals "
        f"leave out 1, where chance alone has {len(ratios) * 0.05:.1f} do so.",
        f"The variance at the four places, relative to {NONE}: with {DROPOUT} {grown[DROPOUT]}; with {TAIL} {grown[TAIL]}.",
    ]


def table(answers: dict[str, Any], sentences: Sequence[str], settings: Any) -> str:
    """Return a Markdown table with a row per layer and place, at the last step."""
    lines = [
        "| | of | variance | over closed form | over the formula with a at its mean |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for layer, places in answers.items():
        for place, rows in places.items():
            row = rows[settings.steps[-1]]
            over_mean = row["measured_over_a_at_its_mean"]
            cells = [
                row["variance"].plain(3),
                row["measured_over_closed_form"].plain(4),
                over_mean.plain() if over_mean else "–",
            ]
            lines.append(f"| {layer} | {place} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"* {sentence}" for sentence in sentences)])


def draw(found: dict[str, Tensor], answers: dict[str, Any], settings: Any) -> Figure:
    """Draw the variances during training (points: measured, lines: formulas) and, below them, measured over closed form."""
    figure, panels = plt.subplots(2, len(PLACES), figsize=(12, 6), layout="constrained", sharex=True, height_ratios=[1.5, 1])
    for column, place in enumerate(PLACES):
        above, below = panels[:, column]
        if column:
            below.sharey(panels[1, 0])
        for layer, (colour, marker) in LOOKS.items():
            mean = found[layer].mean(0)[..., column]
            above.plot(settings.steps, mean[:, 0], marker, color=colour, markersize=5, label=f"{layer}, measured")
            above.plot(settings.steps, mean[:, 1], "-", color=colour, linewidth=1, label=f"{layer}, closed form")
            if layer != NONE:
                above.plot(settings.steps, mean[:, 2], ":", color=colour, linewidth=1, label=f"{layer}, a held at its mean")
            rows = [each["measured_over_closed_form"] for each in answers[layer][place].values()]
            if layer != NONE:  # without dropout the closed form equals the measurement
                spread = [[each.mean - each.low for each in rows], [each.high - each.mean for each in rows]]
                below.errorbar(settings.steps, [each.mean for each in rows], spread, fmt=marker, color=colour, markersize=4)
        above.set(title=place, yscale="log")
        below.axhline(1, color=BLACK, linewidth=0.6)
        below.set_xscale("symlog", linthresh=settings.steps[1])
        below.set_xticks(settings.steps, [str(step) for step in settings.steps], fontsize=7)
        below.minorticks_off()
        below.set(xlabel="training step")
        for axes in (above, below):
            axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel("mean variance of a feature")
    panels[1, 0].set_ylabel("measured over closed form\n(95 % interval over seeds)")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train with each layer and seed, measure, compare, draw the figure."""
    study = Study(__file__, (__doc__ or "").partition("\n")[0], SETTINGS, argv)
    settings = study.settings
    data = fashion_mnist()
    runs = [(layer, seed) for seed in settings.seeds for layer in LAYERS]
    done = {
        (layer, seed): study.stored(f"{layer}-{seed}", partial(run, layer, seed, data.inputs, data.labels, settings))
        for layer, seed in progress(runs, len(runs), "networks trained")
    }
    found = {layer: torch.stack([done[layer, seed] for seed in settings.seeds]) for layer in LAYERS}
    answers = analyse(found, settings)
    sentences = say(answers, settings)
    print("\n".join(sentences))
    results = {"steps": settings.steps, "answers": answers, "an_interval_is": ["mean", "low", "high"], "said": sentences}
    results |= {"forms": FORMS, "places": PLACES, "each_seed_step_form_and_place": found}
    return study.save(draw(found, answers, settings), results, table(answers, sentences, settings))


if __name__ == "__main__":
    main()
