"""The README is short, its code runs, its links exist, and each figure about the experiments is in their results."""

import json
import re
import statistics
from collections.abc import Callable
from typing import Any

import pytest

import taildropout
from benchmarks import ROOT
from benchmarks.suite.cases import CASES

README = ROOT / "README.md"
EXPERIMENTS = ROOT / "docs" / "experiments.md"
TABLE = re.compile(r"<!-- table:([\w-]+) -->.*?<!-- /table:\1 -->", re.DOTALL)
# Digits on the page that are not findings.
WITHOUT_FIGURES = ["784–256–256–10", "Order begins at p = .01 and is strong from .1 on", "As p → 1", "± is a 95 % interval"]
Results = dict[str, Any]
ORDERED = ("TailDropout", "NestedDropout")
# Phrases of the page on experiments with their figures, the example, and the condition on its results.
CLAIMS: list[tuple[str, str, Callable[[Results], bool]]] = [
    (
        "its error is within .3 % of PCA's at every k",
        "pca",
        lambda r: all(each["largest_excess_over_pca_of_any_width"] <= 0.003 for each in r.values()),
    ),
    (
        "beats PCA at every width from 1 to 64",
        "autoencoder",
        lambda r: r["widths_at_which_TailDropout_beats_PCA_of_the_images"] == list(range(1, 65)),
    ),
    (
        "at k = 1 it separates shoes from shirts (area under ROC .98",
        "autoencoder",
        lambda r: round(r["area_under_ROC_of_the_first_feature_shoes_against_shirts"]["TailDropout"], 2) == 0.98,
    ),
    (
        "the first principal direction of a plain autoencoder's code does so too, .999",
        "autoencoder",
        lambda r: (
            round(r["area_under_ROC_of_the_first_feature_shoes_against_shirts"]["no dropout, PCA of its code"], 3) == 0.999
        ),
    ),
    (
        "cut to a fifth of its parameters loses .7 points of accuracy and is 3.6 times as fast",
        "classifier",
        lambda r: (
            round(share(r["mlp"]["pruned"]["parameters"]), 1) == 0.2
            and round(100 * lost(r["mlp"]["pruned"]["test_accuracy"]), 1) == 0.7
            and round(r["mlp"]["pruned"]["speedup"], 1) == 3.6
        ),
    ),
    (
        "a convolutional one cut to a quarter loses .5 points and is 2.2 times as fast",
        "classifier",
        lambda r: (
            round(4 * share(r["cnn"]["pruned"]["parameters"])) == 1
            and round(100 * lost(r["cnn"]["pruned"]["test_accuracy"]), 1) == 0.5
            and round(r["cnn"]["pruned"]["speedup"], 1) == 2.2
        ),
    ),
    (
        "1.1 and 1.4 points of accuracy at full width",
        "classifier",
        lambda r: [round(r[net]["points_of_accuracy_lost_at_full_width"]["mean"], 1) for net in ("mlp", "cnn")] == [1.1, 1.4],
    ),
    (
        "16 % of that autoencoder's error",
        "autoencoder",
        lambda r: round(r["full_width_error_relative_to_no_dropout"]["TailDropout"], 2) == 1.16,
    ),
    (
        "A network trained for one width alone is better at that width",
        "classifier",
        lambda r: all(
            alone > tail
            for net in r.values()
            for alone, tail in zip(
                net["test_accuracy_at_every_width"]["trained at this width"],
                net["test_accuracy_at_every_width"]["TailDropout"],
                strict=True,
            )
            if alone < net["test_accuracy_at_every_width"]["no dropout"][-1]  # full width is said above
        ),
    ),
    (
        "a Matryoshka loss is better at narrow ones",
        "classifier",
        lambda r: all(
            nested > tail
            for net in r.values()
            for nested, tail in zip(
                net["test_accuracy_at_every_width"]["Matryoshka loss"][:3],
                net["test_accuracy_at_every_width"]["TailDropout"][:3],
                strict=True,
            )
        ),
    ),
    (
        "test loss .82 at 18 of 1024 features, where full width has 1.73 and early stopping .79",
        "overfit",
        lambda r: (
            [r["chosen_k"], round(r["chosen"]["test"], 2), round(r["full_width"]["test"], 2)] == [18, 0.82, 1.73]
            and round(r["early_stopping"]["test"], 2) == 0.79
        ),
    ),
    (
        "there 75 of 256 features are enough, and 61 at p = .5",
        "rates",
        lambda r: [round(at(r, p, "width")) for p in (0.1, 0.5)] == [75, 61],
    ),
    (
        "full width costs .3 points of accuracy",
        "rates",
        lambda r: round(100 * (at(r, 0.0, "accuracy") - at(r, 0.5, "accuracy")), 1) == 0.3,
    ),
    (
        "none of the layers is shown to be better than no dropout; TailDropout at p = .5 costs 1.6 points",
        "fashion_mlp",
        lambda r: (
            round(-r["configurations"]["TailDropout .5"]["against_none"][0], 1) == 1.6
            and not any(
                pair["difference"][0] > 0 and pair["adjusted_p"] < 0.05
                for name, pair in r["comparisons"].items()
                if name.endswith("no dropout")
            )
        ),
    ),
    (
        "with a quarter of each hidden layer it keeps 83 %, where networks without an order keep at most 43 %",
        "fashion_mlp",
        lambda r: (
            round(r["configurations"]["TailDropout .5"]["narrow"][0]) == 83
            and [round(max(each["narrow"][0] for name, each in r["configurations"].items() if not name.startswith(ORDERED)))]
            == [43]
        ),
    ),
    (
        "cut to 48 of 256 hidden features per block has the loss of one trained without dropout",
        "language_model",
        lambda r: (
            r["cuts"]["TailDropout .5"]["k"] == 48
            and abs(mean(r["cuts"]["TailDropout .5"]["runs"]) - mean(r["runs"]["no dropout"])) < 0.01
        ),
    ),
    (
        "at MatFormer's sizes the best nested dropout is not shown to differ from MatFormer, which is better between its two",
        "one_for_all",
        lambda r: (
            (found := r["answers"]["against_matformer"][r["answers"]["best"]])
            and all(found[share][1] < 0 < found[share][2] for share in ("0.125", "0.25", "0.5", "1"))
            and list(found.values())[4][1] > 0  # after the four sizes, the least budget between them
        ),
    ),
    (
        "Both are worse than a training for each size. Of the nested dropouts, the best draws one K for each step",
        "one_for_all",
        lambda r: (
            r["answers"]["best"].startswith("a step:")
            and all(
                r["answers"]["against_alone"][name][share][1] > 0
                for name in (r["answers"]["best"], "MatFormer")
                for share in ("0.125", "0.25", "0.5", "1")
            )
        ),
    ),
    (
        "TailDropout is 4.7 points worse than `nn.Dropout` at full width; cut, it is not shown to differ",
        "moons",
        lambda r: (
            round(-r["differences"]["TailDropout less nn.Dropout"]["points"][0], 1) == 4.7
            and r["differences"]["TailDropout less nn.Dropout"]["adjusted_p"] < 0.05
            and r["differences"]["TailDropout, cut less nn.Dropout"]["adjusted_p"] > 0.05
        ),
    ),
    (
        "TailDropout needs more steps to the same loss than it saves",
        "feedforward",
        lambda r: next(row for row in r["rows"] if (row["layer"], row["p"]) == ("TailMLP", 0.5))["to the easy loss"][0] > 1,
    ),
    ("by .13 of its standard deviation at p = .5", "rates", lambda r: round(at(r, 0.5, "shift"), 2) == 0.13),
]


def mean(runs: list[dict[str, float]]) -> float:
    """Return the mean validation loss."""
    return statistics.fmean(run["validation"] for run in runs)


def share(parameters: dict[str, float]) -> float:
    """Return the share of parameters that the pruned network has."""
    return parameters["pruned"] / parameters["whole"]


def lost(accuracy: dict[str, float]) -> float:
    """Return the accuracy lost by pruning."""
    return accuracy["whole"] - accuracy["pruned"]


def at(results: Results, p: float, name: str) -> float:
    """Return the mean over seeds at a rate."""
    mean: float = results["mean_over_seeds"][name][results["p"].index(p)]
    return mean


@pytest.mark.parametrize(("words", "example", "holds"), CLAIMS, ids=[words[:40].replace("\n", "") for words, _, _ in CLAIMS])
def test_what_the_page_says_was_found(words: str, example: str, holds: Callable[[Results], bool]) -> None:
    assert joined(words) in joined(EXPERIMENTS.read_text("utf-8")), "another wording: change the claim here"
    stored = json.loads((ROOT / "examples" / "results" / f"{example}.json").read_text("utf-8"))
    assert stored["size"] == "default", "the page speaks of the run at default size"
    assert holds(stored["results"])


def test_every_figure_of_the_page_is_a_claim_above() -> None:
    """A figure that is in no claim would be untested."""
    page = EXPERIMENTS.read_text("utf-8")
    text = joined(
        "\n".join(line for line in TABLE.sub("", page).split("## In short")[1].splitlines() if not line.startswith("!["))
    )
    unclaimed = text
    for words, _, _ in CLAIMS:
        unclaimed = unclaimed.replace(joined(words), "")
    for words in WITHOUT_FIGURES:
        assert words in unclaimed, f"{words!r} is no longer on the page"
        unclaimed = unclaimed.replace(words, "")
    assert not re.findall(r".{0,60}\d.{0,20}", unclaimed)


def test_the_readme_is_short_and_has_every_public_name() -> None:
    text = README.read_text("utf-8")
    assert len(text.splitlines()) <= 160
    missing = [name for name in taildropout.__all__ if not re.search(rf"`(\w+\.)?{name}\b", text)]
    assert not missing


def test_the_figures_of_the_readme_are_those_of_the_records() -> None:
    text = joined(README.read_text("utf-8"))
    claimed = "cut to a fifth of its parameters loses .7 points of accuracy and is 3.6 times as fast"
    assert claimed in text
    assert claimed in [words for words, _, _ in CLAIMS]
    assert "at full width the order costs 1.1 points" in text
    assert any(words.startswith("1.1 and 1.4 points of accuracy at full width") for words, _, _ in CLAIMS)
    records = [json.loads(file.read_text()) for file in (ROOT / "benchmarks" / "records").glob("*.json")]
    (gpu,) = (record["cases"] for record in records if "H100" in record["machine"].get("gpu", ""))
    over = {name: case["ratio"]["nn.Dropout"][0] for name, case in gpu.items() if "ratio" in case}
    eager = [name for name in over if CASES[name].model == "layer" and CASES[name].mode == "eager"]
    small = [over[name] for name in eager if CASES[name].numel < 2**23]
    half = [over[name] for name in eager if CASES[name].numel >= 2**23 and re.search("16-train", name)]
    found = [over[f"cuda-16384x4096-{name}"] for name in ("f32-fwd", "f32-train", "bf16-fwd")]
    assert f"below 2²³ elements take {min(small):.1f} to {max(small):.1f} times as long as with `nn.Dropout`; at 2²⁶" in text
    assert f"float32 takes {short(found[0])} of its time forward and {short(found[1])} with backward" in text
    assert f"half precision {short(found[2])} and {min(half):.1f} to {max(half):.1f}; `TailMLP` saves nothing there." in text
    assert over["cuda-feedforward-16384x1024-bf16-train"] > 1


def short(ratio: float) -> str:
    return f"{ratio:.2f}".removeprefix("0")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_to_files_and_headings(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = ROOT / path if path else ROOT / page
        assert file.exists(), f"{page} links to {target}"
        assert not anchor or anchor in anchors(file.read_text("utf-8")), f"{page} links to {target}"


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def joined(text: str) -> str:
    """Return the text on one line."""
    return " ".join(text.split())
