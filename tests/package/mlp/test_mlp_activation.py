"""An activation that passes its trial and yet has tensors of its own to train, begins to be random, or has no gradient."""

import copy
import warnings
from typing import Any

import pytest
import torch
from blocks import N, assert_same, block, computed
from torch import Tensor, nn

from taildropout import GatedTailMLP, TailMLP
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


class Step(nn.Module):
    """Without a gradient."""

    def forward(self, input: Tensor) -> Tensor:
        return (input > 0).to(input.dtype)


class NoGradient(torch.autograd.Function):
    """A copy, whose backward gives None."""

    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        return input.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        return None


class Stopped(nn.Module):
    """Has a function of autograd that passes no gradient on."""

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = NoGradient.apply(input)  # type: ignore[no-untyped-call]
        return result


class Positive(nn.Module):
    """A ReLU that leaves autograd if all is negative, as some blocks of a ragged product may be."""

    def forward(self, input: Tensor) -> Tensor:
        return input.relu() if (input > 0).any() else torch.zeros_like(input)


def plain_of(net: nn.Module) -> nn.Module:
    """The same modules one after the other: a hook on one of them lets a block compute so."""
    plain = copy.deepcopy(net)
    next(plain.children()).register_forward_hook(lambda *_: None)
    return plain


def gradients(net: nn.Module, input: Tensor, create_graph: bool = False) -> list[Tensor | None]:
    """Those of the weights and of the input, which a residual connection gives a gradient in any case."""
    torch.manual_seed(0)
    wanted = [input, *(weight for weight in net.parameters() if weight.requires_grad)]
    loss = (net(input).sum(-1, keepdim=True) + input).pow(3).sum()
    return list(torch.autograd.grad(loss, wanted, create_graph=create_graph, allow_unused=True))


@pytest.mark.parametrize("activation", [Step(), Stopped()], ids=repr)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("k", [None, 6, 0], ids=["drawn", "shared", "none kept"])
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("frozen", [(), (-1, -2)], ids=["none frozen", "last Linear frozen"])
def test_an_activation_without_gradient_leaves_none_to_the_first_linear(
    activation: nn.Module, gated: bool, k: int | None, create_graph: bool, frozen: tuple[int, ...], computed: list[Ragged]
) -> None:
    net = (GatedTailMLP if gated else TailMLP)(5, N, 4, activation=activation, p=0.5, bias=True).double()
    (net.dropout if isinstance(net, GatedTailMLP) else net[2]).set_k(k)
    for at in frozen:
        list(net.parameters())[at].requires_grad_(False)
    input = torch.randn(3, 7, 5, dtype=torch.float64, requires_grad=True)
    found, wanted = (gradients(each, input, create_graph) for each in (net, plain_of(net)))
    assert [each is None for each in found] == [each is None for each in wanted]
    assert found[0] is not None
    assert found[1] is None
    torch.testing.assert_close([each for each in found if each is not None], [each for each in wanted if each is not None])
    assert len(computed) == 1


@pytest.mark.parametrize("gated", [False, True])
def test_second_derivatives_past_an_activation_without_gradient(gated: bool, computed: list[Ragged]) -> None:
    net = (GatedTailMLP if gated else TailMLP)(5, N, 4, activation=Step(), p=0.5, bias=True).double()
    input = torch.randn(40, 5, dtype=torch.float64, requires_grad=True)
    second = []
    for each in (net, plain_of(net)):
        penalty = torch.stack([grad.square().sum() for grad in gradients(each, input, True) if grad is not None]).sum()
        second.append(torch.autograd.grad(penalty, [input, *each.parameters()], allow_unused=True, materialize_grads=True))
    torch.testing.assert_close(*second)
    assert len(computed) == 1


def test_an_activation_without_gradient_in_one_block_only(computed: list[Ragged]) -> None:
    net, input = block(Positive()), torch.randn(40, 5, dtype=torch.float64)
    with torch.no_grad():
        net[0].bias[6:12] = -99  # the second of three blocks
    assert_same(net, input)
    assert computed[0].edges == [0, 6, 12, N]


def test_an_activation_of_another_kind_of_numbers_is_the_plain_block(computed: list[Ragged]) -> None:
    """Which refuses bools."""

    class Above(nn.Module):
        def forward(self, input: Tensor) -> Tensor:
            return input > 0

    with pytest.raises(TypeError, match=r"dtype torch\.bool"):
        block(Above())(torch.randn(40, 5, dtype=torch.float64))
    assert not computed


class Warm(nn.Module):
    """Reads an attribute, and its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.heat = 1.0

    def forward(self, input: Tensor) -> Tensor:
        return torch.tanh(input * self.heat) if self.training else torch.zeros_like(input)


def test_backward_is_of_the_attributes_and_the_mode_that_forward_read(computed: list[Ragged]) -> None:
    net, input = block(activation := Warm()), torch.randn(40, 5, dtype=torch.float64)
    found = []
    for each in (net, nn.Sequential(*net)):
        torch.manual_seed(0)
        net.train()
        activation.heat = 1.0
        outputs = [each(input)]
        activation.heat = 3.0
        outputs.append(each(input))
        net.eval()
        found.append(torch.autograd.grad(torch.stack(outputs).pow(3).sum(), list(net.parameters())))
    torch.testing.assert_close(*found)
    assert len(computed) == 2


class Remembering(nn.Module):
    """Keeps its last result, for a penalty."""

    last: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        self.last = torch.relu(input)
        return self.last


class Counting(nn.Module):
    """Keeps a list with an item per call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def forward(self, input: Tensor) -> Tensor:
        self.calls.append(len(input))
        return torch.relu(input)


class BesideTheFirst(nn.Module):
    """Refers to the first row."""

    def forward(self, input: Tensor) -> Tensor:
        return input - input[:1]


@pytest.mark.parametrize("activation", [Remembering(), Counting(), BesideTheFirst()], ids=lambda each: type(each).__name__)
def test_what_keeps_something_of_its_calls_or_refers_to_a_row_is_computed_whole(
    activation: nn.Module, computed: list[Ragged]
) -> None:
    net, input = block(activation), torch.randn(40, 5, dtype=torch.float64)
    net(input)
    assert not computed
    if isinstance(activation, Remembering):
        assert activation.last is not None
        assert activation.last.shape == (40, N)
    if isinstance(activation, Counting):
        assert activation.calls == [40]
