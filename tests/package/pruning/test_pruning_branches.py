"""Features that several branches read and that meet again: DenseNet, U-Net, squeeze-and-excitation."""

import copy

import pytest
import torch
from package.pruning.pruned import CHANNELS, Wired, checked, evaluated, x
from torch import Tensor, nn

from taildropout import TailDropout, load_pruned


def dense(first: bool) -> nn.Module:
    def wiring(m: nn.Module, x: Tensor) -> Tensor:
        features = m.drop(m.a(x).relu())
        made = m.b(features).relu()
        return m.c(torch.cat([features, made] if first else [made, features], 1))

    return Wired(wiring, a=nn.Linear(5, 8), drop=TailDropout(), b=nn.Linear(8, 6), c=nn.Linear(14, 4))


def u_net(first: bool) -> nn.Module:
    def wiring(m: nn.Module, x: Tensor) -> Tensor:
        features = m.drop(m.a(x).relu())
        up = m.up(m.down(features).relu())
        return m.out(torch.cat([features, up] if first else [up, features], 1))

    modules = {"a": nn.Conv2d(1, 8, 3, padding=1), "drop": TailDropout(**CHANNELS), "down": nn.Conv2d(8, 8, 2, 2)}
    return Wired(wiring, **modules, up=nn.ConvTranspose2d(8, 8, 2, 2), out=nn.Conv2d(16, 2, 1))


def excited() -> nn.Module:
    def wiring(m: nn.Module, x: Tensor) -> Tensor:
        features = m.drop(m.a(x).relu())
        gate = m.up(m.down(features.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return m.out(features * gate)

    modules = {"a": nn.Conv2d(3, 12, 1), "drop": TailDropout(**CHANNELS), "down": nn.Conv2d(12, 3, 1)}
    return Wired(wiring, **modules, up=nn.Conv2d(3, 12, 1), out=nn.Conv2d(12, 4, 1))


@pytest.mark.parametrize(
    ("model", "shape", "sizes"),
    [
        (dense(True), (6, 5), {"a": 3, "b": 6, "c": 4}),
        (dense(False), (6, 5), {"a": 3, "b": 6, "c": 4}),
        (u_net(True), (2, 1, 6, 6), {"a": 3, "down": 8, "up": 8}),
        (u_net(False), (2, 1, 6, 6), {"a": 3, "down": 8, "up": 8}),
        (excited(), (2, 3, 5, 5), {"a": 3, "down": 3, "up": 3, "out": 4}),
    ],
)
def test_branches_of_the_features_are_cut(model: nn.Module, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    model, input = copy.deepcopy(model).double(), x(*shape)
    smaller = checked(model, "drop", 3, input)
    made = {name: getattr(smaller, name) for name in sizes}
    assert {name: getattr(each, "out_features", getattr(each, "out_channels", 0)) for name, each in made.items()} == sizes
    loaded = load_pruned(copy.deepcopy(model), smaller.state_dict())
    torch.testing.assert_close(evaluated(loaded, input), evaluated(smaller, input), rtol=0, atol=0)
