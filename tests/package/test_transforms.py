"""Derivatives of every kind, function transforms and checkpointing: each of them linear in the same mask."""

from collections.abc import Callable

import oracles
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from taildropout import TailDropout, keep_first, tail_dropout
from taildropout.selection import dispatch as selection

SMALL, LARGE = (8, 16), (200, 512)
SIZES = pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
PATHS = pytest.mark.parametrize("save_only_k_from", [0, 10**9], ids=["saves k", "saves a mask"])


@pytest.fixture
def path(save_only_k_from: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "SAVE_ONLY_K_FROM", save_only_k_from)


def layer_at(k: int | Tensor | None, **options: object) -> TailDropout:
    layer = TailDropout(**options)
    layer.set_k(k)
    return layer


@PATHS
@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradcheck_of_first_and_second_order_in_both_directions(dtype: torch.dtype) -> None:
    k = torch.tensor([[0], [2], [5]])
    input = torch.randn(3, 5, dtype=dtype, requires_grad=True)
    for each in (lambda x: keep_first(x, k), lambda x: keep_first(x.t(), 2, 0), layer_at(torch.tensor([1, 3, 0]))):
        assert torch.autograd.gradcheck(each, input, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(each, input)
    for inplace in (False, True):
        each = layer_at(2, inplace=inplace)
        assert torch.autograd.gradcheck(lambda x, each=each: each(x * x), input)
        assert torch.autograd.gradgradcheck(lambda x, each=each: each(x * x), input)


@SIZES
@pytest.mark.parametrize("inplace", [False, True])
def test_double_backward_uses_the_mask_of_forward(shape: tuple[int, int], inplace: bool) -> None:
    leaf = (torch.rand(shape, dtype=torch.float64) + 1).requires_grad_()
    output = tail_dropout(leaf * 1, 0.5, inplace=inplace)
    kept = (output != 0).double()
    (first,) = torch.autograd.grad((output**3).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), leaf)
    torch.testing.assert_close(first, 3 * leaf**2 * kept)
    torch.testing.assert_close(second, 36 * leaf**3 * kept)
    assert not second[kept == 0].any()


@SIZES
def test_the_gradient_of_a_dropped_feature_is_exactly_0(shape: tuple[int, int]) -> None:
    leaf = torch.randn(shape, requires_grad=True)
    output = tail_dropout(leaf, 0.5)
    output.backward(torch.full(shape, float("nan")))
    gone = output.detach() == 0
    assert gone.any()
    assert torch.equal(leaf.grad[gone], torch.zeros(int(gone.sum())))
    assert leaf.grad[~gone].isnan().all()


@SIZES
def test_grad_jvp_and_vjp(shape: tuple[int, int]) -> None:
    input, tangent = torch.randn(shape), torch.randn(shape)
    layer = layer_at(5)
    wanted = keep_first(input, 5)
    assert torch.equal(grad(lambda x: (layer(x) ** 2).sum())(input), 2 * wanted)
    output, moved = jvp(layer, (input,), (tangent,))
    assert torch.equal(output, wanted)
    assert torch.equal(moved, keep_first(tangent, 5))
    assert torch.equal(vjp(layer, input)[1](tangent)[0], keep_first(tangent, 5))
    assert torch.equal(grad(lambda x: grad(lambda y: (layer(y) ** 3).sum())(x).sum())(input), 6 * wanted)
    with forward_ad.dual_level():
        dual = layer(forward_ad.make_dual(input, tangent))
        assert torch.equal(forward_ad.unpack_dual(dual).tangent, keep_first(tangent, 5))
    stays = jvp(TailDropout(), (torch.ones(shape),), (torch.ones(shape),))
    assert torch.equal(*stays)  # one random mask for both
    oracles.widths(stays[0])


@PATHS
@pytest.mark.usefixtures("path")
def test_jacobians(save_only_k_from: int) -> None:
    input = torch.randn(2, 4)
    wanted = torch.diag(torch.tensor([1.0, 1, 1, 0, 1, 1, 1, 0])).reshape(2, 4, 2, 4)
    for jacobian in (jacrev, jacfwd):
        assert torch.equal(jacobian(lambda x: keep_first(x, 3))(input), wanted)


@SIZES
def test_vmap_of_the_layer_at_k(shape: tuple[int, int]) -> None:
    batch = torch.randn(4, *shape)
    per_sample = torch.randint(0, shape[1] + 1, shape[:1])
    for k in (5, per_sample):
        layer = layer_at(k)
        wanted = torch.stack([layer(each) for each in batch])
        assert torch.equal(vmap(layer)(batch), wanted)
        assert torch.equal(vmap(layer, in_dims=1)(batch.transpose(0, 1).contiguous()), wanted)
        assert torch.equal(vmap(layer, out_dims=2)(batch), wanted.movedim(0, 2))
        assert torch.equal(vmap(grad(lambda x, layer=layer: (layer(x) ** 2).sum()))(batch), 2 * wanted)


@SIZES
def test_vmap_over_k(shape: tuple[int, int]) -> None:
    batch = torch.randn(4, *shape)
    widths, rows = torch.arange(4), torch.randint(0, shape[1], (4, shape[0], 1))
    wanted = torch.stack([keep_first(x, k) for x, k in zip(batch, widths, strict=True)])
    assert torch.equal(vmap(keep_first)(batch, widths), wanted)
    wanted = torch.stack([keep_first(batch[0], k) for k in widths])
    assert torch.equal(vmap(lambda k: keep_first(batch[0], k))(widths), wanted)  # a scree
    wanted = torch.stack([keep_first(x, k) for x, k in zip(batch, rows, strict=True)])
    assert torch.equal(vmap(keep_first, in_dims=(1, 1))(batch.transpose(0, 1).contiguous(), rows.transpose(0, 1)), wanted)
    twice = vmap(vmap(keep_first, in_dims=(None, 0)), in_dims=(0, None))(batch, widths)
    assert torch.equal(twice, torch.stack([torch.stack([keep_first(x, k) for k in widths]) for x in batch]))


@SIZES
def test_vmap_of_the_random_layer(shape: tuple[int, int]) -> None:
    batch = torch.ones(3, *shape)
    for layer in (TailDropout(), tail_dropout):
        widths = oracles.widths(vmap(layer, randomness="different")(batch))
        assert not torch.equal(widths[0], widths[1])
        widths = oracles.widths(vmap(layer, randomness="same")(batch))
        assert torch.equal(widths[0], widths[1])
        assert widths[0].unique().numel() > 2
        with pytest.raises(RuntimeError, match="randomness"):
            vmap(layer)(batch)


@SIZES
def test_per_sample_gradients(shape: tuple[int, int]) -> None:
    """The usual recipe: vmap of grad of functional_call."""
    net = torch.nn.Sequential(torch.nn.Linear(4, shape[1]), layer_at(3, batch_dim=()), torch.nn.Linear(shape[1], 1))
    weights = {name: each.detach() for name, each in net.named_parameters()}
    inputs = torch.randn(5, 4)
    got = vmap(grad(lambda w, x: functional_call(net, w, (x,)).sum()), in_dims=(None, 0))(weights, inputs)
    for at, each in enumerate(inputs):
        net.zero_grad()
        net(each).sum().backward()
        torch.testing.assert_close(got["0.weight"][at], net[0].weight.grad)
        assert not got["0.weight"][at, 3:].any()


@SIZES
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
def test_activation_checkpointing_draws_the_same_mask_again(shape: tuple[int, int], reentrant: bool, inplace: bool) -> None:
    layer = TailDropout(0.5, inplace=inplace)
    blocks: list[Callable[[Tensor], Tensor]] = [
        lambda x: layer(x * 1),
        lambda x: layer(x * 1).t().contiguous().t(),
        lambda x: layer(layer(x.sin())),
    ]
    for at, block in enumerate(blocks):
        leaf = (torch.rand(shape) + 1).requires_grad_()
        output = checkpoint(block, leaf, use_reentrant=reentrant)
        torch.rand(3)  # whatever is drawn in between
        (received,) = torch.autograd.grad(output.sum(), leaf) if not reentrant else backward(output, leaf)
        wanted = torch.where(output != 0, leaf.cos() if at == 2 else 1.0, 0.0)
        torch.testing.assert_close(received, wanted, rtol=0, atol=0)


def backward(output: Tensor, leaf: Tensor) -> tuple[Tensor | None]:
    output.sum().backward()
    return (leaf.grad,)


def test_checkpoint_sequential() -> None:
    net = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Identity(), TailDropout(0.2)) for _ in range(4)))
    leaf = torch.ones(50, 30, requires_grad=True)
    output = checkpoint_sequential(net, 2, leaf, use_reentrant=False)
    output.sum().backward()
    assert torch.equal(leaf.grad, output.detach())


def test_the_mean_gradient_is_that_of_the_mean_loss() -> None:
    """With p = 1/2 of 2 features: a check of what reaches the weights; the law at large is tested elsewhere."""
    leaf = torch.ones(200_000, 2, requires_grad=True)
    tail_dropout(leaf, 0.5).sum().backward()
    law = oracles.pmf(0.5, 2)
    for feature, share in enumerate((law[1] + law[2], law[2])):
        error = (share * (1 - share) / len(leaf)) ** 0.5
        assert abs(leaf.grad[:, feature].mean().item() - share) < 5 * error
