"""The report of `fashion_mlp.py`: answers with intervals, table and figure."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..common.intervals import Interval, holm, interval, p_value
from ..common.study import BLACK, BLUE, GREY, ORANGE

NONE, DROPOUT, DECAY, BOTH = "no dropout", "nn.Dropout (.5, .5)", "weight decay", "nn.Dropout (.5, .5) + weight decay"
SWAPPED = [("nn.Dropout (.1, .5)", "nn.Dropout (.5, .1)"), ("nn.Dropout (.1, .9)", "nn.Dropout (.9, .1)")]
Run = dict[int, dict[str, float]]  # the measurements by epoch
Runs = dict[str, list[Run]]  # per configuration, one run per seed


def minus(left: Sequence[float], right: Sequence[float]) -> list[float]:
    """Return left − right, paired by seed."""
    return [one - other for one, other in zip(left, right, strict=True)]


def analyse(found: Runs, layers: Sequence[str], settings: Any) -> dict[str, Any]:
    """Return intervals for every configuration, and the differences of `layers` to nn.Dropout and to no dropout.

    All are in points of test accuracy, but `test_loss`.
    """

    def each(name: str, what: str = "test", epoch: int = settings.epochs) -> list[float]:
        return [run[epoch][what] for run in found[name]]

    def less(left: str, right: str, epoch: int = settings.epochs) -> list[float]:
        return minus(each(left, epoch=epoch), each(right, epoch=epoch))

    def gap(name: str, epoch: int = settings.epochs) -> Interval:
        return interval(minus(each(name, "training", epoch), each(name, epoch=epoch)))

    pairs = {f"{DROPOUT} against {NONE}": (DROPOUT, NONE)}
    pairs |= {f"{layer} against {other}": (layer, other) for other in (DROPOUT, NONE) for layer in layers}
    adjusted = holm({name: p_value(less(*pair)) for name, pair in pairs.items()})
    return {
        "configurations": {
            name: {
                "test": interval(each(name)),
                "against_none": interval(less(name, NONE)),
                "gap": gap(name),
                "narrow": interval(each(name, "narrow")),
                "test_loss": interval(each(name, "test_loss")),
            }
            for name in found
        },
        "swapped": {f"{first} less {second}": interval(less(first, second)) for first, second in SWAPPED},
        "interaction": interval(minus(less(BOTH, DROPOUT), less(DECAY, NONE))),
        "comparisons": {
            name: {"difference": interval(less(*pair)), "adjusted_p": adjusted[name]} for name, pair in pairs.items()
        },
        "epochs": {
            epoch: {
                "difference": interval(less(DROPOUT, NONE, epoch)),
                "gap": {name: gap(name, epoch) for name in (NONE, DROPOUT)},
            }
            for epoch in settings.longer
        },
    }


def judged(answers: dict[str, Any], other: str) -> str:
    """Return, as text, which layers are better and which are worse than `other`, by Holm's test at 5 %."""
    groups: dict[str, list[str]] = {"better": [], "worse": [], "no difference shown": []}
    for name, found in answers["comparisons"].items():
        layer, _, against = name.partition(" against ")
        if against == other:
            decided = found["adjusted_p"] <= 0.05
            groups[("better" if found["difference"].mean > 0 else "worse") if decided else "no difference shown"].append(layer)
    return "; ".join(f"{group}: {', '.join(found) or '–'}" for group, found in groups.items())


def say(answers: dict[str, Any], decay: float, settings: Any) -> list[str]:
    """Return the findings as sentences; `decay` is the chosen weight decay."""
    verdict = {1: "the first is better", -1: "the second is better", 0: "no difference shown"}
    swapped = "; ".join(f"{pair} {found}, {verdict[found.sign]}" for pair, found in answers["swapped"].items())
    adding = {
        1: "together they do more than both apart",
        -1: "together they do less than both apart",
        0: "no interaction shown",
    }
    rows, interaction, last = answers["configurations"], answers["interaction"], max(settings.longer)
    epochs = ", ".join(f"{found['difference']} after {epoch}" for epoch, found in answers["epochs"].items())
    gaps = answers["epochs"][last]["gap"]
    narrow = sorted(rows, key=lambda name: -rows[name]["narrow"].mean)
    kept = ", ".join(f"{name} {rows[name]['narrow'].plain()}" for name in narrow[:4])
    return [
        f"Means and differences in points of test accuracy after {settings.epochs} epochs, with 95 % t intervals over "
        f"{len(settings.seeds)} seeds, paired; seconds of one processor per epoch, and relative to {NONE}.",
        f"Rates swapped: {swapped}.",
        f"Weight decay of {decay:g} (chosen on held-out images) gains {rows[DECAY]['against_none']} alone and nn.Dropout "
        f"{rows[DROPOUT]['against_none']}, both {rows[BOTH]['against_none']}: the interaction is {interaction}, "
        f"{adding[interaction.sign]}.",
        f"Against {DROPOUT} (Holm's test, 5 % for all comparisons together) {judged(answers, DROPOUT)}. Against {NONE} "
        f"{judged(answers, NONE)}.",
        f"{DROPOUT} against {NONE} over time: {epochs} epochs; in the end its train–test gap is {gaps[DROPOUT].plain()}, and "
        f"{gaps[NONE].plain()} with {NONE}. Cut to the first {settings.width} features of both hidden layers, the best are "
        f"{kept}.",
    ]


def table(answers: dict[str, Any], times: dict[str, list[float]], sentences: Sequence[str], width: str) -> str:
    """Return a Markdown table with a row per configuration, then the sentences; `times` are the results of `epoch_times`."""
    lines = [
        f"| | test accuracy, % | against {NONE} | train–test gap | with {width} features, % | s per epoch | relative |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in answers["configurations"].items():
        ratio = [time / none for time, none in zip(times[name], times[NONE], strict=True)]
        against = ["", ""] if name == NONE else [str(row["against_none"]), interval(ratio).plain()]
        cells = [
            name,
            row["test"].plain(),
            against[0],
            row["gap"].plain(),
            row["narrow"].plain(),
            interval(times[name]).plain(),
            against[1],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"* {sentence}" for sentence in sentences)])


def draw(found: Runs, answers: dict[str, Any], settings: Any) -> Figure:
    """Draw the gain in accuracy over no dropout, the train–test gap, and the accuracies over epochs. Bars: 95 % intervals."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 4.6), layout="constrained", width_ratios=[1.1, 1, 1])
    rows = answers["configurations"]
    for row, (name, runs) in enumerate(found.items()):
        colour = BLUE if name.startswith("TailDropout") else ORANGE if name == DROPOUT else GREY
        at_end = [run[settings.epochs] for run in runs]
        against = [run["test"] - none[settings.epochs]["test"] for run, none in zip(at_end, found[NONE], strict=True)]
        bar(left, row, rows[name]["against_none"], against, colour)
        bar(middle, row, rows[name]["gap"], [run["training"] - run["test"] for run in at_end], colour)
    left.set_yticks(range(len(rows)), list(rows))
    middle.set_yticks(range(len(rows)), [""] * len(rows))
    left.set(title=f"test accuracy after {settings.epochs} epochs", xlabel=f"points against {NONE}; right is better")
    middle.set(title="training less test accuracy", xlabel="points")
    left.set_xscale("symlog", linthresh=2)  # a linear scale near 0, because most differences are small
    left.set_xticks(ticks := [-20, -10, -5, -2, -1, 0, 1, 2, 5], [f"{tick:+d}" if tick else "0" for tick in ticks])
    for axes in (left, middle):
        axes.axvline(0, color=BLACK, linewidth=0.6)
        axes.invert_yaxis()
    for name, colour, marker in [(NONE, GREY, "s"), (DROPOUT, ORANGE, "^")]:
        for what, line in [("training", ":"), ("test", "-")]:
            values = torch.tensor([[run[epoch][what] for epoch in settings.longer] for run in found[name]])
            right.plot(settings.longer, values.mean(0), line + marker, color=colour, markersize=4, label=f"{name}, {what}")
            right.plot(settings.longer, values.T, ".", color=colour, markersize=2, alpha=0.5)
    right.set(title="over the epochs", xlabel="epochs", ylabel="accuracy, %", xticks=settings.longer)
    right.legend(fontsize=8)
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
    return figure


def bar(axes: Axes, row: int, found: Interval, dots: Sequence[float], colour: str) -> None:
    """Plot an interval as a bar around its mean, and a dot per seed."""
    axes.plot(dots, [row] * len(dots), ".", color=colour, markersize=3, alpha=0.5)
    axes.errorbar(
        found.mean, row, xerr=[[found.mean - found.low], [found.high - found.mean]], fmt="o", color=colour, markersize=4
    )
