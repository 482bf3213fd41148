"""Compare all dropouts on a small network: an MLP on Fashion-MNIST, paired by seed.

python -m examples.experiments.fashion_mlp        writes figures/ and results/ fashion_mlp under examples/

784 – 256 – 256 – 10, SGD with a learning rate of .1 on batches of 256, ten epochs, pixels in [0, 1], a dropout layer after each
hidden layer. All networks of a seed start from the same weights and see the same batches, so differences are paired. Only the
weight decay is tuned, on held-out training images and with other seeds.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from taildropout import TailDropout, at_k
from taildropout.baselines import DropConnectLinear, InvertedDropout, NestedDropout, StochasticReLU

from ..common.data import Data, fashion_mnist
from ..common.study import Study, median_times, progress
from .fashion_report import BOTH, DECAY, DROPOUT, NONE, Run, analyse, draw, say, table

SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {
        "seeds": [0, 1], "decay_seeds": [100], "samples": 512, "validation": 256, "test_samples": 256, "epochs": 2,
        "longer": [1, 2, 3], "decays": [1e-4, 1e-3], "rounds": 2, "blocks": 2,
    },
    "default": {
        "seed": 0, "seeds": list(range(10)), "decay_seeds": [100, 101, 102], "samples": 60_000, "validation": 10_000,
        "test_samples": 10_000, "batch": 256, "rate": 0.1, "epochs": 10, "longer": [5, 10, 20],
        "decays": [1e-4, 2e-4, 5e-4, 1e-3], "width": 64, "rounds": 40, "blocks": 5,
    },
}  # fmt: skip
HIDDEN = 256


class Configuration(NamedTuple):
    """The layers of a network; the defaults are those of the network without dropout."""

    drop: tuple[Callable[[], nn.Module], Callable[[], nn.Module]] = (nn.Identity, nn.Identity)
    activation: Callable[[], nn.Module] = nn.ReLU
    linear: Callable[[int, int], nn.Module] = nn.Linear  # the second and third linear layer
    decay: bool = False  # whether to use weight decay


def twice(layer: Callable[..., nn.Module], *arguments: Any) -> Configuration:
    """Return a configuration with layer(*arguments) after both hidden layers."""
    return Configuration((partial(layer, *arguments), partial(layer, *arguments)))


def dropout(first: float, second: float, decay: bool = False) -> Configuration:
    """Return a configuration with nn.Dropout, with a rate for each of the two hidden layers."""
    return Configuration((partial(nn.Dropout, first), partial(nn.Dropout, second)), decay=decay)


LAYERS = {
    "DropConnect .5": Configuration(linear=partial(DropConnectLinear, p=0.5)),
    "StochasticReLU (keeps .5)": Configuration(activation=partial(StochasticReLU, 0.5)),
    "InvertedDropout .5": twice(InvertedDropout, 0.5),
    "NestedDropout (uniform)": twice(NestedDropout, "uniform"),
    "TailDropout .5": twice(TailDropout, 0.5),
    "TailDropout .1": twice(TailDropout, 0.1),
    "TailDropout .001": twice(TailDropout, 0.001),
}
CONFIGURATIONS = {
    NONE: Configuration(),
    DROPOUT: dropout(0.5, 0.5),
    **{f"nn.Dropout ({p}, {q})".replace("0.", "."): dropout(p, q) for p, q in [(0.1, 0.5), (0.5, 0.1), (0.1, 0.9), (0.9, 0.1)]},
    DECAY: Configuration(decay=True),
    BOTH: dropout(0.5, 0.5, decay=True),
    **LAYERS,
}


def network(configuration: Configuration) -> nn.Sequential:
    """Return an MLP of 784 – 256 – 256 – 10 features, with a dropout layer as modules 2 and 5."""
    make = configuration
    return nn.Sequential(
        nn.Linear(784, HIDDEN), make.activation(), make.drop[0](),
        make.linear(HIDDEN, HIDDEN), make.activation(), make.drop[1](),
        make.linear(HIDDEN, 10),
    )  # fmt: skip


@torch.no_grad()
def measure(model: nn.Sequential, data: Data, width: int) -> dict[str, float]:
    """Return accuracies in % and losses in evaluation and, as "narrow", the test accuracy with `width` features per layer."""
    # Most dropouts have no width, so TailDropout replaces them.
    cut = nn.Sequential(*(TailDropout() if place in (2, 5) else layer for place, layer in enumerate(model))).eval()
    found = {}
    for name, inputs, labels in [("training", data.inputs, data.labels), ("test", data.test_inputs, data.test_labels)]:
        output = cut(inputs)
        found[name] = 100 * (output.argmax(1) == labels).double().mean().item()
        found[f"{name}_loss"] = cross_entropy(output, labels).item()
    with at_k(cut, width):
        found["narrow"] = 100 * (cut(data.test_inputs).argmax(1) == data.test_labels).double().mean().item()
    return found


def train(configuration: Configuration, seed: int, data: Data, decay: float, epochs: Sequence[int], settings: Any) -> Run:
    """Train, and return the result of `measure` after each of these epochs. The seed sets the first weights and the batches."""
    torch.manual_seed(seed)
    model = network(configuration)
    optimizer = torch.optim.SGD(model.parameters(), settings.rate, weight_decay=decay if configuration.decay else 0.0)
    batches = torch.Generator().manual_seed(seed)  # a separate generator, because layers draw different amounts
    found = {}
    for epoch in range(1, max(epochs) + 1):
        order = torch.randperm(len(data.inputs), generator=batches)
        for chosen in order.split(settings.batch):
            optimizer.zero_grad()
            cross_entropy(model(data.inputs[chosen]), data.labels[chosen]).backward()
            optimizer.step()
        if epoch in epochs:
            found[epoch] = measure(model.eval(), data, settings.width)
            model.train()
    return found


def choose_decay(study: Study, data: Data) -> dict[float, list[float]]:
    """Return, for each weight decay and seed, the accuracy in % on the last training images after training on the others."""
    settings = study.settings
    rest = len(data.inputs) - settings.validation
    held_out = Data(data.inputs[:rest], data.labels[:rest], data.inputs[rest:], data.labels[rest:])

    def compute(decay: float, seed: int) -> float:
        found = train(CONFIGURATIONS[DECAY], seed, held_out, decay, [settings.epochs], settings)
        return found[settings.epochs]["test"]

    return {
        decay: [study.stored(f"decay-{decay:g}-{seed}", partial(compute, decay, seed)) for seed in settings.decay_seeds]
        for decay in settings.decays
    }


def epoch_times(data: Data, decay: float, settings: Any) -> dict[str, list[float]]:
    """Return, by configuration, the processor seconds of an epoch's steps: one median per block of interleaved rounds."""
    inputs, labels = data.inputs[: settings.batch], data.labels[: settings.batch]
    steps = -(-len(data.inputs) // settings.batch)

    def step(configuration: Configuration) -> Callable[[], None]:
        model = network(configuration)
        optimizer = torch.optim.SGD(model.parameters(), settings.rate, weight_decay=decay if configuration.decay else 0.0)

        def call() -> None:
            optimizer.zero_grad()
            cross_entropy(model(inputs), labels).backward()
            optimizer.step()

        return call

    calls = {name: step(configuration) for name, configuration in CONFIGURATIONS.items()}
    blocks = [median_times(calls, settings.rounds) for _ in range(settings.blocks)]
    return {name: [steps * block[name] for block in blocks] for name in CONFIGURATIONS}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Choose the weight decay, train each configuration with each seed, time, print the answers, draw the figure."""
    study = Study(__file__, (__doc__ or "").partition("\n")[0], SETTINGS, argv)
    settings = study.settings
    data = fashion_mnist().head(settings.samples, settings.test_samples)
    validated = choose_decay(study, data)
    decay = max(validated, key=lambda each: sum(validated[each]))

    def compute(name: str, seed: int) -> Run:
        epochs = sorted({settings.epochs, *(settings.longer if name in (NONE, DROPOUT) else [])})
        return train(CONFIGURATIONS[name], seed, data, decay, epochs, settings)

    runs = [(name, seed) for seed in settings.seeds for name in CONFIGURATIONS]
    done = {
        (name, seed): study.stored(f"{name}-{seed}", partial(compute, name, seed))
        for name, seed in progress(runs, len(runs), "networks trained")
    }
    found = {name: [done[name, seed] for seed in settings.seeds] for name in CONFIGURATIONS}
    times = study.stored("times", lambda: epoch_times(data, decay, settings))
    answers = analyse(found, list(LAYERS), settings)
    sentences = say(answers, decay, settings)
    print("\n".join(sentences))
    results = {"weight_decay": {"chosen": decay, "validation_accuracy": validated}, **answers, "said": sentences}
    results["an_interval_is"] = ["mean", "low", "high"]
    results |= {"seconds_per_epoch": times, "each_seed": found}
    return study.save(
        draw(found, answers, settings), results, table(answers, times, sentences, f"{settings.width} of {HIDDEN}")
    )


if __name__ == "__main__":
    main()
