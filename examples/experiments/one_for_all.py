"""Train a language model for all sizes at once, by MatFormer and by nested dropouts, and each size alone, for the same time.

python -m examples.experiments.one_for_all        writes figures/ and results/ one_for_all under examples/

The text is the Jargon File (`apt-get install jargon-text`, or set JARGON_FILE); the network is that of `language_model.py`, a
little larger. The sizes are numbers of hidden features in the feed-forward networks (FFNs). MatFormer (Devvrit et al. 2023)
draws one of four sizes for each step. Nested dropouts draw a K for each step or sequence, the same in all FFNs, or for each
character in each FFN. Every network trains for the processor time in which a network without dropout takes `steps` steps. The
loss is measured at MatFormer's four sizes, and at budgets of parameters between them, for which every FFN has its own width:
MatFormer mixes its four sizes, the others use the sizes that `frontier` finds.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from time import process_time
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from taildropout import Frontier, TailDropout, at_k, frontier
from taildropout.baselines import NestedDropout
from taildropout.widths.sizes import Size

from ..common import jargon
from ..common.study import Study, median_times, one_cycle, progress, rounded
from . import language_model, language_text, one_for_all_report
from .language_measures import parameters
from .language_model import Decoder, each_loss
from .language_text import Batch, encode, pieces, windows
from .one_for_all_report import DISTILLED, MATFORMER, NONE, SEPARATE, SHARES, TODAY, analyse, draw, say, table

SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {
        "seeds": [0, 1], "characters": 200_000, "context": 16, "size": 16, "blocks": 2, "batch": 4, "steps": 6, "chosen_on": 8,
        "judged_on": 8, "sizes": 6, "forwards": 30, "calls": 2,
    },
    "default": {
        "seed": 0, "seeds": [0, 1, 2, 3], "characters": None, "context": 64, "size": 96, "heads": 4, "blocks": 3, "batch": 16,
        "steps": 800, "rate": 3e-3, "chosen_on": 256, "judged_on": 1024, "sizes": 10, "forwards": 60, "calls": 30,
    },
    "full": {"size": 192, "blocks": 4, "context": 128, "steps": 10_000},
}  # fmt: skip


class Recipe(NamedTuple):
    """How a network trains: which features each FFN keeps in a step.

    Attributes:
        p: the drop probability of TailDropout.
        skips: True if TailMLP skips dropped features; False if they are computed and set to 0.
        whole: at the start and at the end of training, the share of the Ks that are all features; the others are log-uniform,
            from MatFormer's least size on. None for TailDropout's law.
        each: what has a K of its own: a "step" or a "sequence", the same in all FFNs, or a "character" in each FFN.
        sizes: the sizes of which each step draws one, as shares of the hidden features.
        distilled: True if each step also trains full width, and the narrow widths learn its output instead of the text.
        share: the size of the network, as a share of the hidden features.
    """

    p: float = 0.0
    skips: bool = True
    whole: tuple[float, float] | None = None
    each: str = "character"
    sizes: tuple[float, ...] = ()
    distilled: bool = False
    share: float = 1.0


RECIPES = {
    NONE: Recipe(),
    MATFORMER: Recipe(sizes=SHARES),
    "a step: log-uniform, ¼ whole": Recipe(whole=(0.25, 0.25), each="step"),
    "a sequence: log-uniform, ¼ whole": Recipe(whole=(0.25, 0.25), each="sequence"),
    "a sequence: log-uniform, whole rising": Recipe(whole=(0, 0.5), each="sequence"),
    DISTILLED: Recipe(whole=(0, 0), each="sequence", distilled=True),
    "a character: log-uniform, ¼ whole": Recipe(whole=(0.25, 0.25)),
    TODAY: Recipe(p=0.5, skips=False),
    f"{TODAY}, TailMLP": Recipe(p=0.5),
    **{SEPARATE.format(share): Recipe(share=share) for share in SHARES[:-1]},
}


def network(recipe: Recipe, settings: Any) -> Decoder:
    """Return the network of a recipe before training; with the same torch seed, networks of a size have the same weights."""
    model = Decoder(settings)
    for block in model.blocks:
        block.ffn[2].p = recipe.p
        if recipe.share < 1:
            hidden = round(4 * settings.size * recipe.share)
            block.ffn[0], block.ffn[3] = nn.Linear(settings.size, hidden), nn.Linear(hidden, settings.size)
        if not recipe.skips:
            block.ffn = block.ffn[:]  # the same four modules, none of them skipped
    return model


def objective(model: Decoder, recipe: Recipe, batch: Batch, done: float, generator: torch.Generator) -> Tensor:
    """Return the loss of a training step after the share `done` of training; `generator` draws MatFormer's size."""
    layers, hidden = [block.ffn[2] for block in model.blocks], model.blocks[0].ffn[0].out_features
    first, last = recipe.whole or (0, 0)
    law = log_uniform(hidden, first + (last - first) * done)
    widths: list[Any] = [None] * len(layers)
    if recipe.sizes:
        at = int(torch.randint(len(recipe.sizes), (), generator=generator))
        widths = [round(recipe.sizes[at] * hidden) for _ in layers]
    elif recipe.whole is not None and recipe.each == "step":
        widths = [int(law.draw((), hidden))] * len(layers)
    elif recipe.whole is not None and recipe.each == "sequence":
        widths = [law.draw(batch[0].shape[:1], hidden)[:, None].expand(batch[0].shape)] * len(layers)
    elif recipe.whole is not None:
        widths = [law.draw(batch[0].shape, hidden) for _ in layers]
    full = model(batch[0]) if recipe.distilled else None
    for layer, width in zip(layers, widths, strict=True):
        layer.set_k(width)
    output = model(batch[0])
    for layer in layers:
        layer.set_k(None)
    if full is None:
        return each_loss(output, batch[1]).mean()
    narrow, target = (log_softmax(each, -1).flatten(0, 1) for each in (output, full.detach()))
    return each_loss(full, batch[1]).mean() + kl_div(narrow, target, log_target=True, reduction="batchmean")


def step_of(recipe: Recipe, batch: Batch, settings: Any) -> Callable[[], None]:
    """Return a function that takes a training step, always on the same batch, in the middle of training."""
    model, generator = network(recipe, settings), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.rate)

    def call() -> None:
        objective(model, recipe, batch, 0.5, generator).backward()
        optimizer.step()
        optimizer.zero_grad()

    return call


def step_times(batch: Batch, settings: Any) -> dict[str, float]:
    """Return the mean processor time of a training step of each recipe in seconds.

    Where a step has one size, the time is measured at MatFormer's sizes, interpolated between them, and averaged over the law.
    """
    one_size = {str(share): Recipe(sizes=(share,)) for share in SHARES}
    several = {name: recipe for name, recipe in RECIPES.items() if not recipe.sizes and recipe.each != "step"}
    calls = {name: step_of(recipe, batch, settings) for name, recipe in (one_size | several).items()}
    times = median_times(dict(calls), settings.calls)
    at_sizes, hidden = [times[str(share)] for share in SHARES], 4 * settings.size
    for name, recipe in RECIPES.items():
        if recipe.sizes:
            times[name] = fmean(at_sizes)
        elif recipe.each == "step":
            drawn = log_uniform(hidden, fmean(recipe.whole)).draw((10_000,), hidden) / hidden
            times[name] = float(np.interp(drawn, SHARES, at_sizes).mean())
    return {name: times[name] for name in RECIPES}


def log_uniform(hidden: int, whole: float) -> NestedDropout:
    """Return the log-uniform law from MatFormer's least size on, with the share `whole` of all features."""
    return NestedDropout("log_uniform", min_k=round(SHARES[0] * hidden), whole=whole)


def train(name: str, seed: int, text: Tensor, steps: int, settings: Any) -> dict[str, Tensor]:
    """Train on random windows with a one-cycle learning rate; return the state_dict."""
    recipe = RECIPES[name]
    torch.manual_seed(seed)
    model = network(recipe, settings)
    generator, ahead = torch.Generator().manual_seed(seed), torch.arange(settings.context)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.rate)
    schedule = one_cycle(optimizer, settings.rate, steps, rise=0.1)
    for step in progress(range(steps), steps, f"{name}, seed {seed}"):
        starts = torch.randint(len(text) - settings.context, (settings.batch, 1), generator=generator)
        optimizer.zero_grad()
        batch = text[starts + ahead], text[starts + ahead + 1]
        objective(model, recipe, batch, step / steps, generator).backward()
        optimizer.step()
        schedule.step()
    return model.state_dict()


@torch.no_grad()
def loss_of(model: nn.Module, batches: Sequence[Batch]) -> float:
    """Return the mean loss in evaluation, in nats per character."""
    return torch.cat([each_loss(model.eval()(inputs), targets).flatten() for inputs, targets in batches]).mean().item()


def mixed(model: nn.Module, sizes: Sequence[int], cost: Callable[[dict[str, int]], float], texts: Sequence[Any]) -> Frontier:
    """Return the frontier of all choices of one of these sizes per FFN; `texts` are those to choose and to judge on."""
    layers = [name for name, module in model.named_modules() if isinstance(module, TailDropout)]
    found = []
    for widths in itertools.product(sizes, repeat=len(layers)):
        named = dict(zip(layers, widths, strict=True))
        with at_k(model, named):
            found.append(Size(named, cost(named), 0.0, float("nan"), loss_of(model, texts[0])))
    found.sort(key=lambda size: (size.cost, size.search_loss))
    best = [size for at, size in enumerate(found) if all(size.search_loss < other.search_loss for other in found[:at])]
    points = []
    for size in best:
        with at_k(model, size.widths):
            points.append(Size(size.widths, size.cost, loss_of(model, texts[1]), size.stderr, size.search_loss))
    return Frontier(tuple(points), points[-1], "parameters", name="loss")


def measure(name: str, state: dict[str, Tensor], texts: Sequence[list[Batch]], settings: Any) -> dict[str, Any]:
    """Return a network's loss at MatFormer's sizes, and its sizes with a width per FFN; each judged on the last of `texts`.

    A network that was trained at one size, smaller than the full, has a loss at that size alone.
    """
    share, hidden = RECIPES[name].share, 4 * settings.size
    model = network(Recipe(share=share), settings)
    model.load_state_dict(state)
    model.eval()
    if share < 1:
        return {"parameters": parameters(model), "at_sizes": {str(share): loss_of(model, texts[1])}}
    at_sizes = {}
    for share in SHARES:
        with at_k(model, round(share * hidden)):
            at_sizes[str(share)] = loss_of(model, texts[1])
    whole = parameters(model)

    def cost(widths: dict[str, int]) -> float:
        return whole - sum((hidden - k) * (2 * settings.size + 1) for k in widths.values())

    started = process_time()
    if name == MATFORMER:
        sizes = mixed(model, [round(share * hidden) for share in SHARES], cost, texts)
    else:
        sizes = frontier(
            model, texts[0], each_loss, cost=cost, held_out=texts[1], sizes=settings.sizes, max_forwards=settings.forwards,
            maximize=False, progress=False,
        )  # fmt: skip
    return {
        "parameters": whole,
        "at_sizes": at_sizes,
        "seconds_of_frontier": process_time() - started,
        "points": [{"cost": size.cost, "loss": size.loss, "chosen_by": size.search_loss} for size in sizes],
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train all networks for each seed, measure them at all sizes, draw the figure."""
    uses = [language_model.__file__, language_text.__file__, one_for_all_report.__file__, jargon.__file__]
    study = Study(__file__, (__doc__ or "").partition("\n")[0], SETTINGS, argv, uses=uses[:2])
    settings = study.settings
    training, validation = (encode(part) for part in jargon.split(jargon.jargon_file()[: settings.characters]))
    inputs, targets = windows(validation, settings.context)
    chosen, judged = settings.chosen_on, settings.chosen_on + settings.judged_on
    texts = [pieces((inputs[part], targets[part])) for part in (slice(chosen), slice(chosen, judged))]
    batch = inputs[: settings.batch], targets[: settings.batch]
    times = study.stored("times", partial(step_times, batch, settings))
    steps = {name: max(2, round(settings.steps * times[NONE] / time)) for name, time in times.items()}
    runs: dict[str, list[Any]] = {name: [] for name in RECIPES}
    for seed in settings.seeds:
        for name, done in runs.items():
            part = f"{name}-{seed}".replace("/", " over ")
            state = study.stored(part, partial(train, name, seed, training, steps[name], settings))
            done.append(study.stored(f"{part}-measured", partial(measure, name, state, texts, settings)))
    results: dict[str, Any] = rounded({"text": jargon.SHA256, "step_times": times, "steps": steps, "runs": runs})
    results["answers"] = analyse(results)
    sentences = say(results, settings)
    print("\n".join(sentences))
    return study.save(draw(results), results, table(results, sentences))


if __name__ == "__main__":
    main()
