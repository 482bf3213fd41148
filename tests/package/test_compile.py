"""torch.compile and torch.export: one graph, no recompilation, the law, and the same mask in forward and backward."""

from collections.abc import Callable, Iterator

import oracles
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from taildropout import TailDropout, keep_first, rate, tail_dropout

MODES = ["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
DYNAMIC = pytest.mark.parametrize("dynamic", [None, True, False])


class Graphs:
    """A backend that keeps the graphs it is given and runs them as they are."""

    def __init__(self) -> None:
        self.modules: list[torch.fx.GraphModule] = []

    def __call__(self, module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        self.modules.append(module)
        return module.forward

    def __len__(self) -> int:
        return len(self.modules)

    def names(self) -> list[str]:
        return [
            getattr(node.target, "__name__", str(node.target))
            for module in self.modules
            for node in module.graph.nodes
            if node.op in ("call_function", "call_method", "call_module")
        ]


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def graphs() -> Graphs:
    return Graphs()


@DYNAMIC
def test_another_k_compiles_nothing(graphs: Graphs, dynamic: bool | None) -> None:
    layer = TailDropout()
    compiled = torch.compile(layer, fullgraph=True, backend=graphs, dynamic=dynamic)
    layer.set_k(3)
    compiled(torch.ones(8, 16))
    one = len(graphs)
    for k in (0, 1, 5, 16, 3, torch.tensor(7)):
        layer.set_k(k)
        assert (oracles.widths(compiled(torch.ones(8, 16))) == int(k)).all()
    assert len(graphs) == one == 1
    for _ in range(3):
        k = torch.randint(0, 17, (8,))
        layer.set_k(k)
        assert torch.equal(oracles.widths(compiled(torch.ones(8, 16))), k)
    assert len(graphs) == 2


def test_k_above_the_features_keeps_all_in_compiled_code(graphs: Graphs) -> None:
    layer = TailDropout()
    layer.set_k(40)
    assert torch.compile(layer, fullgraph=True, backend=graphs)(torch.ones(8, 16)).all()


@DYNAMIC
def test_another_p_compiles_nothing_and_takes_effect(graphs: Graphs, dynamic: bool | None) -> None:
    layer = TailDropout(0.5)
    compiled = torch.compile(layer, fullgraph=True, backend=graphs, dynamic=dynamic)
    input = torch.ones(4000, 16)
    for p in (0.5, 0.4, 0.0, 1.0, 0.9, 0.001):
        layer.set_p(p)
        kept = oracles.widths(compiled(input)).double().mean().item() / 16
        assert abs(kept - (1 - p)) < 5 * 0.5 / len(input) ** 0.5
    assert len(graphs) == 1


@DYNAMIC
def test_a_new_n_compiles_at_most_once(graphs: Graphs, dynamic: bool | None) -> None:
    layer = TailDropout(0.5)
    compiled = torch.compile(layer, fullgraph=True, backend=graphs, dynamic=dynamic)
    for count, n in enumerate((16, 48, 32), 1):
        for _ in range(2):
            oracles.widths(compiled(torch.ones(8, n)))
            assert len(graphs) <= count
    for n in (16, 32, 48):
        compiled(torch.ones(8, n))
    assert len(graphs) <= 3


@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("training", [True, False])
def test_another_batch_size_compiles_nothing_with_dynamic_shapes(graphs: Graphs, k: int | None, training: bool) -> None:
    layer = TailDropout(0.5, [0, 1]).train(training)
    layer.set_k(k)
    compiled = torch.compile(layer, fullgraph=True, backend=graphs, dynamic=True)
    for batch, length in ((3, 4), (5, 7), (30, 11), (2, 90)):
        output = compiled(torch.ones(batch, length, 16))
        assert output.shape == (batch, length, 16)
        widths = oracles.widths(output)
        assert (widths == 3).all() if k else (widths.unique().numel() > 1) is training
    assert len(graphs) == 1


def test_no_solver_arithmetic_in_the_graph(graphs: Graphs) -> None:
    layer = TailDropout(0.37)
    torch.compile(layer, fullgraph=True, backend=graphs)(torch.ones(8, 24))
    torch.compile(lambda x: tail_dropout(x, 0.37), fullgraph=True, backend=graphs)(torch.ones(8, 24))
    assert len(graphs) == 2
    for module in graphs.modules:
        calls = [node for node in module.graph.nodes if node.op.startswith("call")]
        assert len(calls) <= 24, module.code
        numbers = [node for node in calls if node.op == "call_function" and "math" in str(node.target)]
        assert not numbers


def test_changing_between_training_eval_and_k(graphs: Graphs) -> None:
    layer = TailDropout(0.5)
    compiled = torch.compile(layer, fullgraph=True, backend=graphs)
    input = torch.rand(64, 16) + 1
    for _ in range(3):
        layer.train()
        assert (compiled(input) == 0).any()
        layer.eval()
        assert torch.equal(compiled(input), input)
        layer.set_k(3)
        assert torch.equal(compiled(input), keep_first(input, 3))
        layer.set_k(None)
    assert len(graphs) <= 4


@DYNAMIC
def test_functional_forms_compile(graphs: Graphs, dynamic: bool | None) -> None:
    drop = torch.compile(tail_dropout, fullgraph=True, backend=graphs, dynamic=dynamic)
    for at, p in enumerate((0.5, 0.3, 0.7), 1):
        for _ in range(2):
            kept = oracles.widths(drop(torch.ones(4000, 16), p)).double().mean().item() / 16
            assert abs(kept - (1 - p)) < 5 * 0.5 / 4000**0.5
        assert len(graphs) <= at  # a new p at most once
    graphs.modules.clear()
    keep = torch.compile(keep_first, fullgraph=True, backend=graphs, dynamic=dynamic)
    for k in range(4):
        assert (oracles.widths(keep(torch.ones(8, 16), torch.tensor(k))) == k).all()
    assert len(graphs) == 1
    k = torch.arange(8).unsqueeze(1)
    assert torch.equal(oracles.widths(keep(torch.ones(8, 16), k)), k.flatten())


@DYNAMIC
def test_every_row_has_a_k_of_its_own(dynamic: bool | None) -> None:
    """Dynamo compares symbolic dims wrongly with `in`, which once made all rows share one k."""
    backend = "aot_eager"  # gets the same graph from dynamo as "eager"
    for each in (TailDropout(0.5), tail_dropout):
        compiled = torch.compile(each, fullgraph=True, backend=backend, dynamic=dynamic)
        assert oracles.widths(compiled(torch.ones(200, 16))).unique().numel() > 5
    tokens = torch.compile(TailDropout(0.5, [0, -2]), fullgraph=True, backend=backend, dynamic=dynamic)
    widths = oracles.widths(tokens(torch.ones(20, 30, 16)))
    assert not (widths == widths[:1]).all()
    assert not (widths == widths[:, :1]).all()
    for batch_dim in (0, 1):
        shared = torch.compile(TailDropout(0.5, batch_dim), fullgraph=True, backend=backend, dynamic=dynamic)
        widths = oracles.widths(shared(torch.ones(20, 30, 16)))
        assert (widths == widths.narrow(1 - batch_dim, 0, 1)).all()
        assert widths.unique().numel() > 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_inplace(dtype: torch.dtype) -> None:
    input = torch.ones(64, 16, dtype=dtype)
    layer = TailDropout(0.5, inplace=True)
    output = torch.compile(layer, fullgraph=True, backend="aot_eager")(input)
    assert output.dtype == dtype
    assert torch.equal(output, input)
    assert oracles.widths(input).unique().numel() > 5


def test_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        net = torch.compile(nn.Sequential(nn.Linear(4, 16), TailDropout()), fullgraph=True, backend="aot_eager")
        assert net(torch.ones(8, 4)).dtype == torch.bfloat16


@pytest.mark.usefixtures("compiler")
def test_at_small_p_compiled_code_reaches_every_k() -> None:
    """From one uniform on a grid of 2⁻²⁴, every K below n would lie on a grid of some 20 features."""
    p, n, samples = 1e-4, 65_536, 200_000
    layer = TailDropout(p)
    places = torch.arange(1.0, n + 1)
    compiled = torch.compile(lambda x: layer(x.expand(samples, n)).amax(1), fullgraph=True)
    small = compiled(places).double()
    small = small[small < n]
    turns = small * rate(p, n) * 2.0**24  # in steps of the grid: all of one phase if they lie on it, of any phase if not
    resultant = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns).mean().abs().item()
    assert len(small) > 25
    assert resultant < 4 / len(small) ** 0.5 < 0.8  # Rayleigh's test: falsely above with probability e^(−16)
    assert small.unique().numel() > 0.9 * len(small)


def export_problem() -> tuple[nn.Sequential, Tensor]:
    return nn.Sequential(nn.Linear(6, 16), TailDropout(), nn.Linear(16, 2)).eval(), torch.randn(5, 6)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("k", [None, 3, torch.tensor([1, 0, 16, 4, 5])], ids=["eval", "3", "per sample"])
def test_export(strict: bool, k: int | Tensor | None) -> None:
    net, input = export_problem()
    net[1].set_k(k)
    exported = torch.export.export(net, (input,), strict=strict).module()
    assert torch.equal(exported(input), net(input))
    if k is None:
        assert torch.equal(exported(input), net[2](net[0](input)))


def test_export_with_any_batch_size() -> None:
    net, input = export_problem()
    for k in (None, 3):
        net[1].set_k(k)
        exported = torch.export.export(net, (input,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
        for batch in (2, 5, 9):
            more = torch.randn(batch, 6)
            torch.testing.assert_close(exported(more), net(more))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_in_training_eval_and_at_k(mode: str) -> None:
    layer = TailDropout(0.5)
    input = torch.rand(300, 64) + 1
    compiled = torch.compile(layer, fullgraph=True, mode=mode)
    output = compiled(input).clone()  # without a warning: pytest makes an error of each
    widths = oracles.widths((output != 0).float())
    assert torch.equal(output, keep_first(input, widths.unsqueeze(1)))
    mean = 32 + 5 * 64 * 0.5 / 300**0.5
    assert 64 - mean < widths.double().mean() < mean
    layer.eval()
    assert torch.equal(compiled(input), input)
    for k in (3, 64, 0):
        layer.set_k(k)
        assert torch.equal(compiled(input), keep_first(input, k))


def derivative_is_the_mask(function: Callable[[Tensor], Tensor], shape: tuple[int, int]) -> None:
    """For a function that is x·mask, perhaps transposed."""
    leaf = (torch.rand(shape) + 1).requires_grad_()
    output = function(leaf)
    sent = torch.rand_like(output) + 1
    (received,) = torch.autograd.grad(output, leaf, sent)
    back = (lambda x: x) if output.shape == leaf.shape else Tensor.t
    assert torch.equal(back(output), torch.where(received != 0, leaf, 0))
    assert torch.equal(received, torch.where(back(output) != 0, back(sent), 0))
    oracles.widths((received != 0).float())
    assert 0 < (received == 0).sum() < received.numel()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("shape", [(30, 64), (300, 512)], ids=["small", "large"])
@pytest.mark.parametrize("inside", ["plain", "transposed", "materialised transpose", "checkpoint", "checkpoint, transposed"])
def test_compiled_backward_uses_the_mask_of_forward(inside: str, shape: tuple[int, int]) -> None:
    """pytorch#198333 reports other masks after a materialised transpose, for CUDA since 2.13."""
    layer = TailDropout(0.5)
    bodies = {
        "plain": lambda x: layer(x * 1.0),
        "transposed": lambda x: layer(x).t() * 1.0,
        "materialised transpose": lambda x: layer(x * 1.0).t().contiguous(),
        "checkpoint": lambda x: checkpoint(lambda y: layer(y * 1.0), x, use_reentrant=False),
        "checkpoint, transposed": lambda x: checkpoint(lambda y: layer(y * 1.0).t().contiguous(), x, use_reentrant=False),
    }
    body = bodies[inside]
    derivative_is_the_mask(body, shape)  # eager
    derivative_is_the_mask(torch.compile(body, fullgraph=True), shape)


@pytest.mark.usefixtures("compiler")
def test_a_compiled_network_trains_and_keeps_nan_out() -> None:
    net = nn.Sequential(nn.Linear(4, 16), TailDropout(0.5), nn.Linear(16, 1))
    compiled = torch.compile(net, fullgraph=True)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    input = torch.randn(64, 4)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (compiled(input) - input.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    bad = torch.full((64, 16), float("nan"), requires_grad=True)
    layer = TailDropout()
    layer.set_k(0)
    output = torch.compile(layer, fullgraph=True)(bad)
    output.sum().backward()
    assert not output.any()
    assert not bad.grad.any()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dynamic", [None, True])
def test_generated_code_draws_the_law(dynamic: bool | None) -> None:
    """Shares of every k within 5 standard errors; the exact test is in test_law.py."""
    n, samples = 4, 100_000
    for each in (TailDropout(0.5), tail_dropout):
        widths = oracles.widths(torch.compile(each, fullgraph=True, dynamic=dynamic)(torch.ones(samples, n)))
        for k, share in enumerate(oracles.pmf(0.5, n)):
            error = (share * (1 - share) / samples) ** 0.5
            assert abs((widths == k).double().mean().item() - share) < 5 * error
