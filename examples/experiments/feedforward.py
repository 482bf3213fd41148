"""Compare the training time to a given validation loss: TailMLP, TailDropout, nn.Dropout and no dropout.

python -m examples.experiments.feedforward        writes examples/figures/feedforward.png, and .json and .md in examples/results

784 – features – (4 · features) – features – 10 with GELU, on Fashion-MNIST. The middle is the feed-forward block of a
transformer, with or without a dropout layer after its activation. Networks of one seed start from the same weights and see the
same batches.

Time is the number of steps times the median processor time of a step, on one thread, with interleaved calls: other processes
do not count. With the same draws, training with TailMLP and with TailDropout differ only by rounding, which the first steps
check. So only TailMLP is trained; TailDropout has the same curve over its own time.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taildropout import TailMLP

from ..common.data import Data, fashion_mnist
from ..common.intervals import Interval, interval
from ..common.study import BLACK, BLUE, GREEN, ORANGE, Study, median_times, progress

SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {
        "seeds": [0, 1], "p": [0.5], "samples": 256, "validation": 256, "test_samples": 256, "features": 16, "batch": 64,
        "steps": 6, "every": 2, "compared": 2, "calls": 2, "sizes": [[16, 16]],
    },
    "default": {
        "seed": 0, "seeds": [0, 1, 2, 3, 4], "p": [0.5, 0.1, 0.001], "samples": 10_000, "validation": 2500,
        "test_samples": 10_000, "features": 512, "batch": 512, "rate": 5e-4, "steps": 240, "every": 10, "compared": 5,
        "calls": 9, "sizes": [[32, 64], [128, 128], [128, 512], [512, 1024]],
    },
    "full": {"seeds": list(range(10)), "samples": 50_000, "steps": 1000, "calls": 30},
}  # fmt: skip
NONE, DROPOUT, TAIL, MLP = "no dropout", "nn.Dropout", "TailDropout", "TailMLP"
LOOKS = {NONE: (BLACK, "-", "D"), DROPOUT: (ORANGE, "-.", "^"), TAIL: (BLUE, "--", "o"), MLP: (GREEN, "-", "s")}
APART = 1e-3  # the largest relative difference that rounding may make between the first losses of TailMLP and TailDropout
Kinds = list[tuple[str, float]]


def network(kind: str, p: float, features: int) -> nn.Sequential:
    """Return a network of this kind; with the same torch seed, all kinds have the same weights."""
    first, block = nn.Linear(784, features), TailMLP(features, 4 * features, features, activation=nn.GELU(), p=p)
    model = nn.Sequential(first, nn.GELU(), block, nn.GELU(), nn.Linear(features, 10))
    if kind != MLP:
        layer = {NONE: nn.Identity(), DROPOUT: nn.Dropout(p), TAIL: block[2]}[kind]
        model[2] = nn.Sequential(block[0], block[1], layer, block[3])
    return model


def stepper(model: nn.Module, rate: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function that takes a step of Adam and returns the loss before that step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)

    def step(inputs: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def batches(samples: int, batch: int, steps: int, seed: int) -> Sequence[Tensor]:
    """Return, for each step, the indices of its samples; every epoch has a new order."""
    generator = torch.Generator().manual_seed(seed)
    epochs = -(-steps * batch // samples)
    return torch.cat([torch.randperm(samples, generator=generator) for _ in range(epochs)]).split(batch)[:steps]


@torch.no_grad()
def evaluate(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return loss and accuracy in [0, 1], all features kept."""
    output = model.eval()(inputs)
    model.train()
    return cross_entropy(output, labels).item(), (output.argmax(1) == labels).float().mean().item()


def train(kind: str, p: float, seed: int, data: Data, validation: tuple[Tensor, Tensor], settings: Any) -> dict[str, Any]:
    """Train; return the validation loss every few steps, and the test accuracy with the weights of the least loss."""
    torch.manual_seed(seed)
    model = network(kind, p, settings.features)
    step, losses, best = stepper(model, settings.rate), [evaluate(model, *validation)[0]], model.state_dict()
    order = batches(len(data.inputs), settings.batch, settings.steps, seed)
    for at, chosen in enumerate(progress(order, settings.steps, f"{kind}, p = {p:g}, seed {seed}"), 1):
        step(data.inputs[chosen], data.labels[chosen])
        if at % settings.every == 0:
            losses.append(evaluate(model, *validation)[0])
            if losses[-1] == min(losses):
                best = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best)
    return {"losses": losses, "accuracy": evaluate(model, data.test_inputs, data.test_labels)[1]}


def apart(p: float, data: Data, settings: Any) -> float:
    """Return the largest relative difference between the losses of TailMLP and TailDropout in the first steps.

    Raises:
        RuntimeError: if the difference is larger than APART, so that it is not rounding.
    """
    losses = []
    for kind in (MLP, TAIL):
        torch.manual_seed(settings.seed)
        step = stepper(network(kind, p, settings.features), settings.rate)
        order = batches(len(data.inputs), settings.batch, settings.compared, settings.seed)
        losses.append(torch.stack([step(data.inputs[chosen], data.labels[chosen]) for chosen in order]))
    found = ((losses[0] - losses[1]).abs() / losses[1]).max().item()
    if found > APART:
        raise RuntimeError(f"at p = {p:g} the losses of TailMLP differ from TailDropout's by a share {found:.2g}, not rounding")
    return found


def step_times(kinds: Kinds, seed: int, data: Data, settings: Any, batch: int, features: int) -> list[float]:
    """Return the median processor seconds of a step for each kind and p; short steps are called more often."""
    inputs, labels = data.inputs[:batch], data.labels[:batch]
    calls: dict[str, Callable[[], Any]] = {}
    for kind, p in kinds:
        torch.manual_seed(seed)
        calls[f"{kind} {p}"] = partial(stepper(network(kind, p, features), settings.rate), inputs, labels)
    rounds = settings.calls * min(max(2**18 // (batch * features), 1), 100)
    return list(median_times(calls, rounds).values())


def steps_to(losses: Tensor, loss: float, every: int) -> float:
    """Return the step at which `losses`, evaluated every `every` steps, first reach `loss`, interpolated; nan if never."""
    low = (losses <= loss).nonzero()
    at = int(low[0]) if len(low) else 0
    if at == 0:
        return 0.0 if len(low) else float("nan")
    before, after = losses[at - 1].item(), losses[at].item()
    return every * (at - 1 + (before - loss) / (before - after))


def judge(curves: Tensor, accuracies: Tensor, times: Tensor, kinds: Kinds, every: int) -> dict[str, Any]:
    """Return the figures that `table` and `draw` show; kind 0 is NONE.

    `curves` are losses (kinds, seeds, evaluations), `accuracies` (kinds, seeds), `times` seconds of a step (kinds, seeds). Two
    losses have to be reached: the least loss of the worst run, and the least loss of the same seed without dropout. Times are
    ratios to the time without dropout, paired by seed.
    """
    least = curves.min(-1).values
    easy = least.max().item()

    def time_to(at: int, losses: Sequence[float]) -> list[float]:
        return [times[at, seed].item() * steps_to(curves[at, seed], loss, every) for seed, loss in enumerate(losses)]

    rows = []
    for at, (kind, p) in enumerate(kinds):
        row: dict[str, Any] = {"layer": kind, "p": p, "a step": interval((times[at] / times[0]).tolist())}
        for name, losses in [("to the easy loss", [easy] * len(least[0])), ("to the least of no dropout", least[0].tolist())]:
            ratios = [time / other for time, other in zip(time_to(at, losses), time_to(0, losses), strict=True)]
            reached = sum(ratio == ratio for ratio in ratios)
            row[name] = interval(ratios) if reached == len(ratios) else f"{reached} of {len(ratios)} runs reach it"
        row["least loss"], row["last loss"] = interval(least[at].tolist()), interval(curves[at, :, -1].tolist())
        row["least loss beyond no dropout"] = interval((least[at] - least[0]).tolist())
        row["test accuracy, %"] = interval((100 * accuracies[at]).tolist())
        row["points of accuracy beyond no dropout"] = interval((100 * (accuracies[at] - accuracies[0])).tolist())
        rows.append(row | {"seconds of a step, each seed": times[at], "validation loss, each seed": curves[at]})
    return {"easy loss": easy, "rows": rows}


def beside_one(ratio: Interval) -> int:
    """Return -1 if the interval of a ratio lies below 1, 1 if it lies above 1, else 0."""
    return Interval(*(each - 1 for each in ratio)).sign


def table(found: dict[str, Any], sizes: dict[str, dict[str, Interval]], settings: Any) -> str:
    """Return a Markdown table with a row per kind and p, then the sentences."""
    lines = [
        f"| p | layer | time of a step | time to a validation loss of {found['easy loss']:.3f} | time to no dropout's least "
        "| least validation loss | last | test accuracy, % |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found["rows"]:
        first = row["layer"] == NONE
        to_least = row["to the least of no dropout"]
        times = ["1"] * 3 if first else [
            row["a step"].plain(3), row["to the easy loss"].plain(), to_least if isinstance(to_least, str) else to_least.plain()
        ]  # fmt: skip
        losses = [row["least loss"].plain(4), row["last loss"].plain(4), row["test accuracy, %"].plain()]
        lines.append(f"| {' | '.join(['–' if first else format(row['p'], 'g'), row['layer'], *times, *losses])} |")
    return "\n".join([*lines, "", *sentences(found, sizes, settings)])


def sentences(found: dict[str, Any], sizes: dict[str, dict[str, Interval]], settings: Any) -> list[str]:
    """Return the findings, one paragraph per line."""
    rows = {(row["layer"], row["p"]): row for row in found["rows"]}
    lines = [
        f"Mean ± half a 95 % interval over {len(settings.seeds)} seeds, at batch {settings.batch} and {4 * settings.features} "
        "hidden features. Times are over those without dropout, of the processor on one thread. TailMLP and TailDropout are "
        "one training."
    ]
    words = {-1: "less time than without dropout", 0: "as long as without, within the interval", 1: "longer than without"}
    for p in settings.p:
        mlp, tail, dropout = (rows[kind, p] for kind in (MLP, TAIL, DROPOUT))
        loss = mlp["least loss beyond no dropout"]
        beside = {-1: "below", 0: "within the interval of", 1: "above"}[loss.sign]
        lines.append(
            f"At p = {p:g} a step with TailMLP takes {words[beside_one(mlp['a step'])]} ({mlp['a step'].plain(3)}; TailDropout "
            f"{tail['a step'].plain(3)}, nn.Dropout {dropout['a step'].plain(3)}), training to a validation loss of "
            f"{found['easy loss']:.3f} takes {words[beside_one(mlp['to the easy loss'])]} ({mlp['to the easy loss'].plain()}), "
            f"and its least loss is {beside} that without dropout ({loss.mean:+.4f} ± {loss.high - loss.mean:.4f})."
        )
    listed = {
        pays: ", ".join(f"{size} ({of[MLP].plain()})" for size, of in sizes.items() if (beside_one(of[MLP]) < 0) == pays)
        for pays in (True, False)
    }
    lines.append(
        f"By batch × features, at p = {settings.p[0]:g}: a step with TailMLP pays at {listed[True] or 'no size tried'}, "
        f"and does not at {listed[False] or 'no size tried'}."
    )
    return lines


def draw(found: dict[str, Any], sizes: dict[str, dict[str, Interval]], settings: Any) -> Figure:
    """Draw the loss over time for each p, and the relative time of a step over the size."""
    figure, panels = plt.subplots(2, 2, figsize=(10.5, 7.4), layout="constrained")
    *over_time, over_size = panels.flat
    curves = "validation loss, each seed"
    least = min(row[curves].min().item() for row in found["rows"])
    for axes, p in zip(over_time, settings.p, strict=False):
        for row in found["rows"]:
            if row["layer"] != NONE and row["p"] != p:
                continue
            colour, line, _ = LOOKS[row["layer"]]
            mean, error = row[curves].mean(0), row[curves].std(0) / len(row[curves]) ** 0.5
            seconds = settings.every * torch.arange(len(mean)) * row["seconds of a step, each seed"].mean()
            axes.plot(seconds, mean, line, color=colour, label=row["layer"])
            axes.fill_between(seconds, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
        axes.set(title=f"p = {p:g}", xlabel="seconds of steps, one thread", ylabel="validation loss, nats per image")
        axes.set(yscale="log", xlim=(0, None), ylim=(0.98 * least, 2 * least))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_formatter("{x:.2f}")
        axes.minorticks_off()
    for axes in over_time[len(settings.p) :]:
        axes.set_axis_off()
    for kind in (DROPOUT, TAIL, MLP):
        colour, line, marker = LOOKS[kind]
        ratios = [each[kind] for each in sizes.values()]
        halves = [ratio.high - ratio.mean for ratio in ratios]
        looks = {"fmt": marker + line, "color": colour, "markersize": 5}
        over_size.errorbar(list(sizes), [ratio.mean for ratio in ratios], halves, label=kind, **looks)
    over_size.axhline(1, color=BLACK, linewidth=1)
    over_size.set(title=f"p = {settings.p[0]:g}: a step over one without dropout", xlabel="batch × features", ylim=(0, None))
    for axes in panels.flat:
        axes.grid(alpha=0.3)
    over_time[0].legend(title="mean and standard error over seeds")
    over_size.legend()
    return figure


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train and time all networks, compare them, draw the figure."""
    study = Study(__file__, (__doc__ or "").partition("\n")[0], SETTINGS, argv)
    settings = study.settings
    data, validation = fashion_mnist().standardised(settings.samples, settings.test_samples, settings.validation)
    kinds = [(NONE, 0.0), *((kind, p) for p in settings.p for kind in (DROPOUT, TAIL, MLP))]

    def timed(kinds: Kinds, batch: int, features: int) -> Tensor:
        parts = {seed: partial(step_times, kinds, seed, data, settings, batch, features) for seed in settings.seeds}
        return torch.tensor([study.stored(f"times-{batch}-{features}-{seed}", each) for seed, each in parts.items()]).T

    differences = {p: study.stored(f"apart-{p:g}", partial(apart, p, data, settings)) for p in settings.p}
    runs = {
        (kind, p): [
            study.stored(f"{kind}-{p:g}-{seed}", partial(train, kind, p, seed, data, validation, settings))
            for seed in settings.seeds
        ]
        for kind, p in kinds
        if kind != TAIL
    }
    runs |= {(TAIL, p): runs[MLP, p] for p in settings.p}
    times = timed(kinds, settings.batch, settings.features)
    by_size = {(batch, features): timed(kinds[:4], batch, features) for batch, features in settings.sizes}
    by_size[settings.batch, settings.features] = times[:4]
    sizes = {
        f"{batch} × {features}": {kinds[at][0]: interval((its[at] / its[0]).tolist()) for at in range(4)}
        for (batch, features), its in sorted(by_size.items())
    }
    curves, accuracies = (
        torch.tensor([[run[name] for run in runs[kind]] for kind in kinds]) for name in ("losses", "accuracy")
    )
    found = judge(curves, accuracies, times, kinds, settings.every)
    text = table(found, sizes, settings)
    print(text)
    results = found | {"a step by batch × features": sizes, "largest relative difference of the first losses": differences}
    return study.save(draw(found, sizes, settings), results, table=text)


if __name__ == "__main__":
    main()
