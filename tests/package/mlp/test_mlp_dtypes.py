"""TailMLP in each dtype, with autocast, and what it leaves to the plain block."""

import copy

import pytest
import torch
from blocks import assert_same, block, computed
from torch import Tensor, nn

from taildropout import GatedTailMLP, TailMLP
from taildropout.mlp import cost
from taildropout.mlp.ragged import Ragged

__all__ = ["computed"]  # a fixture


@pytest.mark.parametrize("activation", [nn.GELU(), nn.ReLU(), nn.Softplus()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_narrow_types_are_as_exact_as_in_the_plain_block(
    activation: nn.Module,
    dtype: torch.dtype,
    autocast: bool,
    computed: list[Ragged],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Products of 16 blocks are added up: rounded each, the sum is not, which may double the square of the error."""
    monkeypatch.setattr(cost, "blocks_that_pay", lambda *_: 16)
    net = TailMLP(32, 256, 32, activation=activation, p=0.5)
    net[2].set_k(torch.randint(257, (200,)))
    input = torch.randn(200, 32)
    exact = copy.deepcopy(nn.Sequential(*net)).double()(input.double()).detach()
    if not autocast:
        net, input = net.to(dtype), input.to(dtype)
    input.requires_grad_()
    errors = []
    for each in (net, nn.Sequential(*net)):
        with torch.autocast("cpu", dtype, enabled=autocast):
            output = each(input)
        found = output, *torch.autograd.grad(output.float().square().mean(), [*net.parameters(), input])
        assert [tensor.dtype for tensor in found] == [dtype] + [net[0].weight.dtype] * 4 + [input.dtype]
        errors.append([found[0].double() - exact, *found[1:]])
    (error, *mine), (its_error, *its) = errors
    assert error.norm() < 1.5 * its_error.norm()
    for each, other in zip(mine, its, strict=True):
        assert (each - other).norm() < 0.02 * other.norm()
    assert len(computed) == 1


def test_the_activation_runs_in_autocast_and_may_leave_its_dtype(computed: list[Ragged]) -> None:
    seen = []

    class Cube(nn.Module):
        def forward(self, input: Tensor) -> Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return torch.stack([input, input, input]).prod(0)  # in float32 by autocast's policy

    net, input = TailMLP(32, 64, 32, activation=Cube(), p=0.5), torch.randn(200, 32)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(0)
        output = net(input)
        torch.manual_seed(0)
        torch.testing.assert_close(output, nn.Sequential(*net)(input), rtol=0.02, atol=0.02)
    output.sum().backward()
    assert all(seen)
    assert len(computed) == 1


def test_float64_stays_what_it_is_in_autocast(computed: list[Ragged]) -> None:
    net, input = block(), torch.randn(40, 5, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(net, input)
    assert len(computed) == 1


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("gated", [False, True])
def test_complex_numbers_are_computed_by_the_plain_block(
    dtype: torch.dtype, gated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without costs measured in their dtype, which raised an error, or in that of autocast."""
    monkeypatch.setattr(cost, "costs_of", lambda *_: pytest.fail("measured"))
    net = (GatedTailMLP if gated else TailMLP)(128, 512, 128, activation=nn.Tanh(), p=0.9).to(dtype)
    input, found = torch.randn(512, 128, dtype=dtype), []
    plain = copy.deepcopy(net)
    next(plain.children()).register_forward_hook(lambda *_: None)
    for each in (net, plain):
        torch.manual_seed(0)
        output = each(input)
        found.append([output, *torch.autograd.grad(output.abs().square().sum(), list(each.parameters())), torch.rand(1)])
    torch.testing.assert_close(*found, rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(input).dtype == dtype


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2], ids=str
)
@pytest.mark.parametrize("weights", [True, False])
def test_a_dtype_without_products_is_refused_as_by_the_plain_block(
    dtype: torch.dtype, weights: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(cost.PIN, raising=False)  # so that costs would be measured
    net, input = TailMLP(128, 512, 128, activation=nn.Tanh(), p=0.9), torch.ones(512, 128).to(dtype)
    if weights and not dtype.is_complex:
        for weight in net.requires_grad_(False).parameters():
            weight.data = weight.data.to(dtype)
    messages = []
    for each in (net, nn.Sequential(*net)):
        with pytest.raises((RuntimeError, TypeError)) as error:  # NotImplementedError is a RuntimeError
            each(input)
        messages.append((error.type, str(error.value)))
    assert messages[0] == messages[1]
