"""Compare regularisers: which keeps a large network from memorising the wrong labels of two moons?

python -m examples.experiments.moons        writes examples/figures/moons.png and examples/results/moons.json and .md

2 – 128 – 128 – 2 on 200 points, a fifth of them with flipped labels. Compared are no dropout, weight decay, and nn.Dropout or
TailDropout after both hidden layers. The strength is chosen on 1000 other points with flipped labels. Test labels are right.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taildropout import TailDropout, at_k

from ..common.intervals import holm, interval, p_value
from ..common.study import BLACK, BLUE, GREEN, GREY, ORANGE, Study, progress

SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {"seeds": [0, 1], "choosing_seeds": [100], "steps": 200, "strengths": 2, "grid": 40},
    "default": {
        "seed": 0, "seeds": list(range(20)), "choosing_seeds": list(range(100, 105)), "samples": 200, "validation": 1000,
        "test_samples": 4000, "noise": 0.2, "wrong": 0.2, "hidden": 128, "rate": 3e-3, "steps": 1000,
        "strengths": 5, "grid": 120,
    },
}  # fmt: skip
NONE, DECAY, DROPOUT, TAIL, CUT = "no dropout", "weight decay", "nn.Dropout", "TailDropout", "TailDropout, cut"
STRENGTHS = {
    NONE: [0.0],
    DECAY: [0.3, 1.0, 3.0, 10.0, 30.0],
    DROPOUT: [0.3, 0.5, 0.7, 0.8, 0.9],
    TAIL: [0.5, 0.7, 0.8, 0.9, 0.95],
}
LOOKS = {NONE: GREY, DECAY: GREEN, DROPOUT: ORANGE, TAIL: BLUE, CUT: BLUE}
Points = tuple[Tensor, Tensor]


class Moons(NamedTuple):
    """Points (N, 2) with labels (N,): with some flipped labels for training and validation, with right labels for testing."""

    training: Points
    validation: Points
    test: Points
    flipped: Tensor  # True where a training label is flipped


def moons(seed: int, settings: Any) -> Moons:
    """Return the data for a seed."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [settings.samples, settings.validation, settings.test_samples]
    found = make_moons(sum(sizes), noise=settings.noise, random_state=seed)
    inputs = torch.tensor(found[0], dtype=torch.float32).split(sizes)
    labels = torch.tensor(found[1]).split(sizes)
    wrong = [torch.rand(len(each), generator=generator) < settings.wrong for each in labels[:2]]
    sets = [(inputs[i], torch.where(wrong[i], 1 - labels[i], labels[i])) for i in range(2)]
    return Moons(sets[0], sets[1], (inputs[2], labels[2]), wrong[0])


def network(name: str, strength: float, hidden: int) -> nn.Sequential:
    """Return an MLP of 2 – hidden – hidden – 2 features, with the layer `name` of p = `strength` after both hidden ones."""
    make = {DROPOUT: nn.Dropout, TAIL: TailDropout}.get(name, lambda p: nn.Identity())
    return nn.Sequential(
        nn.Linear(2, hidden), nn.ReLU(), make(strength), nn.Linear(hidden, hidden), nn.ReLU(), make(strength),
        nn.Linear(hidden, 2),
    )  # fmt: skip


@torch.no_grad()
def accuracy(model: nn.Module, points: Points) -> float:
    """Return the accuracy in %."""
    return 100 * (model(points[0]).argmax(1) == points[1]).double().mean().item()


def train(name: str, strength: float, seed: int, settings: Any) -> dict[str, Any]:
    """Train; return the state_dict and the accuracies in %, for TailDropout also at the width k that is best in validation."""
    points = moons(seed, settings)
    torch.manual_seed(seed)
    model = network(name, strength, settings.hidden)
    decay = strength if name == DECAY else 0.0
    optimizer = torch.optim.AdamW(model.parameters(), settings.rate, weight_decay=decay)
    for _ in range(settings.steps):
        optimizer.zero_grad()
        cross_entropy(model(points.training[0]), points.training[1]).backward()
        optimizer.step()
    model.eval()
    sets = {"training": points.training, "validation": points.validation, "test": points.test}
    found: dict[str, Any] = {each: accuracy(model, given) for each, given in sets.items()}
    if name == TAIL:
        validated = {}
        for k in [2**i for i in range(settings.hidden.bit_length())]:
            with at_k(model, k):
                validated[k] = {each: accuracy(model, given) for each, given in sets.items()}
        found["k"] = max(validated, key=lambda k: validated[k]["validation"])
        found["cut"] = validated[found["k"]]
    return found | {"state": model.state_dict()}


def choose(study: Study) -> dict[str, dict[float, list[float]]]:
    """Return the validation accuracies in %, by method and strength, one per seed. Some validation labels are flipped too."""
    settings = study.settings
    return {
        name: {
            strength: [
                study.stored(
                    f"choosing-{name}-{strength:g}-{seed}",
                    partial(lambda *at: train(*at)["validation"], name, strength, seed, settings),
                )
                for seed in settings.choosing_seeds
            ]
            for strength in strengths[: settings.strengths]
        }
        for name, strengths in STRENGTHS.items()
    }


def analyse(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return the accuracies of each method, and the differences of each pair of methods, as intervals over seeds."""
    names, tested = list(runs), {name: [run["test"] for run in each] for name, each in runs.items()}
    pairs = [(second, first) for i, first in enumerate(names) for second in names[i + 1 :]]
    less = {f"{a} less {b}": [x - y for x, y in zip(tested[a], tested[b], strict=True)] for a, b in pairs}
    adjusted = holm({pair: p_value(each) for pair, each in less.items()})
    return {
        "accuracy": {
            name: {each: interval([run[each] for run in runs[name]]) for each in ("training", "validation", "test")}
            for name in names
        },
        "differences": {pair: {"points": interval(each), "adjusted_p": adjusted[pair]} for pair, each in less.items()},
    }


def say(answers: dict[str, Any], k: float, settings: Any) -> list[str]:
    """Return the findings as sentences; `k` is the median of the chosen widths."""
    known = {pair: found for pair, found in answers["differences"].items() if found["adjusted_p"] <= 0.05}
    open_ = [pair for pair in answers["differences"] if pair not in known]
    sentences = [
        f"Accuracy in %, with 95 % t intervals over {len(settings.seeds)} seeds, each with points of its own; "
        f"{100 * settings.wrong:.0f} % of the labels for training are wrong, none of those for testing.",
        "Differences in points of test accuracy (Holm's test, 5 % for all together): "
        + ("; ".join(f"{pair} {found['points']}" for pair, found in known.items()) or "none is shown")
        + ".",
    ]
    if open_ and known:
        sentences.append(f"No difference is shown for {'; '.join(open_)}.")
    return [
        *sentences,
        f"{CUT}: at the width that validation chooses for both layers, {k:.0f} of {settings.hidden} features in the median.",
    ]


def table(answers: dict[str, Any], strengths: dict[str, float], sentences: Sequence[str]) -> str:
    """Return a Markdown table with a row per method, then the sentences."""
    lines = ["| | strength | test, right labels | training, wrong labels too |", "| --- | ---: | ---: | ---: |"]
    for name, row in answers["accuracy"].items():
        strength = f"{strengths[name]:g}" if name in (DECAY, DROPOUT, TAIL) else ""
        lines.append(f"| {name} | {strength} | {row['test'].plain()} | {row['training'].plain()} |")
    return "\n".join([*lines, "", *(f"* {sentence}" for sentence in sentences)])


def draw(runs: dict[str, list[dict[str, Any]]], strengths: dict[str, float], answers: dict[str, Any], settings: Any) -> Figure:
    """Draw the prediction of each network of the first seed over the plane, and the accuracies of all seeds."""
    figure, panels = plt.subplots(2, 3, figsize=(10, 6.4), layout="constrained")
    points = moons(settings.seeds[0], settings)
    inputs, labels = points.training
    low, high = inputs.min(0).values - 0.4, inputs.max(0).values + 0.4
    across, up = (torch.linspace(low[i].item(), high[i].item(), settings.grid) for i in range(2))
    plane = torch.cartesian_prod(across, up)
    for axes, name in zip(panels.flat, runs, strict=False):
        trained = runs[name][0]
        model = network(TAIL if name == CUT else name, strengths[TAIL if name == CUT else name], settings.hidden)
        model.load_state_dict(trained["state"])
        model.eval()
        for layer in model:
            if name == CUT and isinstance(layer, TailDropout):
                layer.set_k(trained["k"])
        with torch.no_grad():
            answer = model(plane).softmax(1)[:, 1].view(settings.grid, settings.grid).T
        axes.contourf(across, up, answer, np.linspace(0, 1, 11), cmap="PuOr", alpha=0.6)
        axes.contour(across, up, answer, [0.5], colors=BLACK, linewidths=1)
        for label, colour in [(0, ORANGE), (1, "#5E3C99")]:
            chosen = labels == label
            axes.plot(*inputs[chosen & ~points.flipped].T, ".", color=colour, markersize=4)
            axes.plot(*inputs[chosen & points.flipped].T, "x", color=colour, markersize=5)
        cut = f", k = {trained['k']}" if name == CUT else ""
        axes.set(title=f"{name}{cut}: {trained['test']:.1f} %", xticks=[], yticks=[])
    last = panels[-1, -1]
    for row, name in enumerate(runs):
        found = answers["accuracy"][name]["test"]
        values = [run["test"] for run in runs[name]]
        last.plot(values, [row] * len(values), ".", color=LOOKS[name], alpha=0.4, markersize=4)
        ends = [[found.mean - found.low], [found.high - found.mean]]
        last.errorbar(found.mean, row, xerr=ends, fmt="o", color=LOOKS[name], markersize=5)
    last.set_yticks(range(len(runs)), list(runs))
    last.yaxis.tick_right()
    last.invert_yaxis()
    last.grid(axis="x", alpha=0.3)
    last.set(title="all seeds", xlabel="accuracy on right labels, %")
    return figure


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Choose strengths, train each network with each seed, compare, draw the figure."""
    study = Study(__file__, (__doc__ or "").partition("\n")[0], SETTINGS, argv)
    settings = study.settings
    validated = choose(study)
    strengths = {name: max(each, key=lambda strength: sum(each[strength])) for name, each in validated.items()}
    each = [(name, seed) for seed in settings.seeds for name in STRENGTHS]
    done = {
        (name, seed): study.stored(f"{name}-{seed}", partial(train, name, strengths[name], seed, settings))
        for name, seed in progress(each, len(each), "networks trained")
    }
    runs = {name: [done[name, seed] for seed in settings.seeds] for name in STRENGTHS}
    runs[CUT] = [run | run["cut"] for run in runs[TAIL]]
    answers = analyse(runs)
    chosen_k = [run["k"] for run in runs[TAIL]]
    sentences = say(answers, float(np.median(chosen_k)), settings)
    print("\n".join(sentences))
    tested = {name: [run["test"] for run in trained] for name, trained in runs.items()}
    results = {"strengths": strengths, "validation_accuracy_of_strengths": validated, **answers, "said": sentences}
    results |= {"an_interval_is": ["mean", "low", "high"], "test_accuracy_of_each_seed": tested, "k_of_each_seed": chosen_k}
    return study.save(draw(runs, strengths, answers, settings), results, table(answers, strengths, sentences))


if __name__ == "__main__":
    main()
