"""Modules that get their input by keyword are cut like those that get it by position."""

from contextlib import nullcontext

import pytest
import torch
from package.pruning.like_others import Conv1D
from package.pruning.pruned import CHANNELS, Wired, checked, count, lively, x
from torch import Tensor, nn

from taildropout import PruningError, TailDropout, prune

# Modules, wiring, input, parameters after cutting 8 features to 3, what is said of a layer that slices.
NETWORKS = {
    "the layer": (
        {"a": nn.Linear(5, 8), "drop": TailDropout(), "out": nn.Linear(8, 2)},
        lambda m, x: m.out(m.drop(input=m.a(x))), (6, 5), 18 + 8, "",
    ),
    "a constant in the tail": (
        {"a": nn.Linear(5, 8), "drop": TailDropout(), "out": nn.Linear(8, 2)},
        lambda m, x: m.out(input=m.drop(input=m.a(input=x)).sigmoid()), (6, 5), 18 + 8, "",
    ),
    "a constant read by a Conv1D": (
        {"a": nn.Linear(5, 8), "drop": TailDropout(), "out": Conv1D(2, 8)},
        lambda m, x: m.out(x=m.drop(m.a(x)).sigmoid()), (6, 5), 18 + 8, "",
    ),
    "flattened channels": (
        {"a": nn.Conv2d(3, 8, 3), "norm": nn.BatchNorm2d(8), "drop": TailDropout(**CHANNELS), "out": nn.Linear(128, 2)},
        lambda m, x: m.out(input=m.drop(input=m.norm(input=m.a(input=x))).flatten(1)), (2, 3, 6, 6), 84 + 6 + 98, "",
    ),
    "a concatenation with what a Linear makes of the features": (
        {"a": nn.Linear(5, 8), "drop": TailDropout(), "b": nn.Linear(8, 4), "out": nn.Linear(12, 2)},
        lambda m, x: (h := m.drop(input=m.a(x)), m.out(input=torch.cat([m.b(input=h), h], -1)))[1], (6, 5), 18 + 16 + 16, "",
    ),
    "recurrence after": (
        {"a": nn.Linear(5, 8), "drop": TailDropout(batch_dim=1), "rnn": nn.GRU(8, 4)},
        lambda m, x: m.rnn(hx=None, input=m.drop(input=m.a(x)))[0], (6, 4, 5), 18 + 12 * (3 + 4 + 2), "",
    ),
    "a slice": (
        {"a": nn.Linear(5, 8), "drop": TailDropout(), "out": nn.Linear(8, 2)},
        lambda m, x: m.out(input=m.drop(input=m.a(input=x).softmax(-1))), (6, 5), 48 + 8, "slices 3 of 8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("remove", [False, True], ids=["kept", "removed"])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_called_by_keyword_is_cut(name: str, remove: bool) -> None:
    modules, wiring, shape, parameters, slices = NETWORKS[name]
    with pytest.warns(UserWarning, match=slices) if slices else nullcontext():
        smaller = checked(lively(Wired(wiring, **modules)), "drop", 3, x(*shape), remove=remove)
    assert count(smaller) == parameters


def test_what_a_network_called_by_keyword_mixes_is_seen() -> None:
    """The probes need to know the range of the features at the layer."""
    modules = {"a": nn.Linear(5, 32), "drop": TailDropout(), "b": nn.Linear(32, 3)}
    model = Wired(lambda m, x: gated(m.b, m.drop(input=m.a(x))), **modules).double()
    with pytest.raises(PruningError, match="'amax' mixes features"):
        prune(model, "drop", 24, x())


def gated(module: nn.Module, hidden: Tensor) -> Tensor:
    output: Tensor = module(hidden) * (hidden.amax(-1, keepdim=True) > -0.1)
    return output
