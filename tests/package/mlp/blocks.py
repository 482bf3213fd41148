"""The block that the tests of TailMLP are about, and how it is compared with the plain one of the same modules."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from taildropout import TailMLP
from taildropout.mlp import cost
from taildropout.mlp import skipping as mlp
from taildropout.mlp.autograd import ragged_product
from taildropout.mlp.ragged import Ragged

N = 17


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Ragged]:
    """Nothing is too small to be worth it; what is computed in blocks is listed, so that an empty list is the plain block."""
    seen: list[Ragged] = []

    def recorded(*arguments: object) -> Tensor:
        seen.append(arguments[1])
        return ragged_product(*arguments)

    monkeypatch.setattr(cost, "_SMALL", 0)
    monkeypatch.setattr(cost, "blocks_that_pay", lambda n, rows, ends, share, whole, *_: 1 if whole == 1 else min(n, 3))
    monkeypatch.setattr(mlp, "ragged_product", recorded)
    return seen


def block(activation: nn.Module | None = None, p: float = 0.5, **options: object) -> TailMLP:
    """5 features to N to 4, in float64."""
    return TailMLP(5, N, 4, activation=activation or nn.GELU(), p=p, **options).double()


def trained(net: Callable[[Tensor], Tensor], weights: list[Tensor], input: Tensor, seed: int = 0) -> tuple[Tensor, ...]:
    """The output, the gradients, and the number that comes next in the stream of random ones."""
    torch.manual_seed(seed)
    output = net(input)
    return output, *torch.autograd.grad(output.pow(3).sum(), [*weights, input]), torch.rand(1)


def assert_same(net: TailMLP, input: Tensor, seed: int = 0) -> None:
    """Output, gradients and random numbers are those of the plain block."""
    input = input.detach().requires_grad_()
    weights = list(net.parameters())
    torch.testing.assert_close(trained(net, weights, input, seed), trained(nn.Sequential(*net), weights, input, seed))
