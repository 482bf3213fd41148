"""Find how many of 100 hidden units a regression needs: the scree plot, the chosen width, and the pruned network.

python -m examples.width        writes examples/figures/width.png and examples/results/width.json

The target is a network of 8 hidden units with decreasing importance, plus noise. Keeping the first k features is compared with
truncated singular value decompositions of the weights, of this network and of one trained without dropout.
"""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from taildropout import Scree, TailDropout, prune, scree

from .common.study import BLACK, BLUE, GREEN, GREY, ORANGE, Study, median_times, progress

SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {"steps": 100, "calls": 20},
    "default": {
        "seed": 0, "samples": 1000, "inputs": 50, "hidden": 100, "outputs": 10, "true_units": 8, "noise": 0.1,
        "steps": 4000, "rate": 1e-2, "p": 0.5, "calls": 500,
    },
    "full": {"samples": 10_000, "hidden": 1000, "true_units": 32, "steps": 10_000},
}  # fmt: skip
Batch = tuple[Tensor, Tensor]


def regression(settings: Any) -> tuple[Batch, Batch, Batch]:
    """Return (inputs, targets) for training, validation and testing; the targets have variance 1 + noise²."""
    inner = torch.randn(settings.inputs, settings.true_units) / settings.inputs**0.5
    outer = torch.randn(settings.true_units, settings.outputs) * 0.8 ** torch.arange(settings.true_units)[:, None]
    x = torch.randn(3 * settings.samples, settings.inputs)
    y = torch.relu(x @ inner) @ outer
    y = (y - y.mean(0)) / y.std() + settings.noise * torch.randn_like(y)
    one, two, three = zip(x.split(settings.samples), y.split(settings.samples), strict=True)
    return one, two, three


def train(layer: nn.Module, data: Batch, settings: Any, what: str) -> dict[str, Tensor]:
    """Train a network with this layer after its hidden units on all samples at every step; return its state_dict."""
    model = network(layer, settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, total_steps=settings.steps)
    for _ in progress(range(settings.steps), settings.steps, what):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(data[0]), data[1]).backward()
        optimizer.step()
        schedule.step()
    return model.state_dict()


def network(layer: nn.Module, settings: Any) -> nn.Sequential:
    """Return a network of Linear, ReLU, layer, Linear."""
    return nn.Sequential(
        nn.Linear(settings.inputs, settings.hidden), nn.ReLU(), layer, nn.Linear(settings.hidden, settings.outputs)
    )


@torch.no_grad()
def svd_losses(model: nn.Sequential, which: int, data: Batch) -> list[float]:
    """Return the losses with the weight of the Linear model[which] truncated to rank 0, 1, … full."""
    cut = copy.deepcopy(model)
    left, singular, right = torch.linalg.svd(model[which].weight, full_matrices=False)
    losses = []
    for rank in range(len(singular) + 1):
        cut[which].weight.copy_((left[:, :rank] * singular[:rank]) @ right[:rank])
        losses.append(nn.functional.mse_loss(cut(data[0]), data[1]).item())
    return losses


def measure_pruned(model: nn.Sequential, k: int, test: Batch, calls: int) -> dict[str, Any]:
    """Return loss, number of parameters and time of a call, before and after pruning to k features."""
    smaller = prune(model, "2", k, test[0][:8], remove=True).eval()
    with torch.no_grad():
        loss = {
            name: nn.functional.mse_loss(each(test[0]), test[1]).item()
            for name, each in [("whole", model), ("pruned", smaller)]
        }
        times = median_times({"whole": lambda: model(test[0]), "pruned": lambda: smaller(test[0])}, calls)
    sizes = {name: sum(map(torch.numel, each.parameters())) for name, each in [("whole", model), ("pruned", smaller)]}
    return {
        "k": k,
        "test_loss": loss,
        "parameters": sizes,
        "microseconds_per_call": {name: 1e6 * time for name, time in times.items()},
        "speedup": times["whole"] / times["pruned"],
        "samples_per_call": len(test[0]),
    }


def draw(curves: dict[str, list[float]], validation: Scree, pruned: dict[str, Any], floor: float) -> Figure:
    """Draw the scree plot on validation data, and the test loss of each way to shrink the network."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    validation.plot(left)
    k = pruned["k"]
    for axes in (left, right):
        axes.set(yscale="log", ylabel="mean squared error (variance of the target: 1)")
        axes.axhline(floor, color=GREY, linewidth=0.8, linestyle=":", label="noise of the target")
    left.plot(k, validation.loss[list(validation.widths).index(k)], "o", color=ORANGE, markersize=8, label=f"chosen: k = {k}")
    left.set(title="scree on validation data", xlabel="features kept, k")
    left.legend()
    looks = [(BLUE, "-"), (GREEN, "-"), (BLUE, "--"), (BLUE, ":"), (GREEN, "--"), (GREEN, ":")]
    for (name, curve), (colour, line) in zip(curves.items(), looks, strict=True):
        right.plot(range(len(curve)), curve, line, color=colour, label=name)
    right.plot(k, pruned["test_loss"]["pruned"], "D", color=BLACK, markersize=6, label="the pruned network", zorder=3)
    right.set(title="test loss, and other ways to cut", xlabel="features kept, or rank of the weight")
    right.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    for axes in (left, right):
        axes.set_yticks([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1], ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"])
        axes.minorticks_off()
    return figure


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, choose a width, prune, draw the figure."""
    study = Study(__file__, (__doc__ or "").partition("\n")[0], SETTINGS, argv)
    settings = study.settings
    training, validation, test = regression(settings)
    models = {}
    for name, layer in [("TailDropout", TailDropout(settings.p)), ("no dropout", nn.Identity())]:
        models[name] = network(TailDropout(settings.p), settings)
        models[name].load_state_dict(study.stored(name, partial(train, layer, training, settings, name)))
        models[name].eval()
    tail, plain = models.values()
    loss = nn.MSELoss(reduction="none")
    on_validation = scree(tail, "2", [validation], loss)
    curves = {
        "TailDropout, first k": scree(tail, "2", [test], loss).loss.tolist(),
        "no dropout, first k": scree(plain, "2", [test], loss).loss.tolist(),
        "TailDropout, SVD of first weight": svd_losses(tail, 0, test),
        "TailDropout, SVD of second weight": svd_losses(tail, 3, test),
        "no dropout, SVD of first weight": svd_losses(plain, 0, test),
        "no dropout, SVD of second weight": svd_losses(plain, 3, test),
    }
    k = on_validation.choose()
    pruned = measure_pruned(tail, k, test, settings.calls)
    sizes, losses = pruned["parameters"], pruned["test_loss"]
    print(f"chosen: k = {k} of {settings.hidden} (elbow: {on_validation.choose(method='elbow')})")
    print(f"pruned: {sizes['pruned']} of {sizes['whole']} parameters, {pruned['speedup']:.1f} times as fast; test loss")
    print(f"{losses['pruned']:.4f}, whole {losses['whole']:.4f}, without dropout {curves['no dropout, first k'][-1]:.4f}")
    results = {
        "chosen": {method: on_validation.choose(method=method) for method in ("tolerance", "one_standard_error", "elbow")},
        "pruned": pruned,
        "validation_loss_at_every_width": on_validation.loss,
        "validation_stderr_at_every_width": on_validation.stderr,
        "test_loss_at_every_width_or_rank": curves,
    }
    return study.save(draw(curves, on_validation, pruned, settings.noise**2), results)


if __name__ == "__main__":
    main()
