"""TailMLP is the plain block of the same modules: the same randomness, outputs, gradients and errors, only cheaper."""

import math
from typing import Any

import pytest
import torch
from blocks import N, assert_same, block, computed
from torch import Tensor, nn

from taildropout import TailDropout, TailMLP, at_k, rate
from taildropout.mlp import cost
from taildropout.mlp import skipping as mlp
from taildropout.mlp.elementwise import is_elementwise
from taildropout.mlp.ragged import Ragged

__all__ = ["computed"]  # a fixture


class Cosine(nn.Module):
    """An activation of somebody's own, with f(0) = 1."""

    def forward(self, input: Tensor) -> Tensor:
        return input.cos()


class Doubling(nn.Module):
    """Writes into its input, and says so nowhere."""

    def forward(self, input: Tensor) -> Tensor:
        return input.mul_(2)


class Backwards(nn.Module):
    """Elementwise along no dim."""

    def forward(self, input: Tensor) -> Tensor:
        return input.flip(-1)


class Centred(nn.Module):
    """Mixes what lies along `dim`, and leaves symmetric values as they are."""

    def __init__(self, dim: int | tuple[int, ...]) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return input - input.mean(self.dim, keepdim=True)

    def extra_repr(self) -> str:
        return str(self.dim)


ELEMENTWISE = [nn.GELU(), nn.ReLU(), nn.ReLU(inplace=True), nn.Sigmoid(), nn.Softplus(), nn.Identity(), Cosine()]
OTHERS = [nn.Softmax(-1), nn.Softmax(0), nn.LayerNorm(N, elementwise_affine=False), nn.LayerNorm(N), nn.RReLU(), nn.PReLU()]
OTHERS += [nn.Sequential(nn.ReLU()), nn.Dropout(0.3), Doubling(), Backwards()]
OTHERS += [Centred(0), Centred(1), Centred(-1), Centred((0, 1))]


@pytest.mark.parametrize("activation", ELEMENTWISE, ids=repr)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("shape", "batch_dim"),
    [((40, 5), None), ((3, 7, 5), None), ((3, 7, 5), 0), ((3, 7, 5), [1]), ((2, 3, 4, 5), [2, 0]), ((6, 5), ()), ((5,), None)],
    ids=str,
)
def test_it_equals_the_plain_block(
    activation: nn.Module, bias: bool, shape: tuple[int, ...], batch_dim: object, computed: list[Ragged]
) -> None:
    net = block(activation, bias=bias, batch_dim=batch_dim)
    input = torch.randn(shape, dtype=torch.float64)
    for seed in range(3):
        assert_same(net, input, seed)
    for k in (0, 1, 6, N):
        net[2].set_k(k)
        assert_same(net, input)
        assert_same_in_evaluation(net, input)
    dims = range(len(shape) - 1) if batch_dim is None else [batch_dim] if isinstance(batch_dim, int) else batch_dim
    net[2].set_k(torch.randint(N + 1, [shape[dim] for dim in dims]))
    assert_same(net, input)
    assert_same_in_evaluation(net, input)
    assert len(computed) == 3 + 4 * 2 + 2


def assert_same_in_evaluation(net: TailMLP, input: Tensor) -> None:
    k = net[2].k
    with at_k(net, k), torch.no_grad():
        torch.testing.assert_close(net.eval()(input), nn.Sequential(*net)(input))
        net.train()


def test_it_computes_the_formula(computed: list[Ragged]) -> None:
    """Row by row, with the first k hidden features alone."""
    net, input, k = block(nn.Sigmoid()), torch.randn(30, 5, dtype=torch.float64), torch.randint(N + 1, (30,))
    net[2].set_k(k)
    output = net(input)
    for row, width in enumerate(k.tolist()):
        hidden = torch.sigmoid(net[0].weight[:width] @ input[row] + net[0].bias[:width])
        torch.testing.assert_close(output[row], net[3].weight[:, :width] @ hidden + net[3].bias)
    assert len(computed) == 1


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_the_ends_of_p(p: float, computed: list[Ragged]) -> None:
    net = block(p=p)
    assert_same(net, torch.randn(6, 5, dtype=torch.float64))
    net.eval()
    assert_same(net, torch.randn(6, 5, dtype=torch.float64))
    assert not computed


def test_in_evaluation_nothing_is_dropped(computed: list[Ragged]) -> None:
    net, input = block().eval(), torch.randn(40, 5, dtype=torch.float64)
    assert torch.equal(net(input), nn.Sequential(net[0], net[1], net[3])(input))
    assert_same(net, input)
    assert not computed


def test_another_p_takes_effect(computed: list[Ragged]) -> None:
    net = block(p=0.5)
    input = torch.randn(500, 5, dtype=torch.float64)
    for p in (0.5, 0.9):
        net[2].set_p(p)
        assert_same(net, input)
    assert computed[1].k.mean() < computed[0].k.mean()


@pytest.mark.parametrize("activation", OTHERS, ids=repr)
def test_what_is_not_elementwise_is_the_plain_block(activation: nn.Module, computed: list[Ragged]) -> None:
    net = block(activation)
    for shape in ((40, 5), (3, 7, 5)):
        assert_same(net, torch.randn(shape, dtype=torch.float64))
    assert not computed


def test_an_activation_with_parameters_trains_them(computed: list[Ragged]) -> None:
    """In float32, the dtype in which activations are tried out."""
    net, input = block(nn.PReLU()).float(), torch.randn(40, 5)
    assert_same(net, input)
    assert not computed


def test_trying_out_an_activation_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    assert not is_elementwise(nn.RReLU())
    assert torch.equal(torch.rand(3), wanted)
    random = nn.RReLU().eval()
    assert is_elementwise(random)
    assert not is_elementwise(random.train())


def test_what_k_drops_leaves_no_trace(computed: list[Ragged]) -> None:
    net, input = block(nn.ReLU()), torch.randn(40, 5, dtype=torch.float64)
    with torch.no_grad():
        net[0].weight[6:] = math.inf
    net[2].set_k(6)
    net(input).sum().backward()
    assert all(each.grad.isfinite().all() for each in net.parameters())
    assert not net[0].weight.grad[6:].any()
    assert not net[3].weight.grad[:, 6:].any()
    net[2].set_k(torch.randint(7, (40,)))
    assert net(input).isfinite().all()
    assert len(computed) == 2


@pytest.mark.parametrize("frozen", ["0.weight", "0.bias", "3.weight", "3.bias", "all", "all but 3.bias", "all but 0.bias"])
@pytest.mark.parametrize("to_input", [True, False])
def test_frozen_weights(frozen: str, to_input: bool, computed: list[Ragged]) -> None:
    net = block(nn.Tanh())
    for name, weight in net.named_parameters():
        weight.requires_grad_((name != frozen) if "all" not in frozen else frozen == f"all but {name}")
    net[2].set_k(torch.randint(N + 1, (40,)))
    input = torch.randn(40, 5, dtype=torch.float64, requires_grad=to_input)
    found = []
    for each in (net, nn.Sequential(*net)):
        output = each(input)
        wanted = [weight for weight in (*net.parameters(), input) if weight.requires_grad]
        found.append([output, *(torch.autograd.grad(output.pow(2).sum(), wanted) if wanted else [])])
    torch.testing.assert_close(*found)
    assert computed


def test_inputs_that_are_not_contiguous_or_empty(computed: list[Ragged]) -> None:
    net = block()
    assert_same(net, torch.randn(5, 40, dtype=torch.float64).t())
    assert_same(net, torch.randn(7, 3, 5, dtype=torch.float64).transpose(0, 1))
    assert_same(net, torch.randn(1, 5, dtype=torch.float64).expand(40, 5))
    assert len(computed) == 3
    assert net(torch.empty(0, 5, dtype=torch.float64)).shape == (0, 4)


def test_errors_are_those_of_the_plain_block(computed: list[Ragged]) -> None:
    net = block()
    for bad, error in ((torch.randn(4, 6).double(), RuntimeError), (torch.randn(4, 5), RuntimeError), ([1.0], TypeError)):
        with pytest.raises(error):
            net(bad)
    for k, message in ((N + 1, r"greater than the 17 features"), (torch.tensor([1, 2, 3]), "has shape")):
        net[2].set_k(k)
        with pytest.raises(ValueError, match=message):
            net(torch.randn(4, 5).double())
    net[2].set_k(3)
    net[3] = nn.Linear(N - 1, 4).double()
    with pytest.raises(RuntimeError, match="shapes"):
        net(torch.randn(4, 5).double())
    with pytest.raises(TypeError, match=r"nn\.GELU\(\)"):
        TailMLP(5, N, 4, activation=torch.relu, p=0.5)
    for bias in ("no", 1, None):
        with pytest.raises(TypeError, match=rf"bias={bias!r} has type {type(bias).__name__}; give True or False"):
            TailMLP(5, N, 4, activation=nn.ReLU(), p=0.5, bias=bias)
    with pytest.raises(ValueError, match="drop probability"):
        TailMLP(5, N, 4, activation=nn.ReLU(), p=1.5)
    with pytest.raises(IndexError):
        block(batch_dim=2)(torch.randn(4, 5).double())


def test_blocks_are_taken_where_they_pay() -> None:
    """Flagship sizes, and what is too small, or drops too little, to save anything."""

    def blocks(rows: int, features: int, n: int, p: float, kind: str = "cpu") -> int:
        whole, training = math.exp(-rate(p, n) * n), torch.is_grad_enabled()
        return cost.blocks_that_pay(
            n, rows, 2 * features, 1 - p, whole, cost._CPU if kind == "cpu" else cost._COSTS[kind], training
        )

    assert blocks(4096, 1024, 4096, 0.5) >= 8
    assert blocks(512, 1024, 4096, 0.5) >= 4
    for p in (0.001, 0.01):
        assert blocks(4096, 1024, 4096, p) == 0
        assert cost.blocks_that_pay(4096, 4096, 2048, 1 - p, 1.0, cost._CPU, True) == 0
    assert blocks(8, 16, 64, 0.5) == 0
    assert cost.blocks_that_pay(4096, 4096, 2048, 0.25, 1.0, cost._CPU, True) == 1
    with torch.no_grad():
        assert blocks(4096, 1024, 4096, 0.5) >= 4
    # On an H100 these pay or not, as measured.
    assert blocks(8192, 2048, 8192, 0.5, "float32") >= 4
    assert blocks(8192, 4096, 16384, 0.5, "tf32") >= 4
    assert blocks(32768, 4096, 16384, 0.5, "half") >= 4
    for kind in ("float32", "tf32", "half"):
        assert blocks(2048, 1024, 4096, 0.5, kind) == 0
        assert blocks(8192, 2048, 8192, 0.1, kind) == 0
    assert blocks(16384, 2048, 8192, 0.5, "half") == 0


def test_what_is_small_or_drops_little_is_hardly_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look takes longer than 3 % of a small block."""
    for name in ("_as_constructed", "is_elementwise"):
        large = name == "is_elementwise"
        net = TailMLP(256, 1024, 256, activation=nn.GELU(), p=0.001) if large else block()
        input = torch.randn(1024, 256) if large else torch.randn(8, 5, dtype=torch.float64)
        with monkeypatch.context() as patch:
            patch.setattr(mlp, name, lambda *_: pytest.fail("looked at"))
            assert_same(net, input)
            assert_same(net.eval(), input)


def test_a_narrow_k_pays_and_a_wide_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    net, input = TailMLP(256, 1024, 256, activation=nn.GELU(), p=0.5), torch.randn(1024, 256)
    for k, pays in (
        (100, True),
        (1024, False),
        (torch.randint(200, (1024,)), True),
        (torch.randint(1000, 1025, (1024,)), False),
    ):
        net[2].set_k(k)
        with monkeypatch.context() as patch:
            patch.setattr(mlp, "ragged_product", lambda *_: torch.zeros(1024, 256))
            assert (not net(input).any()) == pays


@pytest.mark.parametrize("p", [0.5, 0.001])
def test_at_its_own_choice_of_blocks_it_equals_the_plain_block(p: float) -> None:
    net, input = TailMLP(256, 1024, 256, activation=nn.GELU(), p=p), torch.randn(1024, 256)
    found = []
    for each in (net, nn.Sequential(*net)):
        torch.manual_seed(5)
        output = each(input)
        found.append([output, *torch.autograd.grad(output.square().mean(), list(net.parameters())), torch.rand(1)])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_it_is_made_like_a_sequential() -> None:
    net = TailMLP(5, N, 4, activation=nn.GELU(), p=0.25, bias=False, batch_dim=[0, 1])
    assert isinstance(net, nn.Sequential)
    assert [type(each) for each in net] == [nn.Linear, nn.GELU, TailDropout, nn.Linear]
    assert (net[2].p, net[2].batch_dim) == (0.25, [0, 1])
    assert net[0].bias is None
    assert net[3].bias is None
    assert TailMLP(5, N, 4, activation=nn.GELU(), p=0.25)[2].batch_dim is None
    assert [type(each) for each in net[:2]] == [nn.Linear, nn.GELU]


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((5, 0, 4), ValueError, r"hidden_features=0 is no number of features; give 1 or more"),
        ((-5, 6, 4), ValueError, r"in_features=-5 is no number"),
        ((5, 6, 4.0), TypeError, r"out_features=4\.0 has type float; the number of features is an int"),
        ((5, True, 4), TypeError, r"hidden_features=True has type bool"),
    ],
)
def test_sizes_are_checked_at_construction(sizes: tuple[Any, Any, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TailMLP(*sizes, activation=nn.GELU(), p=0.5)
