"""Compare all dropouts on a small transformer that predicts the next character of Python's standard library.

python -m examples.experiments.language_model        writes figures/ and results/ language_model under examples/

Nothing is downloaded: the text is the standard library of the Python that runs this script, with different modules for training
and validation. nn.Dropout and LearnedDropout are in their usual places, on the outputs of attention and of the feed-forward
network (FFN) before each is added to the residual stream. TailDropout, with a K per character, is on the hidden features of the
FFN; for comparison, one network has nn.Dropout there. All networks of a seed start from the same weights and see the same text.
For networks with TailDropout, the script measures the loss at every width of the FFNs, chooses a width, and prunes.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from taildropout import Scree, TailMLP
from taildropout.baselines import LearnedDropout

from ..common.study import Study, one_cycle, progress, rounded
from . import language_text
from .language_measures import at_widths, costs, cut, judge_cut, loss_at, parameters, widths_of
from .language_report import CUT, IN_FFN, NONE, TAILS, analyse, draw, say, table
from .language_text import CHARACTERS, Batch, encode, pieces, source, windows

SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {
        "seeds": [0, 1], "training": ["bisect"], "validation": ["queue"], "watched": 64, "context": 16, "size": 16, "heads": 2,
        "batch": 4, "steps": 6, "every": 3, "calls": 2,
    },
    "default": {
        "seed": 0, "seeds": [0, 1, 2, 3], "training": ["csv", "heapq", "shlex"], "validation": ["fractions", "queue"],
        "watched": 192, "context": 64, "size": 64, "heads": 4, "blocks": 2, "batch": 8, "steps": 1800, "every": 150,
        "rate": 3e-3, "penalty": 0.1, "tolerance": 0.01, "calls": 15,
    },
    "full": {
        "training": ["argparse", "calendar", "csv", "difflib", "heapq", "random", "shlex", "textwrap"], "context": 128,
        "size": 192, "blocks": 4, "batch": 16, "steps": 10_000, "every": 500,
    },
}  # fmt: skip


class Choice(NamedTuple):
    """A kind of dropout layer and its arguments; `penalised` adds LearnedDropout's penalty to the loss."""

    kind: str
    p: float = 0.0
    shift: float = 0.0
    penalised: bool = False


SHIFTS = {"0": 0.0, "π/2": math.pi / 2, "π": math.pi}
CONFIGURATIONS = {
    NONE: Choice("none"),
    **{f"nn.Dropout {p:.1f}".replace("0.", "."): Choice("dropout", p) for p in (0.2, 0.3, 0.4)},
    IN_FFN: Choice("dropout in the FFN", 0.5),
    **{name: Choice("tail", p) for name, p in TAILS.items()},
    **{f"LearnedDropout {name}": Choice("learned", shift=shift) for name, shift in SHIFTS.items()},
    **{f"LearnedDropout {name}, penalty": Choice("learned", shift=shift, penalised=True) for name, shift in SHIFTS.items()},
}


class Attention(nn.Module):
    """Causal self-attention with several heads."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.projection = nn.Linear(size, 3 * size), nn.Linear(size, size)

    def forward(self, input: Tensor) -> Tensor:
        """Return the output of attention; input and output are (batch, time, size)."""
        query, key, value = self.qkv(input).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.projection(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and FFN, each with a residual connection; `after` holds the dropouts on their outputs."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(2))
        self.attention = Attention(size, heads)
        self.ffn = TailMLP(size, 4 * size, size, activation=nn.GELU(), p=0)
        self.after = nn.ModuleList(nn.Identity() for _ in range(2))

    def forward(self, input: Tensor) -> Tensor:
        """Return the output of the block; input and output are (batch, time, size)."""
        for norm, layer, after in zip(self.norms, (self.attention, self.ffn), self.after, strict=True):
            input = input + after(layer(norm(input)))
        return input


class Decoder(nn.Module):
    """A causal transformer: characters (batch, time) to logits of the next character (batch, time, characters)."""

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.characters = nn.Embedding(CHARACTERS, settings.size)
        self.positions = nn.Embedding(settings.context, settings.size)
        self.blocks = nn.Sequential(*(Block(settings.size, settings.heads) for _ in range(settings.blocks)))
        self.norm, self.reader = nn.LayerNorm(settings.size), nn.Linear(settings.size, CHARACTERS)
        for embedding in (self.characters, self.positions):
            nn.init.normal_(embedding.weight, std=0.1)  # with torch's default of 1 training needs twice the steps

    def forward(self, text: Tensor) -> Tensor:
        """Return the logits; position t depends only on the characters up to t."""
        input = self.characters(text) + self.positions.weight[: text.shape[1]]
        return self.reader(self.norm(self.blocks(input)))


def decoder(choice: Choice, settings: Any) -> Decoder:
    """Return a network with this dropout; with the same torch seed, all other weights are the same."""
    model = Decoder(settings)
    for block in model.blocks:
        if choice.kind == "tail":
            block.ffn[2].p = choice.p
        else:
            block.ffn[2] = nn.Dropout(choice.p) if choice.kind == "dropout in the FFN" else nn.Identity()
        for i in range(2):
            if choice.kind == "dropout":
                block.after[i] = nn.Dropout(choice.p)
            elif choice.kind == "learned":
                block.after[i] = LearnedDropout(settings.size, settings.heads, choice.shift, causal=True)
    return model


def learned(model: nn.Module) -> list[LearnedDropout]:
    """Return the model's LearnedDropout layers."""
    return [module for module in model.modules() if isinstance(module, LearnedDropout)]


def each_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of each character in nats: (batch, time)."""
    return cross_entropy(output.transpose(1, 2), target, reduction="none")


def objective(model: Decoder, choice: Choice, batch: Batch, settings: Any) -> Tensor:
    """Return the training objective: the mean loss, plus the scaled mean penalty of LearnedDropout if it is penalised."""
    loss = each_loss(model(batch[0]), batch[1]).mean()
    if choice.penalised:
        loss = loss + settings.penalty * torch.stack([layer.penalty() for layer in learned(model)]).mean()
    return loss


@torch.no_grad()
def evaluate(model: Decoder, text: Batch) -> tuple[float, float]:
    """Return the mean loss in evaluation, in nats per character, and LearnedDropout's share of ones (1 without the layer)."""
    model.eval()
    losses, shares = [], []
    for inputs, targets in pieces(text):
        losses.append(each_loss(model(inputs), targets).flatten())
        shares += [layer.share_of_ones.item() for layer in learned(model)]
    model.train()
    return torch.cat(losses).mean().item(), fmean(shares or [1.0])


def train(name: str, seed: int, texts: dict[str, Tensor], settings: Any) -> dict[str, Any]:
    """Train on random windows with a one-cycle learning rate; return the state_dict and the losses during training.

    Losses during training are of the first windows of each text; "training" and "validation" are the losses of the whole texts
    at the end.
    """
    choice = CONFIGURATIONS[name]
    torch.manual_seed(seed)
    model = decoder(choice, settings)
    draw_windows = torch.Generator().manual_seed(seed)  # a separate generator, because layers draw different amounts
    every = {part: windows(text, settings.context) for part, text in texts.items()}
    watched = {part: (inputs[: settings.watched], targets[: settings.watched]) for part, (inputs, targets) in every.items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.rate)
    schedule = one_cycle(optimizer, settings.rate, settings.steps, rise=0.1)
    ahead, history, shares = torch.arange(settings.context), [], []
    for step in progress(range(1, settings.steps + 1), settings.steps, f"{name}, seed {seed}"):
        starts = torch.randint(len(texts["training"]) - settings.context, (settings.batch, 1), generator=draw_windows)
        inputs, targets = texts["training"][starts + ahead], texts["training"][starts + ahead + 1]
        optimizer.zero_grad()
        objective(model, choice, (inputs, targets), settings).backward()
        optimizer.step()
        schedule.step()
        shares += [layer.share_of_ones.item() for layer in learned(model)]
        if step % settings.every == 0:
            losses = {part: evaluate(model, text)[0] for part, text in watched.items()}
            history.append({"step": step, **losses, "kept": fmean(shares or [1 - choice.p])})
            shares = []
    loss, kept = evaluate(model, every["validation"])
    training = evaluate(model, every["training"])[0]
    return {
        "state": model.state_dict(), "history": history, "validation": loss, "training": training, "kept_in_evaluation": kept,
        "kept": history[-1]["kept"], "parameters": parameters(model),
    }  # fmt: skip


def trained(state: dict[str, Tensor], settings: Any) -> Decoder:
    """Return the network of a state_dict with a TailDropout in every FFN, so that its width can be set.

    The state must be of a network without LearnedDropout.
    """
    model = decoder(Choice("tail"), settings)
    model.load_state_dict(state)
    return model.eval()


def step_of(choice: Choice, batch: Batch, settings: Any) -> Callable[[], None]:
    """Return a function that takes a training step, always on the same batch."""
    model = decoder(choice, settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.rate)

    def call() -> None:
        objective(model, choice, batch, settings).backward()
        optimizer.step()
        optimizer.zero_grad()

    return call


def measure(runs: dict[str, list[dict[str, Any]]], texts: dict[str, Batch], settings: Any) -> dict[str, Any]:
    """Return losses at every width, the effect of pruning, and costs; `runs` are the results of `train`, by network and seed.

    All seeds of a network are pruned to one width. It is chosen on the first windows of the validation text.
    """
    text, widths = texts["validation"], widths_of(4 * settings.size)
    watched = text[0][: settings.watched], text[1][: settings.watched]
    models = {name: [trained(run["state"], settings) for run in runs[name]] for name in (NONE, *TAILS)}
    curves = {
        name: [
            at_widths(model, widths, lambda model: evaluate(model, watched)[0], pieces(watched), each_loss) for model in each
        ]
        for name, each in models.items()
    }
    cuts: dict[str, Any] = {}
    smaller: dict[str, list[Any]] = {}
    for name in TAILS:
        losses = torch.tensor([found["every FFN"] for found in curves[name]], dtype=torch.float64)
        k = max(1, Scree(tuple(widths), losses.mean(0), losses.std(0)).choose(settings.tolerance))
        smaller[name + CUT] = [cut(model, k, text[0][:4]) for model in models[name]]
        pairs = zip(models[name], smaller[name + CUT], strict=True)
        cuts[name] = {
            "k": k,
            "runs": [judge_cut(*pair, k, text[0][:64], lambda model: evaluate(model, text)[0]) for pair in pairs],
            "no_dropout_at_k": [loss_at(model, k, lambda model: evaluate(model, text)[0]) for model in models[NONE]],
        }
    batch = texts["training"][0][: settings.batch], texts["training"][1][: settings.batch]
    spent = []
    for i in range(len(settings.seeds)):
        steps = {name: step_of(choice, batch, settings) for name, choice in CONFIGURATIONS.items()}
        forwards = {name: decoder(choice, settings) for name, choice in CONFIGURATIONS.items()}
        forwards |= {name: each[i] for name, each in smaller.items()}
        spent.append(costs(steps, forwards, batch[0].numel(), text[0][:64], settings.calls))
    return {"widths": widths, "loss_at_every_width": curves, "cuts": cuts, "costs": spent}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train all networks for each seed, prune, measure, draw the figure."""
    study = Study(__file__, (__doc__ or "").partition("\n")[0], SETTINGS, argv, uses=[language_text.__file__])
    settings = study.settings
    sources = {part: source(getattr(settings, part)) for part in ("training", "validation")}
    texts = {part: encode(text) for part, text in sources.items()}
    runs: dict[str, list[Any]] = {name: [] for name in CONFIGURATIONS}
    for seed in settings.seeds:
        for name, done in runs.items():
            part = f"{name}-{seed}".replace("/", " over ")
            done.append(study.stored(part, partial(train, name, seed, texts, settings)))
    results: dict[str, Any] = {
        "corpus": {
            part: {"characters": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
            for part, text in sources.items()
        },
        "runs": {name: [{key: run[key] for key in run if key != "state"} for run in each] for name, each in runs.items()},
    } | measure(runs, {part: windows(text, settings.context) for part, text in texts.items()}, settings)
    results = rounded(results)  # so that the sentences follow from the stored figures
    results["answers"] = analyse(results)
    sentences = say(results, settings)
    print("\n".join(sentences))
    return study.save(draw(results), results, table(results, sentences))


if __name__ == "__main__":
    main()
