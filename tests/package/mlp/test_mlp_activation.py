"""An activation that passes its trial and yet has tensors of its own to train, or begins to draw random numbers."""

import warnings

import pytest
import torch
from blocks import assert_same, block, computed
from torch import Tensor, nn

from taildropout.mlp.ragged import Ragged

__all__ = ["computed"]  # a fixture


class Scaled(nn.Module):
    """Multiplies by a tensor that is no parameter of the module."""

    def __init__(self, in_list: bool) -> None:
        super().__init__()
        scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        self.scale = [nn.Parameter(scale.detach())] if in_list else scale

    def forward(self, input: Tensor) -> Tensor:
        return input * (self.scale[0] if isinstance(self.scale, list) else self.scale)


class Noisy(nn.Module):
    """Draws random numbers only while `sigma` is above 0."""

    def __init__(self) -> None:
        super().__init__()
        self.sigma = 0.0

    def forward(self, input: Tensor) -> Tensor:
        return input.cos() + (self.sigma * torch.randn_like(input) if self.sigma else 0.0)


@pytest.mark.parametrize("in_list", [False, True])
@pytest.mark.parametrize("k", [None, 6], ids=["drawn", "set"])
def test_tensors_that_are_no_parameters_are_trained(in_list: bool, k: int | None, computed: list[Ragged]) -> None:
    net, input = block(activation := Scaled(in_list)), torch.randn(40, 5, dtype=torch.float64)
    net[2].set_k(k)
    scale = activation.scale[0] if isinstance(activation.scale, list) else activation.scale
    with torch.no_grad():
        net(input)
    assert len(computed) == 1  # nothing is to be trained there
    with pytest.warns(UserWarning, match="computes everything from now on.*Scaled uses tensors of its own that require grad"):
        assert_same(net, input)
    found = []
    for each in (net, nn.Sequential(*net)):
        torch.manual_seed(0)
        found.append(torch.autograd.grad(each(input).pow(3).sum(), [scale, *net.parameters()]))
    torch.testing.assert_close(*found)
    assert len(computed) == 2
    scale.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(block(activation), input)


def test_tensors_that_begin_to_require_grad(computed: list[Ragged]) -> None:
    net, input = block(activation := Scaled(False)), torch.randn(40, 5, dtype=torch.float64)
    assert isinstance(activation.scale, Tensor)
    activation.scale.requires_grad_(False)
    assert_same(net, input)
    assert len(computed) == 1
    activation.scale.requires_grad_()
    with pytest.warns(UserWarning, match="uses tensors of its own"):
        assert torch.autograd.grad(net(input).sum(), activation.scale)[0].item() != 0


@pytest.mark.parametrize("training", [True, False])
def test_an_activation_that_begins_to_be_random(training: bool, computed: list[Ragged]) -> None:
    net, input = block(activation := Noisy()), torch.randn(40, 5, dtype=torch.float64)
    net.train(training)[2].set_k(None if training else 6)
    assert_same(net, input)
    assert len(computed) == 1
    activation.sigma = 0.5
    with pytest.warns(UserWarning, match="Noisy draws random numbers"):
        assert_same(net, input)
    assert_same(net, input)
    assert len(computed) == 2
