"""The report of `one_for_all.py`: answers with intervals, table and figure."""

import itertools
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..common.intervals import interval
from ..common.study import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, YELLOW
from .language_report import minus, signed

NONE, MATFORMER, SEPARATE = "no dropout", "MatFormer", "trained at {} alone"
DISTILLED = "a sequence: log-uniform, from full width"
SHARES = (0.125, 0.25, 0.5, 1.0)
TODAY = "a character: TailDropout .5"  # what the layer does by itself
COLOURS = [BLACK, ORANGE, SKY, BLUE, GREEN, PURPLE, "#7B3F00", YELLOW, GREY]


def at_budget(run: dict[str, Any], budget: float) -> float:
    """Return the loss of the best size within a budget of parameters; the best on the text of the choice."""
    within = [point for point in run["points"] if point["cost"] <= budget * (1 + 1e-4)]  # costs are stored with five digits
    found: float = min(within, key=lambda point: point["chosen_by"])["loss"]
    return found


def sizes_in_parameters(runs: dict[str, list[dict[str, Any]]]) -> list[float]:
    """Return the number of parameters of each of MatFormer's sizes."""
    return [*(runs[SEPARATE.format(share)][0]["parameters"] for share in SHARES[:-1]), runs[NONE][0]["parameters"]]


def analyse(results: dict[str, Any]) -> dict[str, Any]:
    """Return each network's losses at MatFormer's sizes and at the budgets between them, and differences from MatFormer.

    A budget lies half-way between the numbers of parameters of two of MatFormer's sizes. Losses at a size are at the same width
    in every FFN, losses at a budget with a width per FFN.
    """
    runs = results["runs"]
    sizes = sizes_in_parameters(runs)
    between = [(one + other) / 2 for one, other in itertools.pairwise(sizes)]
    together = [name for name, each in runs.items() if "points" in each[0]]
    losses: dict[str, dict[str, list[float]]] = {}
    for name in together:
        losses[name] = {f"{share:g}": [run["at_sizes"][str(share)] for run in runs[name]] for share in SHARES}
        losses[name] |= {f"{budget:.0f}": [at_budget(run, budget) for run in runs[name]] for budget in between}
    alone = {f"{share:g}": [run["at_sizes"][str(share)] for run in runs[SEPARATE.format(share)]] for share in SHARES[:-1]}
    alone["1"] = losses[NONE]["1"]
    places = [f"{share:g}" for share in SHARES], [f"{budget:.0f}" for budget in between]

    def over(name: str, where: Sequence[str]) -> list[float]:  # the mean over places, by seed
        return [fmean(each) for each in zip(*(losses[name][place] for place in where), strict=True)]

    ours = [name for name in together if name not in (NONE, MATFORMER)]
    return {
        "sizes": sizes,
        "between": between,
        "best": min(ours, key=lambda name: fmean(over(name, [*places[0], *places[1]]))),
        "losses": {name: {place: interval(each) for place, each in found.items()} for name, found in losses.items()},
        "alone": {place: interval(each) for place, each in alone.items()},
        "against_matformer": {
            name: {
                **{place: interval(minus(losses[name][place], losses[MATFORMER][place])) for place in losses[name]},
                **{
                    what: interval(minus(over(name, where), over(MATFORMER, where)))
                    for what, where in zip(("at its sizes", "between"), places, strict=True)
                },
            }
            for name in together
            if name != MATFORMER
        },
        "against_alone": {
            name: {place: interval(minus(losses[name][place], alone[place])) for place in places[0]} for name in together
        },
        "price": {name: interval(minus(losses[name]["1"], losses[NONE]["1"])) for name in together if name != NONE},
        "frontier_over_training": {
            name: fmean(run["seconds_of_frontier"] for run in runs[name])
            / (results["steps"][NONE] * results["step_times"][NONE])
            for name in together
        },
        "points": {name: min(len(run["points"]) for run in runs[name]) for name in together},
    }


def say(results: dict[str, Any], settings: Any) -> list[str]:
    """Return the findings as sentences."""
    answers = results["answers"]
    best, prices = answers["best"], answers["price"]
    outcome = {-1: "better", 0: "no difference shown", 1: "worse"}
    against = answers["against_matformer"][best]
    at_sizes = "; ".join(
        f"{share:g}: {signed(against[f'{share:g}'])}, {outcome[against[f'{share:g}'].sign]}" for share in SHARES
    )
    alone = "; ".join(f"{share:g}: {signed(answers['against_alone'][best][f'{share:g}'])}" for share in SHARES)
    ratio = prices[best].mean / prices[TODAY].mean
    share = answers["frontier_over_training"][best]
    four = (1 + share) / len(SHARES)
    every = (1 + share) / answers["points"][best]
    text = f"{settings.judged_on * settings.context:,}".replace(",", " ")
    return [
        f"Losses in nats per character on {text} characters of validation text, with 95 % t intervals over "
        f"{len(settings.seeds)} seeds, paired where they are differences. At a share of the hidden features all FFNs have the "
        "same width; at a number of parameters each FFN has its own, chosen on other text. All networks trained for the same "
        "processor time.",
        f"The best of the nested dropouts over all columns, by the same seeds, is {best}. Against MatFormer at its own sizes "
        f"{at_sizes}; over the four sizes {signed(against['at its sizes'])}, between them {signed(against['between'])}.",
        f"Against networks trained at that size alone, for the same time each: {alone}.",
        f"At full width {best} costs {signed(prices[best])} against {NONE}, {TODAY} {signed(prices[TODAY])}: {ratio:.2f} times "
        f"as much; MatFormer costs {signed(prices[MATFORMER])}.",
        f"One training and the search for all its sizes take {four:.2f} of the time of training MatFormer's four sizes one by "
        f"one, and {every:.2f} of training each of the {answers['points'][best]} sizes found.",
    ]


def table(results: dict[str, Any], sentences: Sequence[str]) -> str:
    """Return a Markdown table with a row per network and a column per size, then the sentences."""
    answers = results["answers"]
    places = [f"{share:g}" for share in SHARES]
    places = [each for pair in zip(places, (f"{budget:.0f}" for budget in answers["between"]), strict=False) for each in pair]
    places.append(f"{SHARES[-1]:g}")
    heads = [f"{int(place) / 1000:.0f}k parameters" if float(place) > 1 else place for place in places]
    lines = [f"| | steps | {' | '.join(heads)} |", "| --- | ---: |" + " ---: |" * len(places)]
    for name, found in answers["losses"].items():
        cells = [name, str(results["steps"][name]), *(found[place].plain(3) for place in places)]
        lines.append(f"| {' | '.join(cells)} |")
    alone = [answers["alone"][place].plain(3) if place in answers["alone"] else "" for place in places]
    lines.append(f"| each size trained alone | {results['steps'][NONE]} or more | {' | '.join(alone)} |")
    return "\n".join([*lines, "", *(f"* {sentence}" for sentence in sentences)])


def draw(results: dict[str, Any]) -> Figure:
    """Draw each network's loss over parameters, and its difference from MatFormer."""
    answers, runs = results["answers"], results["runs"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    places = sorted([*answers["sizes"], *answers["between"]])
    for (name, found), colour in zip(answers["losses"].items(), COLOURS, strict=True):
        means = [fmean(at_budget(run, budget) for run in runs[name]) for budget in places]
        left.plot(places, means, "-", color=colour, label=name, linewidth=1)
        at_sizes = [found[f"{share:g}"].mean for share in SHARES]
        left.plot(answers["sizes"], at_sizes, "o", color=colour, markersize=4)
        if name not in (NONE, MATFORMER):
            differences = [
                interval(
                    [
                        at_budget(one, budget) - at_budget(other, budget)
                        for one, other in zip(runs[name], runs[MATFORMER], strict=True)
                    ]
                )
                for budget in places
            ]
            right.plot(places, [each.mean for each in differences], "o-", color=colour, markersize=4)
            low, high = ([each[at] for each in differences] for at in (1, 2))
            right.fill_between(places, low, high, color=colour, alpha=0.12, linewidth=0)
    alone = [answers["alone"][f"{share:g}"].mean for share in SHARES]
    left.plot(answers["sizes"], alone, "*", color=BLACK, markersize=9, label="each size trained alone")
    left.plot([], [], "o", color=GREY, markersize=4, label="the same width in every FFN")
    least = min(alone + [found["1"].mean for found in answers["losses"].values()])
    highest = max(answers["losses"][name]["0.125"].mean for name in answers["losses"] if name != NONE)
    left.set_ylim(least - 0.03 * (highest - least), highest + 0.1 * (highest - least))
    right.axhline(0, color=ORANGE, linewidth=1)
    left.set(title="one network for all sizes", xlabel="parameters", ylabel="validation loss, nats per character")
    right.set(
        title="difference from MatFormer, its sizes mixed", xlabel="parameters", ylabel="nats per character; below 0 is better"
    )
    for panel in (left, right):
        panel.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, ncols=4, loc="outside lower center")
    return figure
