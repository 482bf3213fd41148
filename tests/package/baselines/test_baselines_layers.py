"""What all baselines have in common, and the three that are a line of code.

Seeds are fixed. A statistical test here takes an exact binomial p-value and fails below RARE, which is its false-alarm rate.
"""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from taildropout.baselines import DropConnectLinear, InvertedDropout, LearnedDropout, NestedDropout, StochasticReLU

RARE = 1e-6

MAKE: dict[str, Callable[[], nn.Module]] = {
    "LearnedDropout": lambda: LearnedDropout(16, 4, shift_init=1.5),
    "LearnedDropout, causal": lambda: LearnedDropout(16, 2, shift_init=1.5, bias=True, causal=True),
    "DropConnectLinear": lambda: DropConnectLinear(16, 8, 0.3),
    "StochasticReLU": lambda: StochasticReLU(0.7),
    "InvertedDropout": lambda: InvertedDropout(0.3),
    "NestedDropout, uniform": lambda: NestedDropout(),
    "NestedDropout, geometric": lambda: NestedDropout("geometric", min_k=1, ratio=0.9),
    "NestedDropout, power_of_two": lambda: NestedDropout("power_of_two", batch_dim=[0, 1]),
    "NestedDropout, censored_geometric": lambda: NestedDropout("censored_geometric", min_k=1, p=0.5),
}
EACH = pytest.mark.parametrize("name", MAKE)


def normal(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(4, 10, 16).to(dtype)


def seeded(call: Callable[[Tensor], Tensor], input: Tensor, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return call(input)


def binomial(count: Tensor, draws: int, p: float) -> None:
    assert scipy.stats.binomtest(int(count), draws, p).pvalue > RARE


@EACH
def test_training_draws_by_the_seed_and_evaluation_does_not(name: str) -> None:
    layer, input = MAKE[name](), normal()
    assert torch.equal(seeded(layer, input), seeded(layer, input))
    assert not torch.equal(seeded(layer, input), seeded(layer, input, 2))
    layer.eval()
    before = torch.get_rng_state()
    assert torch.equal(layer(input), layer(input))
    assert torch.equal(torch.get_rng_state(), before)


@EACH
def test_a_layer_is_pickled_copied_and_saved(name: str) -> None:
    layer, input = MAKE[name](), normal()
    expected = seeded(layer, input)  # called before: what it remembers of that must not be in the way
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for again in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), torch.load(file, weights_only=False)):
        assert torch.equal(seeded(again, input), expected)
        assert repr(again) == repr(layer)
    fresh = MAKE[name]()
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(seeded(fresh, input), expected)


@EACH
def test_the_representation_constructs_the_layer(name: str) -> None:
    layer = MAKE[name]()
    if isinstance(layer, nn.Linear):
        assert repr(layer) == "DropConnectLinear(in_features=16, out_features=8, bias=True, p=0.3)"
        again = eval(repr(layer))
    else:
        again = eval(f"{type(layer).__name__}({layer.extra_repr()})")
    assert repr(again) == repr(layer)
    again.load_state_dict(layer.state_dict())
    input = normal()
    assert torch.equal(seeded(again, input), seeded(layer, input))


@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_keep_theirs_and_follow_float32(name: str, dtype: torch.dtype) -> None:
    layer, input = MAKE[name](), normal().to(torch.bfloat16)
    other = copy.deepcopy(layer).to(dtype)
    input_there = input.to(dtype, copy=True).requires_grad_()
    output = other(input_there)
    (gradient,) = torch.autograd.grad(output.sum(), input_there)
    assert output.dtype == gradient.dtype == dtype
    assert gradient.isfinite().all()
    layer.eval()
    other.eval()
    # Evaluation is deterministic. LearnedDropout may round where M is close to one half, so that a few masks differ there.
    same = torch.isclose(other(input.to(dtype)).float(), layer(input.float()), rtol=0.02, atol=0.02).float().mean()
    assert same > (0.97 if "Learned" in name else 0.999)


@EACH
def test_a_gradient_reaches_the_input_and_every_parameter(name: str) -> None:
    layer, input = MAKE[name](), normal().requires_grad_()
    layer(input).square().sum().backward()
    for each in (input, *layer.parameters()):
        assert each.grad is not None
        assert each.grad.isfinite().all()
        assert each.grad.any()


@pytest.mark.parametrize("name", [name for name in MAKE if "Learned" not in name])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_finite_differences(name: str, training: bool) -> None:
    layer = MAKE[name]().double().train(training)
    input = torch.randn(2, 3, 16, dtype=torch.float64)
    input = torch.where(input.abs() < 0.1, 0.5, input).requires_grad_()  # away from the corner of a ReLU
    assert torch.autograd.gradcheck(lambda x, *_: seeded(layer, x), (input, *layer.parameters()))


@EACH
@pytest.mark.parametrize(("training", "dtype"), [(True, torch.float32), (False, torch.float32), (True, torch.bfloat16)])
def test_a_layer_compiles_to_one_graph(name: str, training: bool, dtype: torch.dtype) -> None:
    torch.compiler.reset()
    layer = MAKE[name]().to(dtype).train(training)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    input = normal(dtype).requires_grad_()
    output = seeded(compiled, input)
    torch.testing.assert_close(output, seeded(layer, input))
    output.sum().backward()
    assert input.grad is not None
    assert input.grad.isfinite().all()


@pytest.mark.slow
@EACH
@pytest.mark.usefixtures("compiler")
@pytest.mark.filterwarnings("ignore")  # inductor's own
def test_compiled_code_drops_as_much_as_eager_code(name: str) -> None:
    layer = MAKE[name]()
    compiled = torch.compile(layer, fullgraph=True)
    input = torch.rand(2000, 10, 16).add(0.1).requires_grad_()
    output = compiled(input)
    (gradient,) = torch.autograd.grad(output.sum(), input)
    assert gradient.isfinite().all()
    zeros, expected = ((each == 0).float().mean((1, 2)) for each in (output, layer(input)))
    # Shares dropped per sample, 2000 in each: a z of 5 is a false alarm once in 2e6.
    difference = zeros.mean() - expected.mean()
    assert difference.abs() <= 5 * ((zeros.var() + expected.var()) / 2000).sqrt() + 1e-7
    layer.eval()
    torch.testing.assert_close(compiled(input), layer(input), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in MAKE if "Learned" not in name and "Connect" not in name])
def test_what_is_no_float_tensor_is_refused_in_training(name: str) -> None:
    layer = MAKE[name]()
    with pytest.raises(TypeError, match="input has type list; give a tensor"):
        layer([1.0, 2.0])
    with pytest.raises(TypeError, match=r"input has dtype torch.int64.*input\.float"):
        layer(torch.ones(4, 10, 16, dtype=torch.int64))


@pytest.mark.parametrize("make", [InvertedDropout, StochasticReLU, lambda p: DropConnectLinear(4, 4, p)])
def test_a_p_that_is_no_probability_is_refused(make: Callable[..., nn.Module]) -> None:
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(
            ValueError, match=r"give a number between 0 and 1, the share of (features to drop|activations to keep)"
        ):
            make(p)
    for p in ("0.5", None, True, torch.tensor(0.5)):
        with pytest.raises(TypeError, match="is a number between 0 and 1"):
            make(p)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inverted_dropout_drops_at_its_rate_and_is_otherwise_nn_dropout(p: float, dtype: torch.dtype) -> None:
    input = torch.rand(1000, 1000).add(1).to(dtype)
    output = InvertedDropout(p)(input)
    # A normal draw in the place of the uniform one would drop .54 at p = .1, and one of bfloat16 .0039 at p = .001.
    binomial((output == 0).sum(), output.numel(), p)
    assert torch.equal(output, torch.where(output == 0, 0, input * (1 / (1 - p))))
    dropped = (output == 0).double()
    binomial((dropped[:, 1:] * dropped[:, :-1])[:, ::2].sum(), 1000 * 500, p * p)  # neighbours are independent


def test_inverted_dropout_at_its_ends() -> None:
    input = normal().requires_grad_()
    assert torch.equal(InvertedDropout(0)(input), input)
    output = InvertedDropout(1)(input)
    assert not output.any()
    assert not torch.autograd.grad(output.sum(), input)[0].any()
    assert InvertedDropout(0.5).eval()(input) is input


@pytest.mark.parametrize("p", [0.8, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stochastic_relu_keeps_at_p_and_rescales_nothing(p: float, dtype: torch.dtype) -> None:
    input = torch.randn(1000, 1000).to(dtype)
    output = StochasticReLU(p)(input)
    positive = input > 0
    assert torch.equal(output, torch.where(output > 0, input, 0))
    binomial((output > 0).sum(), int(positive.sum()), p)
    # So its mean is p · max(0, x), and neither x nor what evaluation gives.
    ratio = output.double().mean() / input.relu().double().mean()
    assert abs(ratio - p) < 0.005
    assert torch.equal(StochasticReLU(p).eval()(input), input.relu())


def test_stochastic_relu_at_its_ends_and_at_infinity() -> None:
    input = normal()
    assert torch.equal(StochasticReLU(1)(input), input.relu())
    infinite = torch.full((100,), float("inf"), requires_grad=True)
    assert not StochasticReLU(0)(infinite).any()
    output = StochasticReLU(0.5)(infinite)
    assert set(output.tolist()) == {0.0, float("inf")}
    (gradient,) = torch.autograd.grad(output.sum(), infinite)
    assert torch.equal(gradient, (output > 0).float())


def test_drop_connect_drops_weights_once_a_call_and_scales_the_others() -> None:
    p, layer = 0.3, DropConnectLinear(500, 400, 0.3)
    weight = (layer(torch.eye(500)) - layer.bias).T * (1 - p)
    kept = weight.abs() > 1e-7
    torch.testing.assert_close(weight, torch.where(kept, layer.weight, 0), rtol=1e-3, atol=1e-6)
    binomial((~kept).sum(), kept.numel(), p)
    twice = layer(torch.ones(2, 500))
    torch.testing.assert_close(twice[0], twice[1])  # one draw for the whole batch
    assert not torch.allclose(layer(torch.ones(500)), layer(torch.ones(500)))


def test_drop_connect_has_the_mean_evaluation_and_state_of_linear() -> None:
    layer, linear = DropConnectLinear(16, 8, 0.3), nn.Linear(16, 8)
    layer.load_state_dict(linear.state_dict())
    input = normal()
    assert torch.equal(layer.eval()(input), linear(input))
    layer.train()
    outputs = torch.stack([layer(input) for _ in range(4000)])
    error = (outputs.mean(0) - linear(input)) / (outputs.std(0) / 4000**0.5)
    assert error.abs().max() < 6.3  # of 320 normal numbers: a false alarm once in 1e7
    without_weights = DropConnectLinear(16, 8, 1)
    assert torch.equal(without_weights(input), without_weights.bias.expand(4, 10, 8))


def test_drop_connect_has_gradients_of_the_kept_weights_alone() -> None:
    layer, input = DropConnectLinear(6, 5, 0.5), torch.randn(3, 6)
    torch.manual_seed(3)
    output = layer(input)
    torch.manual_seed(3)
    mask = nn.functional.dropout(torch.ones(5, 6), 0.5)
    torch.testing.assert_close(output, input @ (mask * layer.weight).T + layer.bias)
    upstream = torch.randn(3, 5)
    weight, bias = torch.autograd.grad(output, [layer.weight, layer.bias], upstream)
    torch.testing.assert_close(weight, mask * (upstream.T @ input))
    torch.testing.assert_close(bias, upstream.sum(0))


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((0, 4), ValueError, "in_features=0 is no"),
        ((5, -4), ValueError, "out_features=-4"),
        ((5, "4"), TypeError, "has type str"),
    ],
)
def test_sizes_are_checked_at_construction(sizes: tuple[Any, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DropConnectLinear(*sizes)
