"""TailMLP among what surrounds it: hooks, other modules, copies, narrow types, compilation, derivatives, checkpointing."""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from blocks import N, assert_same, block, computed, trained
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from benchmarks.suite.feedforward import FeedForward
from benchmarks.suite.measure import peak_bytes, saved_bytes
from taildropout import GatedTailMLP, TailDropout, TailMLP
from taildropout.mlp import cost
from taildropout.mlp.ragged import Ragged

__all__ = ["computed"]  # a fixture


class OwnLinear(nn.Linear):
    """Not torch's."""


def test_a_hook_on_a_module_fires(computed: list[Ragged]) -> None:
    input = torch.randn(40, 5, dtype=torch.float64, requires_grad=True)
    fired: list[str] = []

    def hook(*_: object) -> None:
        fired.append("hook")

    hangs = ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]
    for at in range(4):
        for hang in [*hangs, "register_full_backward_pre_hook"]:
            net = block()
            getattr(net[at], hang)(hook)
            net(input).sum().backward()
            assert len(fired) == 1, f"{hang} of {net[at]}"
            fired.clear()
    for hang in hangs:
        handle = getattr(nn.modules.module, hang.replace("register_", "register_module_"))(hook)
        block()(input).sum().backward()
        handle.remove()
        assert len(fired) >= 4, hang
        fired.clear()
    net = block()
    net[0].forward = lambda x: fired.append("forward") or nn.functional.linear(x, net[0].weight)
    net(input)
    assert fired == ["forward"]
    assert not computed
    net = block()
    net.register_forward_hook(hook)  # of the block itself
    net(input)
    assert len(fired) == 2
    assert len(computed) == 1


def test_other_modules_in_their_place_are_called(computed: list[Ragged]) -> None:
    input = torch.randn(40, 5, dtype=torch.float64)
    for at, other in (
        (0, OwnLinear(5, N)),
        (1, nn.Softmax(-1)),
        (2, nn.Dropout(0.5)),
        (3, OwnLinear(N, 4)),
        (2, nn.Identity()),
    ):
        net = block()
        net[at] = other.double()
        assert_same(net, input)
    net = block().append(nn.ReLU())
    assert_same(net, input)
    net = block()
    net[2] = TailDropout(0.5, 1, 0)
    assert_same(net, input)
    net = block()
    parametrize.register_parametrization(net[0], "weight", nn.Tanh())
    net(input).sum().backward()
    assert not computed
    net = block()
    net[1], net[0], net[3] = nn.SiLU(), nn.Linear(5, 9).double(), nn.Linear(9, 2).double()  # as pruned
    assert_same(net, input)
    assert len(computed) == 1


def test_the_state_dict_is_that_of_the_sequential() -> None:
    net = block()
    assert list(net.state_dict()) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    plain = nn.Sequential(nn.Linear(5, N), nn.GELU(), nn.Dropout(), nn.Linear(N, 4)).double()
    net.load_state_dict(plain.state_dict())
    input = torch.randn(3, 5, dtype=torch.float64)
    assert torch.equal(net.eval()(input), plain.eval()(input))


def saved_and_loaded(net: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net)), saved_and_loaded])
def test_a_copy_does_the_same(copied: Callable[[TailMLP], TailMLP], computed: list[Ragged]) -> None:
    net, input = block(), torch.randn(40, 5, dtype=torch.float64)
    net(input)
    twin = copied(net)
    torch.manual_seed(1)
    wanted = net(input)
    torch.manual_seed(1)
    assert torch.equal(twin(input), wanted)
    assert type(twin) is TailMLP
    assert len(computed) == 3


def test_compiled_it_is_the_plain_block_in_one_graph(computed: list[Ragged]) -> None:
    torch._dynamo.reset()
    net, input = block(), torch.randn(40, 5, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for k in (3, N, torch.randint(N + 1, (40,))):
        net[2].set_k(k)
        weights = list(net.parameters())
        torch.testing.assert_close(trained(compiled, weights, input), trained(net, weights, input))
    net[2].set_k(None)
    assert compiled(input).shape == (40, 4)
    assert len(computed) == 3


@pytest.mark.parametrize("k", [torch.tensor([2, N, 9]), 6], ids=["each its own", "shared"])
def test_derivatives_of_every_kind(k: Tensor | int, computed: list[Ragged]) -> None:
    net = block(nn.Tanh())
    net[2].set_k(k)
    input = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    weights = dict(net.named_parameters())
    loss, all_of_it = net(input).pow(2).sum(), [*weights.values(), input]
    first = torch.autograd.grad(loss, all_of_it, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, all_of_it, create_graph=True), first)

    def of_all(input: Tensor, *values: Tensor) -> Tensor:
        return functional_call(net, dict(zip(weights, values, strict=True)), (input,))

    assert torch.autograd.gradcheck(of_all, (input, *weights.values()), fast_mode=True)
    assert torch.autograd.gradgradcheck(of_all, (input, *weights.values()), fast_mode=True)
    assert computed
    computed.clear()
    plain = nn.Sequential(*net)
    x, tangent = input.detach(), torch.randn_like(input)
    torch.testing.assert_close(grad(lambda x: net(x).square().sum())(x), grad(lambda x: plain(x).square().sum())(x))
    torch.testing.assert_close(jvp(net, (x,), (tangent,)), jvp(plain, (x,), (tangent,)))
    torch.testing.assert_close(vmap(net)(torch.stack([x, tangent])), vmap(plain)(torch.stack([x, tangent])))
    with forward_ad.dual_level():
        duals = [forward_ad.unpack_dual(each(forward_ad.make_dual(x, tangent))).tangent for each in (net, plain)]
    torch.testing.assert_close(*duals)
    assert not computed


@pytest.mark.parametrize("k", [None, 6], ids=["each its own", "shared"])
def test_weights_that_are_shared_have_differentiable_gradients_too(k: int | None, computed: list[Ragged]) -> None:
    """Within the block, and with an input that was computed with the same weights."""
    gated = GatedTailMLP(N, N, N, activation=nn.SiLU(), p=0.5).double()
    net = TailMLP(N, N, N, activation=nn.GELU(), p=0.5).double()
    gated.up_proj.weight, net[3].weight = gated.gate_proj.weight, net[0].weight
    input = torch.randn(40, N, dtype=torch.float64, requires_grad=True)
    for each, dropout in ((gated, gated.dropout), (net, net[2])):
        dropout.set_k(k)
        loss, weights = each(each(input)).pow(2).sum(), [*each.parameters(), input]
        first = torch.autograd.grad(loss, weights, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(loss, weights, create_graph=True), first)
    assert len(computed) == 4
    net[2].set_k(6)  # so that some features are in no block
    for seed in range(3):
        assert_same(net, input, seed)


def test_backward_twice_and_after_a_change(computed: list[Ragged]) -> None:
    net, input = block(), torch.randn(40, 5, dtype=torch.float64)
    output = net(input).sum()
    first = torch.autograd.grad(output, list(net.parameters()), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(output, list(net.parameters())), first, rtol=0, atol=0)
    output = net(input).sum()
    with torch.no_grad():
        net[0].weight.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()
    assert len(computed) == 2


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_computes_the_same_again(reentrant: bool, computed: list[Ragged]) -> None:
    net = block()
    input = torch.randn(40, 5, dtype=torch.float64, requires_grad=True)
    weights = [*net.parameters(), input]
    found = []
    for through in (lambda: net(input), lambda: checkpoint(net, input, use_reentrant=reentrant)):
        torch.manual_seed(0)
        output = through()
        torch.rand(3)  # whatever is drawn in between
        for each in weights:
            each.grad = None
        output.pow(2).sum().backward()
        found.append([output.detach(), *(each.grad for each in weights)])
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert torch.equal(computed[0].k, computed[2].k)


def test_without_gradients_nothing_is_kept(computed: list[Ragged]) -> None:
    net, input = block(), torch.randn(40, 5, dtype=torch.float64)
    net[2].set_k(6)
    wanted = net(input)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            assert not (output := net(input)).requires_grad
        assert torch.equal(output, wanted)
    net.requires_grad_(False)
    assert saved_bytes(lambda: net(input)) == 0
    assert len(computed) == 4


def test_without_gradients_one_block_lives_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "blocks_that_pay", lambda *_: 16)
    net, input = TailMLP(16, 2048, 16, activation=nn.GELU(), p=0.5), torch.randn(512, 16)
    with torch.no_grad():
        assert peak_bytes(lambda: net(input), "cpu") < 512 * 2048 * 4 / 3


def test_it_keeps_less_for_backward() -> None:
    """The plain block without dropout keeps the hidden features before and after the activation."""
    net = TailMLP(256, 1024, 256, activation=nn.GELU(), p=0.5)
    input = torch.randn(1024, 256)
    besides = input, *net.parameters()
    plain = nn.Sequential(net[0], net[1], net[3])
    kept = [saved_bytes(lambda each=each: each(input), besides) for each in (net, plain)]
    assert kept[0] < 0.35 * kept[1], kept


def test_the_suite_sees_what_is_kept() -> None:
    assert FeedForward().track_saved_over_no_dropout("feedforward-512x1024-f32-train") < 0.35


class OnlyFor(nn.ReLU):
    """A ReLU that raises an error unless its input has the block's number of hidden features."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self.error = error

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[-1] != N:
            raise self.error
        return super().forward(input)


@pytest.mark.parametrize("error", [AssertionError, TypeError, IndexError, NotImplementedError])
def test_an_activation_that_refuses_the_trial_is_the_plain_block(error: type[Exception], computed: list[Ragged]) -> None:
    assert_same(block(OnlyFor(error)), torch.randn(40, 5, dtype=torch.float64))
    assert not computed


@pytest.mark.parametrize("gated", [False, True])
def test_many_gradients_at_once(gated: bool, computed: list[Ragged]) -> None:
    """`is_grads_batched` calls backward under a vmap that is not functorch's."""
    net = GatedTailMLP(5, N, 4, activation=nn.SiLU(), p=0.5).double() if gated else block()
    input = torch.randn(40, 5, dtype=torch.float64, requires_grad=True)
    output, wanted = net(input), [input, *net.parameters()]
    grads = torch.randn(3, *output.shape, dtype=torch.float64)
    found = torch.autograd.grad(output, wanted, grads, is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(output, wanted, each, retain_graph=True) for each in grads]
    torch.testing.assert_close(found, tuple(torch.stack(each) for each in zip(*one_by_one, strict=True)))
    assert not any(each.requires_grad for each in found)
    assert len(computed) == 1


def test_the_output_of_rows_is_no_view(computed: list[Ragged]) -> None:
    assert not block()(torch.randn(40, 5, dtype=torch.float64))._is_view()
    assert len(computed) == 1
