"""TailMLP inside `torch.compile`: an operator where it is known to work, else the plain block."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from blocks import trained
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.func import vmap
from torch.library import opcheck

import taildropout
from taildropout import GatedTailMLP, TailDropout, TailMLP, at_k
from taildropout.mlp import compiled, cost
from taildropout.mlp.operator import ragged_mlp, ragged_mlp_backward

ACTIVATIONS = {
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU("tanh"),
    "relu": nn.ReLU(),
    "silu": nn.SiLU(),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "identity": nn.Identity(),
}
N = 17


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no block be too small; compute in three blocks."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(cost, "_SMALL", 0)
    monkeypatch.setattr(compiled, "_SMALL", 0)
    monkeypatch.setattr(cost, "blocks_that_pay", lambda *_: 3)
    yield
    torch._dynamo.reset()


def graphs_of(net: Callable[..., Tensor], **options: Any) -> tuple[Callable[..., Tensor], list[torch.fx.GraphModule]]:
    """Return `net` compiled as one graph that runs as it is, and the list of graphs that will have been made."""
    made: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        from torch._dynamo.backends.debugging import aot_eager

        made.append(graph)
        return aot_eager(graph, inputs)

    return torch.compile(net, fullgraph=True, backend=backend, **options), made


def plain_of(net: TailMLP) -> Callable[..., Tensor]:
    """Return the plain block, compiled as far as it takes to draw the same numbers: it is only compared with."""
    call: Callable[..., Tensor] = torch.compile(nn.Sequential(*net), fullgraph=True, backend="eager")
    return call


def has_operator(graph: torch.fx.GraphModule) -> bool:
    return any("ragged_mlp" in str(node.target) for node in graph.graph.nodes)


def block(activation: nn.Module | None = None, p: float = 0.5, **options: Any) -> TailMLP:
    return TailMLP(5, N, 4, activation=activation or nn.GELU(), p=p, **options).double()


def rows(count: int) -> Tensor:
    return torch.randn(count, 5, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_it_equals_the_compiled_plain_block_with_the_same_draws(activation: nn.Module) -> None:
    net, input = block(activation, bias=type(activation) is not nn.ReLU), rows(40)
    call, made = graphs_of(net)
    plain, plainly_made = graphs_of(nn.Sequential(*net))
    weights = list(net.parameters())
    for seed in range(2):
        torch.testing.assert_close(trained(call, weights, input, seed), trained(plain, weights, input, seed))
    assert has_operator(made[0])
    assert not has_operator(plainly_made[0])


@pytest.mark.parametrize(
    ("shape", "batch_dim"), [((3, 7, 5), None), ((3, 7, 5), 0), ((2, 3, 4, 5), [2, 0]), ((6, 5), ()), ((5,), None)], ids=str
)
def test_every_sample_draws_its_own_k(shape: tuple[int, ...], batch_dim: Any) -> None:
    net, input = block(batch_dim=batch_dim), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    call, made = graphs_of(net)
    plain = plain_of(net)
    weights = list(net.parameters())
    torch.testing.assert_close(trained(call, weights, input), trained(plain, weights, input))
    assert has_operator(made[0])


@pytest.mark.parametrize("pays", [0, 3])
def test_a_fixed_k_in_training_and_evaluation(pays: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "blocks_that_pay", lambda *_: pays)
    net, input = block(nn.Sigmoid()), rows(40)
    call, made = graphs_of(net)
    weights = list(net.parameters())
    for k in (3, 0, N, torch.randint(N + 1, (40,))):
        net[2].set_k(k)
        torch.testing.assert_close(trained(call, weights, input), trained(nn.Sequential(*net), weights, input))
    with at_k(net, 3), torch.no_grad():
        torch.testing.assert_close(net.eval()(input), call(input))
    assert all(has_operator(graph) for graph in made)


def test_in_evaluation_without_k_there_is_no_operator() -> None:
    net = block().eval()
    call, made = graphs_of(net)
    input = rows(40)
    torch.testing.assert_close(call(input), nn.Sequential(net[0], net[1], net[3])(input))
    assert not has_operator(made[0])


def test_another_k_p_or_number_of_rows_compiles_nothing() -> None:
    net = block()
    call, made = graphs_of(net, dynamic=True)
    for p in (0.5, 0.3, 0.9, 1.0, 0.0, 0.001):
        net[2].set_p(p)
        output = call(rows(40))
        assert output.isfinite().all()
    for count in (41, 7, 300):
        assert call(rows(count)).shape == (count, 4)
    assert counters["stats"]["unique_graphs"] == len(made) == 1
    net[2].set_k(2)
    call(rows(40))
    with_k = len(made)
    for k in (3, 0, N):
        net[2].set_k(k)
        call(rows(40))
    assert len(made) == with_k
    assert not counters["graph_break"]


@pytest.mark.usefixtures("compiler")
def test_inductor_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real cost model, and a number of rows that changes."""
    monkeypatch.undo()
    net = TailMLP(128, 512, 64, activation=nn.GELU(), p=0.5)
    call, plain = (torch.compile(each, fullgraph=True, dynamic=True) for each in (net, nn.Sequential(*net)))
    for count in (1024, 700):
        input = torch.randn(count, 128, requires_grad=True)
        found = [trained(each, list(net.parameters()), input) for each in (call, plain)]
        for mine, other in zip(*found, strict=True):
            assert (mine - other).norm() < 1e-5 * other.norm()


@pytest.mark.parametrize("frozen", ["0.weight", "3.bias"])
def test_frozen_weights(frozen: str) -> None:
    net, input = block(), torch.randn(40, 5, dtype=torch.float64)
    net.get_parameter(frozen).requires_grad_(False)
    call, made = graphs_of(net)
    plain = plain_of(net)
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    found = []
    for each in (call, plain):
        torch.manual_seed(0)
        output = each(input)
        found.append([output, *torch.autograd.grad(output.pow(3).sum(), weights)])
    torch.testing.assert_close(*found)
    assert has_operator(made[0])


@pytest.mark.parametrize("autocast", [True, False])
def test_narrow_types(autocast: bool) -> None:
    dtype = torch.bfloat16
    net, input = TailMLP(32, 256, 32, activation=nn.GELU(), p=0.5), torch.randn(200, 32)
    if not autocast:
        net, input = net.to(dtype), input.to(dtype)
    call, made = graphs_of(net)
    plain = plain_of(net)
    found = []
    for each in (call, plain):
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype, enabled=autocast):
            output = each(input)
        assert output.dtype == dtype
        found.append([output, *torch.autograd.grad(output.float().square().mean(), list(net.parameters()))])
    for mine, other in zip(*found, strict=True):
        assert mine.dtype == other.dtype
        assert (mine - other).float().norm() < 0.02 * other.float().norm()
    assert has_operator(made[0])


def test_another_activation_is_the_plain_block_and_says_so_once() -> None:
    compiled._warned_of.clear()
    net, input = block(nn.Softplus()), rows(40)
    call, made = graphs_of(net)
    plain = plain_of(net)
    weights = list(net.parameters())
    with pytest.warns(UserWarning, match=r"activation Softplus is not one of .*; use one of these"):
        mine = trained(call, weights, input)
    torch.testing.assert_close(mine, trained(plain, weights, input))
    assert not has_operator(made[0])
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="TailMLP")  # torch warns of its own on Python 3.13.0
        graphs_of(block(nn.Softplus()))[0](input)
    gated = GatedTailMLP(input.shape[-1], N, 4, activation=nn.Softplus(), p=0.5).to(input.dtype)
    with pytest.warns(UserWarning, match=r"^GatedTailMLP computes everything in compiled code"):
        graphs_of(gated)[0](input)


def test_hooks_other_modules_transforms_and_small_blocks_are_the_plain_block(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    hooked, swapped = block(), block()
    hooked[1].register_forward_hook(lambda *_: seen.append(1))
    swapped[2] = nn.Dropout(0.5)
    of_columns = block()
    of_columns[2] = TailDropout(0.5, 1, 0)
    for net in (hooked, swapped, of_columns):
        call, made = graphs_of(net)
        call(rows(40))
        assert not has_operator(made[0])
    assert seen
    net = block()
    # A function, because vmap of torch 2.8 cannot be compiled for a module, whose repr it wants.
    mapped, made = graphs_of(vmap(lambda row: net(row), randomness="different"))
    mapped(torch.stack([rows(4), rows(4)]))
    assert not has_operator(made[0])
    monkeypatch.undo()
    call, made = graphs_of(block())
    call(rows(40))
    assert not has_operator(made[0])


def test_an_exported_program_has_no_operator_of_ours() -> None:
    net = block().eval()
    net[2].set_k(3)
    program = torch.export.export(net, (rows(40),))
    assert not has_operator(program.graph_module)


def operands(dtype: torch.dtype = torch.float64, bias: bool = True) -> list[Tensor | None]:
    sizes = (12, 5), (N, 5), (N,), (4, N), (4,)
    made = [torch.randn(size, dtype=dtype, requires_grad=True) for size in sizes]
    return [*(None if len(size) == 1 and not bias else each for each, size in zip(made, sizes, strict=True)), None, None]


@pytest.mark.parametrize(
    ("k", "bias", "activation"),
    [(torch.full((12,), 99.0), True, "gelu"), (torch.tensor(N), False, "relu"), (torch.full((12,), N), True, "identity")],
    ids=["exponentials", "shared", "integers"],
)
def test_the_forward_operator_keeps_the_rules_of_torch(k: Tensor, bias: bool, activation: str) -> None:
    """With every feature kept, because torch compares all memory, and what k drops is not written."""
    opcheck(ragged_mlp, (*operands(bias=bias), k, activation, True))


@pytest.mark.parametrize("k", [torch.rand(12) * 20, torch.tensor(6)], ids=["each its own", "shared"])
def test_the_operators_have_the_shapes_they_promise_and_change_no_input(k: Tensor) -> None:
    checks = ("test_schema", "test_faketensor")
    for activation in ACTIVATIONS:
        for training in (True, False):
            opcheck(ragged_mlp, (*operands(), k, activation, training), test_utils=checks)
        given = [None if each is None else each.detach() for each in operands()]
        output, *saved = ragged_mlp(*given, k, activation, True)
        saved[0].nan_to_num_()  # memory that was not written may hold NaN, which equals nothing
        wanted = [activation != "silu", True, activation != "relu", True, True, False, False]
        opcheck(ragged_mlp_backward, (torch.ones_like(output), *given, *saved, activation, wanted), test_utils=checks)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("blocks", [0, 3])
def test_the_backward_of_the_operator_is_the_derivative(activation: str, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "blocks_that_pay", lambda *_: blocks)
    k = torch.tensor([0.5, 17.0, 3.2, 9.0, 16.9, 1.0, torch.inf, 5.0, 2.0, 12.0, 8.0, 0.0])
    tensors = operands()
    assert torch.autograd.gradcheck(lambda *each: ragged_mlp(*each, k, activation, True)[0], tensors, fast_mode=True)


@pytest.mark.parametrize("k", [torch.rand(12) * 20, torch.tensor(6)], ids=["each its own", "shared"])
@pytest.mark.parametrize("blocks", [0, 3])
def test_the_operator_has_second_derivatives(k: Tensor, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that does not trace backward, such as the backend "eager", can use them."""
    monkeypatch.setattr(cost, "blocks_that_pay", lambda *_: blocks)
    assert torch.autograd.gradgradcheck(lambda *each: ragged_mlp(*each, k, "silu", True)[0], operands(), fast_mode=True)


def test_weights_that_are_shared_have_the_gradients_of_the_plain_block() -> None:
    net, input = TailMLP(N, N, N, activation=nn.GELU(), p=0.5).double(), torch.randn(40, N, dtype=torch.float64)
    net[3].weight = net[0].weight
    wanted = trained_twice(nn.Sequential(*net), "eager", net, input)
    for backend, second in (("eager", False), ("eager", True), ("aot_eager", False)):
        torch.testing.assert_close(trained_twice(net, backend, net, input, second), wanted)


def trained_twice(call: nn.Module, backend: str, net: TailMLP, input: Tensor, second: bool = False) -> tuple[Tensor, ...]:
    """Return the gradients through the compiled `call` of its own output, differentiable if `second`."""
    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend=backend)
    torch.manual_seed(0)
    return torch.autograd.grad(compiled(compiled(input)).pow(3).sum(), list(net.parameters()), create_graph=second)


def test_operators_are_named_after_the_import_name() -> None:
    assert ragged_mlp._qualname == f"{taildropout.__name__}::ragged_mlp"


def test_one_size_divides_modules_from_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the least size of eager mode, too."""
    monkeypatch.undo()
    block = TailMLP(32, 64, 32, activation=nn.GELU(), p=0.5)
    monkeypatch.setattr(compiled, "_SMALL", 32 * 64 * 100)
    monkeypatch.setattr(cost, "_SMALL", 32 * 64 * 10)
    call, made = graphs_of(block, dynamic=True)
    for rows in (200, 120, 60, 20, 5, 300):
        call(torch.randn(rows, 32))
    assert len(made) == 2
