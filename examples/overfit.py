"""Train far into overfitting: a network that has memorised its training data still generalises at a smaller width.

python -m examples.overfit        writes examples/figures/overfit.png and examples/results/overfit.json

An MLP of 1024 hidden features on a thousand images of Fashion-MNIST, a fifth of them with random labels. It is compared with
early stopping: no dropout, and the step with the least validation loss.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taildropout import TailDropout, scree

from .common.data import fashion_mnist
from .common.study import BLACK, BLUE, GREEN, GREY, ORANGE, Study, progress, width_axis

SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {"samples": 128, "validation": 128, "test_samples": 128, "hidden": 32, "steps": 40},
    "default": {
        "seed": 0, "samples": 1000, "validation": 2000, "test_samples": 10_000, "wrong": 0.2, "hidden": 1024, "p": 0.5,
        "steps": 1500, "batch": 100, "rate": 1e-3,
    },
    "full": {"samples": 5000, "validation": 10_000, "hidden": 4096, "steps": 20_000},
}  # fmt: skip
TAIL, NONE = "TailDropout", "no dropout"
Batch = tuple[Tensor, Tensor]


def with_wrong_labels(labels: Tensor, share: float) -> Tensor:
    """Return the labels, each replaced with probability `share` by a random label (which can be the right one)."""
    return torch.where(torch.rand(labels.shape) < share, torch.randint(10, labels.shape), labels)


def data(settings: Any) -> dict[str, Batch]:
    """Return training and validation data with some wrong labels, and test data without."""
    data, (inputs, labels) = fashion_mnist().standardised(settings.samples, settings.test_samples, settings.validation)
    return {
        "training": (data.inputs, with_wrong_labels(data.labels, settings.wrong)),
        "validation": (inputs, with_wrong_labels(labels, settings.wrong)),
        "test": (data.test_inputs, data.test_labels),
    }


@torch.no_grad()
def losses(model: nn.Module, sets: dict[str, Batch]) -> dict[str, float]:
    """Return the loss on each data set in nats and, as "accuracy", that on test data, all features kept."""
    model.eval()
    outputs = {name: model(inputs) for name, (inputs, _) in sets.items()}
    found = {name: cross_entropy(outputs[name], labels).item() for name, (_, labels) in sets.items()}
    found["accuracy"] = (outputs["test"].argmax(1) == sets["test"][1]).float().mean().item()
    model.train()
    return found


def train(layer: nn.Module, sets: dict[str, Batch], settings: Any, what: str) -> dict[str, Any]:
    """Train far beyond the least validation loss; return the final state_dict and the losses during training."""
    model = network(layer, settings)
    inputs, labels = sets["training"]
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.rate)
    history = []
    for step in progress(range(1, settings.steps + 1), settings.steps, what):
        chosen = torch.randperm(len(inputs))[: settings.batch]
        optimizer.zero_grad()
        cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
        optimizer.step()
        if step % (10 if step <= 200 else 50) == 0:
            history.append({"step": step, **losses(model, sets)})
    return {"state": model.state_dict(), "history": history}


def network(layer: nn.Module, settings: Any) -> nn.Sequential:
    """Return an MLP of 784 – hidden – 10 features, with the layer on the hidden ones."""
    return nn.Sequential(nn.Linear(784, settings.hidden), nn.ReLU(), layer, nn.Linear(settings.hidden, 10))


def draw(curves: dict[str, Tensor], history: list[dict[str, float]], results: dict[str, Any]) -> Figure:
    """Draw the losses at every width with TailDropout, and at every step without dropout."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.3), layout="constrained", sharey=True)
    looks = {"training": (GREY, "--"), "validation": (ORANGE, "-"), "test": (BLUE, "-")}
    k, early = results["chosen_k"], results["early_stopping"]
    for name, (colour, line) in looks.items():
        left.plot(curves[name], line, color=colour, label=name)
        right.plot([each["step"] for each in history], [each[name] for each in history], line, color=colour, label=name)
    left.plot(k, curves["validation"][k], "o", color=BLACK, label=f"k = {k}: least validation loss")
    left.plot(k, curves["test"][k], "o", color=BLACK, fillstyle="none", label="test loss there")
    right.plot(early["step"], early["validation"], "o", color=BLACK, label=f"step {early['step']}: least validation loss")
    right.plot(early["step"], early["test"], "o", color=BLACK, fillstyle="none", label="test loss there")
    width_axis(left, range(len(curves["test"])))
    left.set(title="TailDropout, at the end of training: every width", ylabel="cross-entropy, nats per image", ylim=(0, None))
    right.set(title="no dropout: every step", xlabel="training step", xscale="log")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.axhline(early["test"], color=GREEN, linewidth=1, linestyle=":", label="test loss of early stopping")
        axes.legend(fontsize=8)
    return figure


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train both networks, choose a width and a step on validation data, draw the figure."""
    study = Study(__file__, (__doc__ or "").partition("\n")[0], SETTINGS, argv)
    settings = study.settings
    sets = data(settings)
    tail = study.stored(TAIL, lambda: train(TailDropout(settings.p), sets, settings, TAIL))
    none = study.stored(NONE, lambda: train(nn.Identity(), sets, settings, NONE))
    model = network(TailDropout(), settings)
    model.load_state_dict(tail["state"])
    found = {name: scree(model, "2", [batch], nn.CrossEntropyLoss(reduction="none")) for name, batch in sets.items()}
    accuracy = scree(model, "2", [sets["test"]], lambda output, label: output.argmax(1) == label).loss
    k = found["validation"].choose(0)
    early = min(none["history"], key=lambda each: each["validation"])
    results = {
        "chosen_k": k,
        "chosen": {name: each.loss[k] for name, each in found.items()} | {"accuracy": accuracy[k]},
        "full_width": tail["history"][-1],
        "no_dropout_at_the_end": none["history"][-1],
        "early_stopping": early,
        "loss_at_some_widths": {
            str(width): {name: each.loss[width] for name, each in found.items()} | {"accuracy": accuracy[width]}
            for width in [0, *(2**i for i in range(settings.hidden.bit_length()))]
        },
        "least_test_loss_of_any_width": found["test"].loss.min(),
        "loss_of_no_dropout_at_every_step_seen": none["history"],
    }
    end, plain = tail["history"][-1], none["history"][-1]
    print(f"{TAIL} at the end: test loss {end['test']:.3f}, accuracy {end['accuracy']:.3f} at full width;")
    print(f"{found['test'].loss[k]:.3f} and {accuracy[k]:.3f} at k = {k}, chosen on validation data. Without dropout:")
    print(f"{plain['test']:.3f} and {plain['accuracy']:.3f} at the end,")
    print(f"{early['test']:.3f} and {early['accuracy']:.3f} stopped early.")
    return study.save(draw({name: each.loss for name, each in found.items()}, none["history"], results), results)


if __name__ == "__main__":
    main()
