"""The network that prune returns is compared with the model, whatever was cut or removed."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
import torch
from package.pruning.pruned import Wired, checked, count, evaluated, gru, mlp, x
from torch import Tensor, nn

from taildropout import PruningError, TailDropout, load_pruned, prune
from taildropout.pruning.verification import difference


def test_a_slice_stays_a_slice_where_the_layer_is_removed() -> None:
    with pytest.warns(UserWarning, match="slices 5 of 8"):
        first = prune(gru(8).double(), "drop", 5, x(4, 2, 5))
    second = checked(first, "drop", 5, x(4, 2, 5), remove=True)
    assert repr(second.drop) == "Slice(features=5, dim=2)"
    with pytest.warns(UserWarning, match="slices 2 of 5"):
        third = checked(first, "drop", 2, x(4, 2, 5), remove=True)
    assert repr(third.drop) == "Slice(features=2, dim=2)"


class Doubling(TailDropout):
    """A layer that is not the identity in evaluation."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Reading(nn.Sequential):
    """A network that reads p of its layer."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self[2].p


@pytest.mark.parametrize("k", [3, 8])
def test_the_network_without_its_layers_is_compared(k: int) -> None:
    model, input = mlp(), x()
    model[2] = Doubling()
    torch.testing.assert_close(evaluated(prune(model, "2", k, input), input), evaluated(model, input, k=k, layer="2"))
    with pytest.raises(PruningError, match=r"without its layers the network changes: an output .* give remove=False"):
        prune(model, "2", k, x(), remove=True)
    with pytest.raises(PruningError, match=r"the network fails \(AttributeError: 'Identity' .* 'p'\); .*give remove=False"):
        prune(Reading(*mlp()), "2", k, x(), remove=True)


def test_a_copy_that_computes_something_else_is_refused() -> None:
    model = mlp()
    model[1].register_forward_hook(lambda module, args, output: output + torch.rand(1))
    with pytest.raises(PruningError, match=r"as a copy the network changes: .* make it deterministic"):
        prune(model, "2", 8, x())


@pytest.mark.parametrize("number", [1.5, -1e300, 0.0, math.inf, -math.inf, math.nan, 1 + 2j, complex(math.nan, 1)])
def test_python_numbers_are_compared_as_tensors_are(number: complex) -> None:
    eps = torch.finfo(torch.float64).eps
    close, far = number * (1 + eps), number * (1 + 1e-6) + (number == 0) * 1e-6
    assert difference([number], [close], eps) is None
    if number == number and abs(number) != math.inf:
        assert difference([number], [far], eps) == f"an output {number!r} became {far!r}"
        assert difference([number], [far], 1e-7) is None or number == 0
        assert difference([number], [math.nan], 1e-7)
        assert difference([math.nan], [number], 1e-7)
        assert difference([number], [math.inf], 1e-7)
        assert difference([math.inf], [number], 1e-7)


@pytest.mark.parametrize(
    ("a", "b"), [(3, 4), (True, False), ("a", "b"), (None, 1.0), (1.0, None), (1.0, "a"), (10**9, 10**9 + 1)]
)
def test_other_values_are_compared_exactly(a: object, b: object) -> None:
    assert difference([a], [b], 1e-7) == f"an output {a!r} became {b!r}"
    assert difference([a], [a], 1e-7) is None


def test_a_number_and_a_tensor_differ() -> None:
    assert difference([1.0], [torch.ones(2)], 1e-7) == "an output of type float became one of type Tensor"
    assert difference([torch.ones(2)], [1.0], 1e-7) == "an output of type Tensor became one of type float"


def test_a_network_that_returns_numbers_is_cut() -> None:
    def wiring(m: nn.Module, x: Tensor) -> object:
        output = m.b(m.drop(m.a(x)))
        return output, output.mean().item(), math.nan, complex(1, output.sum().item()), "text"

    model = Wired(wiring, a=nn.Linear(50, 80), drop=TailDropout(), b=nn.Linear(80, 2)).double()
    assert prune(model, "drop", 30, x(60, 50)).a.out_features == 30
    assert prune(model.float(), "drop", 30, x(60, 50).float()).a.out_features == 30


@pytest.fixture
def default_device_without_numbers() -> Iterator[None]:
    """The meta device as the default. As with a GPU, what is made without a device does not fit a model on the CPU."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


def between(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm, TailDropout(dropout_dim=1), nn.Conv2d(8, 2, 1)).double()


@pytest.mark.usefixtures("default_device_without_numbers")
@pytest.mark.parametrize(
    ("build", "layer", "shape"),
    [
        (mlp, "2", (6, 5)),
        (lambda: gru(8).double(), "drop", (4, 2, 5)),
        (lambda: nn.Sequential(nn.Linear(5, 8), TailDropout(), nn.GRU(8, 4)).double(), "1", (4, 5)),
        (lambda: between(nn.BatchNorm2d(8)), "2", (2, 3, 6, 6)),
        (lambda: between(nn.GroupNorm(4, 8)), "2", (2, 3, 6, 6)),
        (lambda: between(nn.InstanceNorm2d(8, affine=True)), "2", (2, 3, 6, 6)),
    ],
)
def test_the_default_device_is_not_used(build: Callable[[], nn.Module], layer: str, shape: tuple[int, ...]) -> None:
    with torch.device("cpu"):
        model, fresh, input = build(), build(), x(*shape)
    with pytest.warns(UserWarning, match="slices 4") if layer == "drop" else nullcontext():
        smaller = prune(model, layer, 4, input)
    assert count(smaller) < count(model)
    torch.testing.assert_close(evaluated(smaller, input), evaluated(model, input, k=4, layer=layer))
    loaded = load_pruned(fresh, smaller.state_dict())
    torch.testing.assert_close(evaluated(loaded, input), evaluated(smaller, input))
