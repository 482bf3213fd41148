"""GatedTailMLP is its modules one after the other, only cheaper."""

import copy

import pytest
import torch
from blocks import N, computed, trained
from torch import Tensor, nn

from taildropout import GatedTailMLP, TailDropout, at_k, prune, scree
from taildropout.mlp import compiled, skipping
from taildropout.mlp.ragged import Ragged

__all__ = ["computed"]  # a fixture


class Plain(nn.Module):
    """The formula, written again, with the modules of a block."""

    def __init__(self, block: GatedTailMLP) -> None:
        super().__init__()
        self.block = block

    def forward(self, input: Tensor) -> Tensor:
        block = self.block
        return block.down_proj(block.dropout(block.activation(block.gate_proj(input)) * block.up_proj(input)))


def gated(activation: nn.Module | None = None, p: float = 0.5, **options: object) -> GatedTailMLP:
    """5 features to N to 4, in float64."""
    return GatedTailMLP(5, N, 4, activation=activation or nn.SiLU(), p=p, **options).double()


def rows(*sizes: int) -> Tensor:
    return torch.randn(*(sizes or (40,)), 5, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("activation", [nn.SiLU(), nn.GELU(), nn.Sigmoid(), nn.Identity(), nn.ReLU(inplace=True)], ids=repr)
@pytest.mark.parametrize("bias", [False, True])
def test_it_equals_its_modules(activation: nn.Module, bias: bool, computed: list[Ragged]) -> None:
    net = gated(activation, bias=bias)
    weights = list(net.parameters())
    for input in (rows(), rows(3, 7)):
        torch.testing.assert_close(trained(net, weights, input), trained(Plain(net), weights, input))
    for k in (0, 6, N, torch.randint(N + 1, (40,))):
        net.dropout.set_k(k)
        input = rows()
        torch.testing.assert_close(trained(net, weights, input), trained(Plain(net), weights, input))
        with at_k(net, k), torch.no_grad():
            torch.testing.assert_close(net.eval()(input), Plain(net)(input))
            net.train()
    assert len(computed) == 2 + 4 * 2


def test_derivatives_and_frozen_weights(computed: list[Ragged]) -> None:
    net = gated(nn.Tanh(), bias=True)
    net.dropout.set_k(torch.tensor([2, N, 9]))
    assert torch.autograd.gradcheck(net, rows(3), fast_mode=True)
    assert torch.autograd.gradgradcheck(net, rows(3), fast_mode=True)
    for frozen, _ in list(net.named_parameters()):
        for name, weight in net.named_parameters():
            weight.requires_grad_(name != frozen)
        input = rows(3).detach()
        found = []
        for each in (net, Plain(net)):
            found.append(torch.autograd.grad(each(input).pow(3).sum(), [w for w in net.parameters() if w.requires_grad]))
        torch.testing.assert_close(*found)
    assert len(computed) > 7


def test_hooks_and_other_modules_get_what_they_would(computed: list[Ragged]) -> None:
    seen: list[str] = []
    for name in ("gate_proj", "up_proj", "activation", "dropout", "down_proj"):
        net = gated()
        getattr(net, name).register_forward_hook(lambda *_, name=name: seen.append(name))
        net(rows())
    assert seen == ["gate_proj", "up_proj", "activation", "dropout", "down_proj"]
    net = gated()
    net.up_proj = nn.Sequential(net.up_proj)
    input, weights = rows(), list(net.parameters())
    torch.testing.assert_close(trained(net, weights, input), trained(Plain(net), weights, input))
    assert not computed
    net = gated()
    net.up_proj = nn.Linear(5, N - 1).double()
    with pytest.raises(RuntimeError, match="size"):
        net(rows())


def test_compiled_it_is_one_operator_and_the_same(monkeypatch: pytest.MonkeyPatch, computed: list[Ragged]) -> None:
    monkeypatch.setattr(compiled, "_SMALL", 0)
    torch._dynamo.reset()
    net, input = gated(), rows()
    weights = list(net.parameters())
    operators = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        from torch._dynamo.backends.debugging import aot_eager

        operators.append(sum("ragged_mlp" in str(node.target) for node in graph.graph.nodes))
        return aot_eager(graph, inputs)

    call, plain = (torch.compile(each, fullgraph=True, backend=backend) for each in (net, Plain(net)))
    torch.testing.assert_close(trained(call, weights, input), trained(plain, weights, input))
    assert operators == [1, 0]
    torch._dynamo.reset()


def test_its_checkpoint_has_the_names_of_todays_models() -> None:
    assert list(gated().state_dict()) == ["gate_proj.weight", "up_proj.weight", "down_proj.weight"]
    twin = copy.deepcopy(net := gated(bias=True))
    assert [name for name in twin.state_dict() if "bias" in name] == ["gate_proj.bias", "up_proj.bias", "down_proj.bias"]
    assert torch.equal(twin.eval()(input := rows()), net.eval()(input))
    assert isinstance(net.dropout, TailDropout)
    assert net.dropout.batch_dim is None


def test_scree_and_prune_take_it() -> None:
    torch.manual_seed(0)
    net, input = GatedTailMLP(6, 8, 3, activation=nn.SiLU(), p=0.5).eval(), torch.randn(20, 6)
    with at_k(net, 3):
        wanted = net(input)
    target = torch.zeros(20, 3)
    losses = scree(net, net.dropout, [(input, target)], nn.functional.mse_loss)
    assert abs(losses[3] - wanted.square().mean().item()) < 1e-6
    small = prune(net, {"dropout": 3}, input)
    torch.testing.assert_close(small(input), wanted)
    assert small.up_proj.weight.shape == small.gate_proj.weight.shape == (3, 6)


def test_errors_are_those_of_tail_mlp() -> None:
    with pytest.raises(TypeError, match=r"nn\.GELU\(\)"):
        GatedTailMLP(5, N, 4, activation=torch.relu, p=0.5)
    with pytest.raises(TypeError, match="bias='no' has type str; give True or False"):
        GatedTailMLP(5, N, 4, activation=nn.SiLU(), p=0.5, bias="no")
    with pytest.raises(ValueError, match="hidden_features=0"):
        GatedTailMLP(5, 0, 4, activation=nn.SiLU(), p=0.5)


def test_it_skips_at_its_own_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skipping, "ragged_product", lambda *_: torch.zeros(1024, 256))
    net = GatedTailMLP(256, 1024, 256, activation=nn.SiLU(), p=0.5)
    assert not net(torch.randn(1024, 256)).any()
    assert net.eval()(torch.randn(1024, 256)).any()
