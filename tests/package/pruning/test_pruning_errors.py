"""What mixes features, or ties weights, is an error of prune that names it."""

import pytest
import torch
from package.pruning.pruned import (
    Wired,
    followed,
    x,
)
from torch import nn

from taildropout import PruningError, TailDropout, prune
from taildropout.pruning.handlers import _GroupNormHandler


def tied() -> nn.Module:
    modules = {"a": nn.Embedding(9, 8), "drop": TailDropout(), "out": nn.Linear(8, 9, bias=False)}
    modules["out"].weight = modules["a"].weight
    return Wired(lambda m, x: m.out(m.drop(m.a(x))), **modules)


ERRORS = {
    "layer norm": (lambda: followed(nn.LayerNorm(8), nn.Linear(8, 2)), (6, 5),
        "all that 'after.1' .Linear. reads.*'after.0' .LayerNorm. mixes features"),
    "softmax": (lambda: followed(nn.Softmax(-1), nn.Linear(8, 2)), (6, 5), "softmax mixes features"),
    "group cut through": (
        lambda: followed(nn.GroupNorm(4, 8), nn.Conv2d(8, 2, 3), channels=True), (2, 3, 6, 6), "'after.0' .GroupNorm. mixes",
    ),
    "residual": (
        lambda: followed(nn.Linear(8, 2), wiring=lambda m, x: m.after(m.drop(m.a(x).relu()) + m.a(x))), (6, 5),
        "a residual connection around the layer .* needs all features",
    ),
    "attention": (
        lambda: Wired(
            lambda m, x: m.mix(*[m.drop(m.a(x))] * 3)[0],
            a=nn.Linear(5, 8), drop=TailDropout(), mix=nn.MultiheadAttention(8, 2, batch_first=True),
        ), (2, 4, 5), "'mix' .MultiheadAttention. mixes features",
    ),
    "output": (
        lambda: followed(nn.ReLU()), (6, 5), r"shape \(6, 8\) became \(6, 3\).*the features are an output of the model",
    ),
    "constant at the border": (
        lambda: followed(nn.Sigmoid(), nn.Conv2d(8, 2, 3, padding=1), channels=True), (2, 3, 6, 6), "as a constant, 0.5",
    ),
    "transposed constant": (
        lambda: followed(nn.Sigmoid(), nn.ConvTranspose2d(8, 2, 3), channels=True), (2, 3, 6, 6), "as a constant, 0.5",
    ),
    "groups": (lambda: followed(nn.Conv2d(8, 4, 3, groups=2), channels=True), (2, 3, 6, 6), "'after.0' .Conv2d. has 2 groups"),
    "unlike every time": (
        lambda: followed(nn.Linear(8, 2), wiring=lambda m, x: m.after(m.drop(m.a(x))) + torch.rand(2)), (6, 5), "every call",
    ),
    "several widths": (
        lambda: followed(nn.Linear(8, 2), wiring=lambda m, x: m.after(m.drop(m.a(x))) + m.drop(x).sum()), (6, 5), r"\[5, 8\]",
    ),
    "fixed shape": (
        lambda: followed(nn.Linear(8, 2), wiring=lambda m, x: m.after(m.drop(m.a(x)).view(6, 8))), (6, 5), "invalid for input",
    ),
    "no gradient": (
        lambda: followed(nn.Linear(8, 2), wiring=lambda m, x: m.after(m.drop(m.a(x)).detach())), (6, 5), "no output",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_what_mixes_features_is_named(name: str) -> None:
    make, shape, reason = ERRORS[name]
    with pytest.raises(PruningError, match=reason):
        prune(make().double(), "drop", 3, x(*shape))


def test_tied_weights_are_an_error() -> None:
    with pytest.raises(PruningError, match=r"'a.weight' and 'out.weight' are one parameter; give each place its own"):
        prune(tied(), "drop", 3, torch.randint(9, (4, 5)))


def test_group_norm_is_not_cut_through_a_group_where_the_sizes_would_fit() -> None:
    """Without an error, one group of three would be left, which no trial sees if nothing reads it."""
    with pytest.raises(PruningError, match="groups of 2 features, and k must be a multiple of 2"):
        _GroupNormHandler().prune_out_channels(nn.GroupNorm(3, 6), [3, 4, 5])
    assert _GroupNormHandler().prune_out_channels(nn.GroupNorm(3, 6), [4, 5]).num_groups == 2
