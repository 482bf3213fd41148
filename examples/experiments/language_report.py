"""The report of `language_model.py`: answers with intervals, table and figure."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..common.intervals import Interval, holm, interval, p_value
from ..common.study import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, YELLOW, width_axis

NONE, CUT, IN_FFN = "no dropout", ", pruned", "nn.Dropout .5 in the FFN"
TAILS = {"TailDropout .1": 0.1, "TailDropout .5": 0.5}
SAME_PLACE = "TailDropout .5", IN_FFN
COLOURS = [BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW]


def minus(left: Sequence[float], right: Sequence[float]) -> list[float]:
    """Return left − right, paired by seed."""
    return [one - other for one, other in zip(left, right, strict=True)]


def analyse(results: dict[str, Any]) -> dict[str, Any]:
    """Return intervals over seeds for all figures of the table, and for the differences between validation losses."""
    runs, cuts, costs = results["runs"], results["cuts"], results["costs"]
    losses = {name: [run["validation"] for run in each] for name, each in runs.items()}
    losses |= {name + CUT: [run["validation"] for run in each["runs"]] for name, each in cuts.items()}
    rows = {}
    for name, loss in losses.items():
        row = {"validation": interval(loss), "against_none": interval(minus(loss, losses[NONE]))}
        if name in runs:
            row |= {what: interval([run[what] for run in runs[name]]) for what in ("training", "kept", "kept_in_evaluation")}
        row |= {f"{what} cost": interval([cost[what][name] for cost in costs]) for what in costs[0] if name in costs[0][what]}
        rows[name] = row

    def best(family: str) -> str:
        return min((name for name in runs if name.startswith(family)), key=lambda name: fmean(losses[name]))

    bests = {family: best(family) for family in ("nn.Dropout", "TailDropout", "LearnedDropout")}
    pairs = {f"{name} against {NONE}": (name, NONE) for name in runs if name != NONE}
    pairs |= {
        f"{left} against {right}": (left, right) for left, right in [(bests["TailDropout"], bests["nn.Dropout"]), SAME_PLACE]
    }
    differences = {name: minus(losses[left], losses[right]) for name, (left, right) in pairs.items()}
    adjusted = holm({name: p_value(each) for name, each in differences.items()})
    return {
        "rows": rows,
        "best": bests,
        "comparisons": {
            name: {"difference": interval(each), "adjusted_p": adjusted[name]} for name, each in differences.items()
        },
    }


def signed(found: Interval) -> str:
    """Return a difference of losses and its interval as text."""
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def verdict(found: dict[str, Any], lower: str, higher: str) -> str:
    """Return `lower` or `higher` by the sign of the difference, or "no difference shown" if its interval contains 0."""
    return {-1: lower, 0: "no difference shown", 1: higher}[found["difference"].sign]


def span(intervals: Sequence[Interval], decimals: int = 2) -> str:
    """Return the least and the largest mean as text."""
    means = sorted(f"{each.mean:.{decimals}f}" for each in intervals)
    return means[0] if means[0] == means[-1] else f"{means[0]} to {means[-1]}"


def say(results: dict[str, Any], settings: Any) -> list[str]:
    """Return the findings as sentences."""
    answers, cuts = results["answers"], results["cuts"]
    rows, bests, comparisons = answers["rows"], answers["best"], answers["comparisons"]
    groups: dict[str, list[str]] = {"lower": [], "higher": [], "no difference shown": []}
    for name, found in comparisons.items():
        left, _, right = name.partition(" against ")
        if right == NONE:
            groups[verdict(found, "lower", "higher")].append(left.replace(", ", " with "))
    against = f"{bests['TailDropout']} against {bests['nn.Dropout']}", " against ".join(SAME_PLACE)
    outcomes = [
        f"{name} {signed(comparisons[name]['difference'])}: "
        + verdict(comparisons[name], "TailDropout is better", "TailDropout loses")
        for name in dict.fromkeys(against)
    ]
    remaining = [name for name, found in comparisons.items() if found["adjusted_p"] <= 0.05]
    faster = interval([cost["training"][SAME_PLACE[0]] / cost["training"][SAME_PLACE[1]] for cost in results["costs"]])
    learned = {
        suffix: [
            row for name, row in rows.items() if name.startswith("LearnedDropout") and name.endswith(", penalty") == penalty
        ]
        for suffix, penalty in (("without", False), ("with", True))
    }
    kept = {suffix: span([row["kept_in_evaluation"] for row in each]) for suffix, each in learned.items()}
    ratio = {
        what: span([Interval(*[row[what].mean / rows[NONE][what].mean] * 3) for row in learned["without"]])
        for what in ("training cost", "memory cost")
    }
    sizes = {name: each[0]["parameters"] for name, each in results["runs"].items()}
    larger = next(size for name, size in sizes.items() if name.startswith("LearnedDropout")) / sizes[NONE]
    return [
        f"Losses in nats per character at the end of training, with 95 % t intervals over {len(settings.seeds)} seeds, paired "
        "where they are differences; kept: the share of features in training and in evaluation; peak memory: what a step of "
        "training allocates at most beyond weights and Adam's state; a thousand characters per second of one processor.",
        f"Validation loss against {NONE}, {rows[NONE]['validation'].plain(3)}: "
        + "; ".join(f"{group}: {', '.join(names) or '–'}" for group, names in groups.items())
        + f". Held to 5 % for all {len(comparisons)} comparisons together (Holm's test), of these and the next remain: "
        f"{', '.join(remaining) or 'none'}.",
        f"TailDropout against nn.Dropout, best against best and in the same place: {'; '.join(outcomes)}. There it trains at "
        f"{faster.plain()} times the speed.",
        f"LearnedDropout keeps {kept['without']} of the features in evaluation without penalty and {kept['with']} with one of "
        f"{settings.penalty:g}; it has {larger:.2f} times the parameters of {NONE}, and trains at {ratio['training cost']} "
        f"times the speed with {ratio['memory cost']} times the memory.",
        *(of_cut(name, found, rows, sizes[NONE], results, settings) for name, found in cuts.items()),
    ]


def of_cut(name: str, found: dict[str, Any], rows: dict[str, Any], size: int, results: dict[str, Any], settings: Any) -> str:
    """Return sentences on the loss and the savings of pruning the network `name`; `size` is its number of parameters."""
    pruned, k = rows[name + CUT], found["k"]
    lost = interval(minus([run["validation"] for run in found["runs"]], [run["validation"] for run in results["runs"][name]]))
    without = interval(minus(found["no_dropout_at_k"], [run["validation"] for run in results["runs"][NONE]]))
    speed = pruned["evaluation cost"].mean / rows[NONE]["evaluation cost"].mean
    difference = max(run["largest_difference_of_logits"] for run in found["runs"])
    equal = f"to {difference:.0e}" if difference else "exactly"
    return (
        f"{name} pruned to {k} of {results['widths'][-1]} hidden features in every FFN, the fewest "
        f"within {settings.tolerance:.0%} of the least loss at any width on the windows watched in training: {signed(lost)} in "
        f"loss on all of the text, {signed(pruned['against_none'])} against {NONE}, "
        f"{found['runs'][0]['parameters'] / size:.2f} times the parameters, evaluated at {speed:.2f} times the speed; its "
        f"logits are those of the whole network at that width, {equal}. The network trained without "
        f"dropout, cut there too, loses {signed(without)}."
    )


def table(results: dict[str, Any], sentences: Sequence[str]) -> str:
    """Return a Markdown table with a row per network, then the sentences."""
    lines = [
        f"| | validation loss | against {NONE} | training loss | kept, training / evaluation | parameters | peak memory, MB "
        "| training, 1000/s | evaluation, 1000/s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    sizes = {name: each[0]["parameters"] for name, each in results["runs"].items()}
    sizes |= {name + CUT: found["runs"][0]["parameters"] for name, found in results["cuts"].items()}
    for name, row in results["answers"]["rows"].items():
        whole = not name.endswith(CUT)
        cells = [
            name + (f" to {results['cuts'][name.removesuffix(CUT)]['k']}" if not whole else ""),
            row["validation"].plain(3),
            "" if name == NONE else signed(row["against_none"]),
            row["training"].plain(3) if whole else "",
            f"{shown(row['kept'], 2)} / {shown(row['kept_in_evaluation'], 2)}" if whole else "",
            f"{sizes[name]:,}".replace(",", " "),
            shown(row["memory cost"], 1, 1e6) if whole else "",
            shown(row["training cost"], 1, 1e3) if whole else "",
            shown(row["evaluation cost"], 1, 1e3),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"* {sentence}" for sentence in sentences)])


def shown(found: Interval, decimals: int, unit: float = 1) -> str:
    """Return the mean over `unit` as text, with ± half the width of the interval unless that rounds to 0."""
    scaled = Interval(*(each / unit for each in found))
    seen = scaled.high - scaled.mean >= 0.5 * 10**-decimals
    return scaled.plain(decimals) if seen else f"{scaled.mean:.{decimals}f}"


def draw(results: dict[str, Any]) -> Figure:
    """Draw the losses during training, at the end and at every width, and LearnedDropout's share of ones."""
    figure, axes = plt.subplots(2, 3, figsize=(13, 8), layout="constrained")
    runs = results["runs"]
    families = {
        "nn.Dropout": [name for name in runs if name.startswith("nn.") and name != IN_FFN],
        "in the FFN": [IN_FFN, *TAILS],
        "LearnedDropout": [name for name in runs if name.startswith("LearnedDropout")],
    }
    for panel, (family, names) in zip(axes[0], families.items(), strict=True):
        for name, colour in zip([NONE, *names], [BLACK, *COLOURS], strict=False):
            for part, line in (("training", ":"), ("validation", "-")):
                label = name.removeprefix("LearnedDropout ") if part == "validation" else None
                over_training(panel, runs[name], part, line, colour, label)
        panel.plot([], [], ":", color=GREY, label="on training text")
        panel.set(title=family, xlabel="training step", ylabel="loss, nats per character")
        panel.sharey(axes[0, 0])
        panel.margins(y=0.25)  # space for the legend
    at_the_end(axes[1, 0], results)
    at_every_width(axes[1, 1], results)
    for name, colour in zip(families["LearnedDropout"], COLOURS, strict=True):
        over_training(axes[1, 2], runs[name], "kept", "-", colour, name.removeprefix("LearnedDropout "))
    axes[1, 2].set(title="LearnedDropout's share of ones in training", xlabel="training step", ylim=(0, 1))
    for panel in axes.flat:
        panel.grid(alpha=0.3)
        if panel is not axes[1, 0]:
            panel.legend(fontsize=8, ncols=2 if panel is axes[0, 2] else 1)
    return figure


def over_training(axes: Axes, runs: Sequence[dict[str, Any]], what: str, line: str, colour: str, label: str | None) -> None:
    """Plot the mean over seeds of the measure `what` at each evaluated step."""
    steps = [each["step"] for each in runs[0]["history"]]
    values = torch.tensor([[each[what] for each in run["history"]] for run in runs])
    axes.plot(steps, values.mean(0), line, color=colour, label=label)


def at_the_end(axes: Axes, results: dict[str, Any]) -> None:
    """Plot the final validation loss of each network. Dots are seeds, bars 95 % intervals."""
    rows = results["answers"]["rows"]
    for row, (name, found) in enumerate(rows.items()):
        colour = BLACK if name == NONE else BLUE if name.startswith("Tail") else ORANGE if name.startswith("nn.") else GREEN
        whole = results["runs"].get(name) or results["cuts"][name.removesuffix(CUT)]["runs"]
        axes.plot([run["validation"] for run in whole], [row] * len(whole), ".", color=colour, markersize=3, alpha=0.5)
        half = found["validation"].high - found["validation"].mean
        axes.errorbar(found["validation"].mean, row, xerr=half, fmt="o", color=colour, markersize=4)
    axes.axvline(rows[NONE]["validation"].mean, color=BLACK, linewidth=0.6)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set(title="validation loss at the end", xlabel="nats per character; left is better")


def at_every_width(axes: Axes, results: dict[str, Any]) -> None:
    """Plot the loss at every width of all FFNs, and of one FFN alone."""
    widths = results["widths"]
    for (name, found), colour in zip(results["loss_at_every_width"].items(), (BLACK, ORANGE, BLUE), strict=True):
        for what in found[0]:
            mean = torch.tensor([each[what] for each in found]).mean(0)
            everywhere = what == "every FFN"
            axes.plot(widths, mean, "-" if everywhere else ":", color=colour, label=name if everywhere else None)
        if name in results["cuts"]:
            k = results["cuts"][name]["k"]
            mean = torch.tensor([each["every FFN"] for each in found]).mean(0)
            axes.plot(k, mean[widths.index(k)], "o", color=colour, label=f"chosen: k = {k}")
    axes.plot([], [], ":", color=GREY, label="in one FFN alone")
    width_axis(axes, widths)
    axes.set(title="the first k hidden features of every FFN", ylabel="validation loss, nats per character")
