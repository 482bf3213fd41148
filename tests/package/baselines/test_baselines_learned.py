"""LearnedDropout against attention and gradients written out, and the exactness of its mask."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from taildropout.baselines import LearnedDropout

RARE = 1e-6  # the false-alarm rate of a statistical test here; seeds are fixed


def attention(layer: LearnedDropout, input: Tensor) -> Tensor:
    """Head by head and position by position, of a (T, C) input."""
    size = layer.embed_dim // layer.n_head
    query, key, value = (input @ part.T for part in layer.qkv.weight.chunk(3))
    if layer.qkv.bias is not None:
        query, key, value = (a + b for a, b in zip((query, key, value), layer.qkv.bias.chunk(3), strict=True))
    rows = []
    for t in range(len(input)):
        seen = slice(0, t + 1 if layer.causal else len(input))
        heads = [slice(start, start + size) for start in range(0, layer.embed_dim, size)]
        rows.append(torch.cat([(key[seen, h] @ query[t, h] / math.sqrt(size)).softmax(0) @ value[seen, h] for h in heads]))
    return torch.stack(rows)


def made(causal: bool = False, bias: bool = False, shift: Tensor | float = 1.2) -> LearnedDropout:
    layer = LearnedDropout(6, 2, 0.0, bias, causal=causal).double()
    with torch.no_grad():
        layer.qkv.weight.normal_()
        layer.shift.copy_(torch.as_tensor(shift).expand(6))
    return layer


def halves(layer: LearnedDropout, input: Tensor) -> tuple[Tensor, Tensor]:
    """M, and its derivative by what the cosine is of, of a (T, C) input and 0 ≤ shift ≤ π."""
    angle = attention(layer, input) + layer.shift
    return (1 + angle.cos()) / 2, -angle.sin() / 2


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_probability_is_the_cosine_of_attention(causal: bool, bias: bool) -> None:
    layer, input = made(causal, bias), torch.randn(2, 3, 7, 6, dtype=torch.float64)
    probability = layer.probability(input)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(probability[i, j], halves(layer, input[i, j])[0])
    torch.testing.assert_close(layer.probability(input[0, 0]), probability[0, 0])


def test_a_causal_mask_sees_no_later_position_and_the_other_sees_all() -> None:
    input = torch.randn(7, 6, dtype=torch.float64)
    changed = torch.cat([input[:5], input[5:] + 1])
    layer = made(causal=True)
    torch.testing.assert_close(layer.probability(changed)[:5], layer.probability(input)[:5])
    assert not torch.isclose(layer.probability(changed)[5:], layer.probability(input)[5:]).any()
    assert not torch.isclose(made().probability(changed)[:5], made().probability(input)[:5]).all()


def test_the_mask_depends_on_the_input() -> None:
    layer = LearnedDropout(32, 4, shift_init=math.pi / 2).eval()
    a, b = torch.randn(2, 20, 32)
    assert ((layer(a) != 0) != (layer(b) != 0)).float().mean() > 0.2


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_are_exactly_0_and_1(training: bool, autocast: torch.dtype | None, compiled: bool, dtype: torch.dtype) -> None:
    torch.compiler.reset()
    layer = LearnedDropout(64, 4).to(dtype).train(training)
    torch.nn.init.uniform_(layer.shift, 0, math.pi)
    call = torch.compile(layer, fullgraph=True, backend="aot_eager") if compiled else layer
    input = torch.randn(8, 50, 64).to(dtype)
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        output = call(input)
    kept = output != 0
    assert torch.equal(output, torch.where(kept, input, 0))
    assert 0.2 < kept.float().mean() < 0.8
    torch.testing.assert_close(layer.share_of_ones, kept.float().mean())


def test_rounding_is_up_with_probability_m() -> None:
    layer = LearnedDropout(64, 4, shift_init=1.0)
    with torch.no_grad():
        layer.shift.uniform_(0, math.pi)
    input = torch.randn(1, 30, 64).add(0.01)
    ones = sum((layer(input) != 0).double() for _ in range(500))
    probability = layer.probability(input).detach().double()
    z = (ones - 500 * probability) / (500 * probability * (1 - probability)).sqrt()
    # The mean square of 1920 standardised binomials: of 500 draws each, so nearly normal.
    statistic = z.square().sum().item()
    assert RARE < scipy.stats.chi2.cdf(statistic, z.numel()) < 1 - RARE


def test_rounding_in_evaluation_is_at_one_half() -> None:
    layer, input = made().eval(), torch.randn(40, 6, dtype=torch.float64)
    assert torch.equal(layer(input), torch.where(layer.probability(input) >= 0.5, input, 0))
    with torch.no_grad():
        layer.qkv.weight.zero_()
        layer.shift.fill_(math.pi / 2)
        assert (layer.probability(input) >= 0.5).all()  # cos(π/2) is 6e-17 in floats
        assert torch.equal(layer(input), input)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
@pytest.mark.parametrize(("shift", "kept"), [(0.0, 1.0), (math.pi, 0.0)])
def test_a_certain_mask_is_never_rounded_the_other_way(
    uniform: float, shift: float, kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = LearnedDropout(64, 4, shift_init=shift)
    torch.nn.init.zeros_(layer.qkv.weight)
    monkeypatch.setattr(torch, "rand_like", lambda tensor: torch.full_like(tensor, uniform))  # either end of its range
    assert (layer(torch.ones(5, 64)) == kept).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shift", [0.0, 1.2])
def test_backward_takes_the_rounded_mask_for_m(training: bool, causal: bool, shift: float) -> None:
    layer, input = made(causal, True, shift).train(training), torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(7, 6, dtype=torch.float64)
    output = layer(input)
    mask = (output != 0).double()
    found = torch.autograd.grad(output, [input, layer.qkv.weight, layer.qkv.bias, layer.shift], upstream)
    # By hand: dL/dM = upstream ⊙ x also where the mask is 0, then through M; and dL/dx = upstream ⊙ mask beside it.
    probability, slope = halves(layer, input)
    by_angle = (upstream * input * slope).detach()
    through = torch.autograd.grad(attention(layer, input), [input, layer.qkv.weight, layer.qkv.bias], by_angle)
    torch.testing.assert_close(found[0], through[0] + upstream * mask)
    torch.testing.assert_close(found[1], through[1])
    torch.testing.assert_close(found[2], through[2])
    torch.testing.assert_close(found[3], by_angle.sum(0))
    assert probability.shape == mask.shape


def test_the_penalty_is_that_of_the_last_forward_and_differentiable() -> None:
    layer = made()
    a, b = torch.randn(2, 7, 6, dtype=torch.float64)
    layer(a)
    layer(b)
    torch.testing.assert_close(layer.penalty(), (halves(layer, b)[0] ** 2 / 2).mean())

    def penalty(input: Tensor, *_: Tensor) -> Tensor:
        layer(input)
        return layer.penalty()

    assert torch.autograd.gradcheck(penalty, (b.requires_grad_(), *layer.parameters()))


def test_the_penalty_goes_through_compiled_code() -> None:
    torch.compiler.reset()
    layer, input = LearnedDropout(16, 2, 1.0), torch.randn(3, 5, 16)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    gradients = []
    for call in (layer, compiled):
        call(input)
        gradients.append(torch.autograd.grad(layer.penalty(), layer.shift)[0])
    assert gradients[0].any()
    torch.testing.assert_close(*gradients)


def test_training_by_the_penalty_drops_features() -> None:
    layer = LearnedDropout(16, 4)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    input = torch.randn(4, 10, 16)
    layer(input)
    before = layer.share_of_ones
    for _ in range(100):
        layer(input)
        optimizer.zero_grad()
        layer.penalty().backward()
        optimizer.step()
    assert before > 0.9
    assert layer.share_of_ones < 0.2  # so B leaves 0, where it starts at the end of its interval


def test_b_stays_between_0_and_pi() -> None:
    layer = made(shift=torch.tensor([0.0, 0.4, -0.4, math.pi + 0.3, -math.pi - 0.3, 2 * math.pi + 0.1]))
    with torch.no_grad():
        layer.qkv.weight.zero_()
    expected = torch.tensor([0.0, 0.4, 0.4, math.pi - 0.3, math.pi - 0.3, 0.1], dtype=torch.float64)
    torch.testing.assert_close(layer.probability(torch.ones(1, 6).double())[0], (1 + expected.cos()) / 2)
    with torch.no_grad():
        layer.qkv.weight.normal_()
    torch.testing.assert_close(layer.probability(torch.ones(2, 6).double()), reflected(layer, expected))


def reflected(layer: LearnedDropout, shift: Tensor) -> Tensor:
    """M with this B in the place of the layer's."""
    return (1 + (attention(layer, torch.ones(2, 6, dtype=torch.float64)) + shift).cos()) / 2


def test_sizes_may_be_integers_of_numpy() -> None:
    assert repr(LearnedDropout(np.int64(8), np.int32(2))) == repr(LearnedDropout(8, 2))


def test_arguments_that_do_not_fit_are_refused() -> None:
    for arguments, message in [
        ((10, 3), "n_head=3 does not divide embed_dim=10"),
        ((0, 1), "embed_dim=0; give 1 or more"),
        ((4, -2), "n_head=-2; give 1 or more"),
        ((4, 2, 3.2), r"shift_init=3.2 is outside \[0, π\]"),
        ((4, 2, -0.1), r"shift_init=-0.1 is outside \[0, π\]"),
        ((4, 2, float("nan")), "shift_init=nan is outside"),
    ]:
        with pytest.raises(ValueError, match=message):
            LearnedDropout(*arguments)
    for arguments in [(4.0, 2), (4, True), (4, 2, "0"), (4, 2, True), (4, 2, 0.0, 1)]:
        with pytest.raises(TypeError, match="give"):
            LearnedDropout(*arguments)
    with pytest.raises(TypeError, match="causal=None has type NoneType; give True or False"):
        LearnedDropout(4, 2, causal=None)


def test_inputs_that_do_not_fit_are_refused() -> None:
    layer = LearnedDropout(4, 2)
    for shape in [(4,), (3, 5), (4, 3)]:
        with pytest.raises(ValueError, match=r"give \(…, positions, embed_dim=4\)"):
            layer(torch.ones(shape))
    with pytest.raises(TypeError, match="input has type list; give a tensor"):
        layer([[1.0]])


def test_what_needs_a_forward_says_so() -> None:
    layer = LearnedDropout(4, 2)
    with pytest.raises(RuntimeError, match="call it first"):
        layer.penalty()
    with pytest.raises(RuntimeError, match="call it first"):
        _ = layer.share_of_ones
