"""Tensors that are not plain ones: jagged, expanded, conjugated, negated, and of classes that override torch's functions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import symbolic_trace

from taildropout import TailDropout, TailMLP, baselines, keep_first, tail_dropout


def jagged(*lengths: int, n: int = 8) -> Tensor:
    return torch.nested.nested_tensor([torch.ones(length, n) for length in lengths], layout=torch.jagged)


def kept(input: Tensor) -> list[Tensor]:
    """Return the number of features that each row of each component keeps; check that they are the first ones."""
    for part in input.unbind():
        assert torch.equal(part, keep_first(torch.ones_like(part), part.sum(-1, keepdim=True)))
    return [part.sum(-1) for part in input.unbind()]


def test_a_component_of_a_jagged_tensor_has_one_k() -> None:
    input = jagged(*range(1, 400))
    found = kept(TailDropout(0.5)(input))
    assert all(len(each.unique()) == 1 for each in found)
    drawn = torch.stack([each[0] for each in found])
    # The standard deviation of K is below 8 / 2, of the mean of 399 below 4 / √399: a false alarm in 10⁹ at six of them.
    assert abs(drawn.mean() - 4) < 6 * 4 / 399**0.5
    assert (TailDropout(0.5)(input) + input).shape == input.shape, "it goes on as a tensor of the same components"


def test_batch_dim_says_what_a_sample_of_a_jagged_tensor_is() -> None:
    input = jagged(200, 300)
    per_token = kept(TailDropout(0.5, batch_dim=[0, 1])(input))
    assert all(len(each.unique()) > 4 for each in per_token)
    whole = torch.cat(kept(TailDropout(0.5, batch_dim=())(input)))
    assert len(whole.unique()) == 1
    assert torch.equal(torch.cat(kept(tail_dropout(input, 1.0))), torch.zeros(500))
    assert tail_dropout(input, 0.5, training=False).shape == input.shape


def test_gradients_of_a_jagged_tensor_are_those_of_what_stays() -> None:
    input = jagged(3, 5).detach().requires_grad_()
    output = TailDropout(0.5)(input)
    output.values().sum().backward()
    assert input.grad is not None
    assert torch.equal(input.grad.values(), output.values().detach())


@pytest.mark.usefixtures("compiler")
def test_compiled_code_draws_for_every_component() -> None:
    for layer in (TailDropout(0.5), TailDropout(0.5, batch_dim=[0, 1]), lambda each: tail_dropout(each, 0.5)):
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        found = [kept(compiled(jagged(*lengths))) for lengths in ((30, 50, 70, 90, 2), (30, 50, 70, 90))]
        per_component = [len(each.unique()) for each in found[1]]
        assert max(per_component) == 1 if getattr(layer, "batch_dim", 0) == 0 else min(per_component) > 1
        assert len(torch.cat(found[0]).unique()) > 1, "fails once in 9⁴ seeds or so"


def test_k_of_a_jagged_tensor() -> None:
    layer, input = TailDropout().eval(), jagged(3, 5)
    assert torch.equal(layer(input).values(), input.values())
    layer.set_k(3)
    assert torch.equal(torch.cat(kept(layer(input))), torch.full((8,), 3.0))
    assert torch.equal(torch.cat(kept(keep_first(input, 3))), torch.full((8,), 3.0))
    layer.set_k(torch.tensor([2, 6]))
    assert torch.equal(torch.cat(kept(layer(input))), torch.tensor([2.0] * 3 + [6.0] * 5))


@pytest.mark.parametrize(
    ("layer", "change", "message"),
    [
        (TailDropout(dropout_dim=1), None, "features in dim 1"),
        (TailDropout(batch_dim=1), None, "samples in dim 1 that go through all components"),
        (TailDropout(batch_dim=0), lambda each: each.transpose(1, 2), "features in dim 2|a ragged dim that is not dim 1"),
    ],
)
def test_what_a_jagged_tensor_cannot_do_says_how_to_pad(
    layer: nn.Module, change: Callable[[Tensor], Tensor] | None, message: str
) -> None:
    input = jagged(3, 5)
    with pytest.raises(ValueError, match=rf"({message}).*torch\.nested\.to_padded_tensor\(input, 0\.0\)"):
        layer(change(input) if change else input)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("rows", [3, 4000], ids=["small", "large"])
def test_a_nested_tensor_that_is_not_jagged_says_how_to_pad_or_convert(rows: int) -> None:
    input = torch.nested.nested_tensor([torch.ones(rows, 8), torch.ones(5, 8)])
    at_three = TailDropout()
    at_three.set_k(3)
    calls: list[Callable[[Tensor], Tensor]] = [
        TailDropout(),
        TailDropout(inplace=True),
        TailDropout(1.0),
        at_three,
        tail_dropout,
        lambda each: keep_first(each, 3),
        TailMLP(8, 1024, 8, activation=nn.ReLU(), p=0.5),
        baselines.InvertedDropout(),
        baselines.NestedDropout(),
        baselines.StochasticReLU(),
    ]
    for call in calls:
        with pytest.raises(
            ValueError, match=r"layout torch\.strided; pad it: .*to_padded_tensor\(input, 0\.0\), or make it jagged"
        ):
            call(input)
    assert TailDropout().eval()(input) is input, "as nn.Dropout"
    # What the message says works.
    layer = TailDropout()
    assert layer(torch.nested.to_padded_tensor(input, 0.0)).shape == (2, max(rows, 5), 8)
    kept(layer(torch.nested.as_nested_tensor(input.unbind(), layout=torch.jagged)))


def test_the_other_layers_take_jagged_tensors_or_say_how_to_pad() -> None:
    input = jagged(30, 50, n=64)
    ones = baselines.InvertedDropout(0.5)(input).values().unique()
    assert torch.equal(ones, torch.tensor([0.0, 2.0]))
    assert torch.equal(baselines.StochasticReLU(0.5)(input).values().unique(), torch.tensor([0.0, 1.0]))
    assert all(len(each.unique()) == 1 for each in kept(baselines.NestedDropout()(input)))
    assert baselines.DropConnectLinear(64, 2)(input).shape[2] == 2
    with pytest.raises(ValueError, match=r"nested tensor, whose numbers of positions differ; pad it: torch\.nested\.to_padded"):
        baselines.LearnedDropout(64, 2)(input)


def test_a_jagged_tensor_is_not_written_into() -> None:
    with pytest.raises(ValueError, match="inplace=True, but input is a jagged tensor"):
        TailDropout(inplace=True)(jagged(3, 5))


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "expanded": lambda x: x[:1].real.expand(x.shape),
    "expanded within": lambda x: x[:, :1].real.expand(x.shape),
    "conjugated": lambda x: x.conj(),
    "negated": lambda x: torch.conj(x).imag,
    "every second": lambda x: x.real.repeat_interleave(2, 1)[:, ::2],
}


@pytest.mark.parametrize("rows", [4, 4096], ids=["small", "large"])
@pytest.mark.parametrize("name", VIEWS)
def test_views_give_what_their_copies_give(name: str, rows: int) -> None:
    source = torch.randn(rows, 8, dtype=torch.complex64)
    layer = TailDropout(0.5)
    for k in (None, 3):
        results = []
        for copy in (False, True):
            leaf = source.clone().requires_grad_()
            view = VIEWS[name](leaf)
            layer.set_k(k)
            torch.manual_seed(0)
            output = layer(view.clone().resolve_conj().resolve_neg() if copy else view)
            torch.view_as_real(output.to(torch.complex64)).square().sum().backward()
            assert leaf.grad is not None
            results.append((output.detach().resolve_conj().resolve_neg(), leaf.grad))
        assert torch.equal(results[0][0], results[1][0])
        torch.testing.assert_close(results[0][1], results[1][1])


@pytest.mark.parametrize("rows", [4, 4096], ids=["small", "large"])
def test_an_expanded_tensor_is_not_written_into(rows: int) -> None:
    """One row of memory cannot hold what differs from row to row."""
    row = torch.randn(8)
    before = row.clone()
    with pytest.raises(
        RuntimeError, match=r"input is expanded: several of its elements share one place in memory; write into input\.clone"
    ):
        TailDropout(0.5, inplace=True)(row.expand(rows, 8))
    assert torch.equal(row, before)


class Logged(Tensor):
    """Remembers which functions it went through."""

    seen: list[str] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls: type[Any], function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.seen.append(getattr(function, "__name__", ""))
        return super().__torch_function__(function, types, args, kwargs or {})


class Named(Tensor):
    """A class of its own."""


class Metres:
    """Numbers with a unit: no tensor."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    @classmethod
    def __torch_function__(cls: type[Any], function: Any, types: Any, args: Any = (), kwargs: Any = None) -> "Metres":
        return cls(function(*[each.numbers if isinstance(each, cls) else each for each in args], **(kwargs or {})))


@pytest.mark.parametrize("rows", [4, 4096], ids=["small", "large"])
def test_a_class_that_overrides_functions_sees_ours_as_one(rows: int) -> None:
    plain = torch.randn(rows, 8)
    for training in (True, False):
        Logged.seen.clear()
        torch.manual_seed(0)
        output = TailDropout(0.5).train(training)(plain.as_subclass(Logged))
        assert "tail_dropout" in Logged.seen
        assert "masked_fill" not in Logged.seen
        assert type(output) is Logged
        torch.manual_seed(0)
        assert torch.equal(output.as_subclass(Tensor), TailDropout(0.5).train(training)(plain))


def test_what_is_no_tensor_overrides_our_functions_as_those_of_torch() -> None:
    numbers = torch.randn(16, 8)
    layer = TailDropout(0.5)
    torch.manual_seed(0)
    output = layer(Metres(numbers))
    torch.manual_seed(0)
    assert torch.equal(output.numbers, layer(numbers))
    layer.set_k(3)
    assert torch.equal(layer(Metres(numbers)).numbers, keep_first(numbers, 3))
    assert torch.equal(keep_first(Metres(numbers), 3).numbers, keep_first(numbers, 3))


def test_a_k_of_such_a_class_is_seen_too() -> None:
    Logged.seen.clear()
    kept = keep_first(torch.ones(3, 4), torch.tensor(2).as_subclass(Logged))
    assert Logged.seen[0] == "keep_first"
    assert torch.equal(kept.as_subclass(Tensor), keep_first(torch.ones(3, 4), 2))


def test_one_k_per_sample_needs_an_input_of_known_shape() -> None:
    layer = TailDropout()
    layer.set_k(torch.tensor([1, 2, 3]))
    with pytest.raises(TypeError, match=r"k is a tensor of shape \(3,\), one for each sample, but input has type Metres"):
        layer(Metres(torch.ones(3, 4)))
    with pytest.raises(
        TypeError, match=r"input has type Proxy and unknown shape; call set_k with an int, or trace a model that holds"
    ):
        symbolic_trace(layer)
    traced = symbolic_trace(nn.Sequential(layer))
    assert torch.equal(traced(torch.ones(3, 4)).sum(1), torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.usefixtures("compiler")
def test_compiled_code_takes_a_class_of_tensors() -> None:
    compiled = torch.compile(TailDropout(0.5), backend="eager", fullgraph=True)
    output = compiled(torch.ones(50, 8).as_subclass(Named)).as_subclass(Tensor)
    assert torch.equal(output, keep_first(torch.ones(50, 8), output.sum(1, keepdim=True)))


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")  # torch calls some of these layouts experimental
@pytest.mark.parametrize("layout", ["sparse", "sparse_csr", "sparse_csc", "mkldnn"])
@pytest.mark.parametrize("rows", [3, 4000], ids=["small", "large"])
@pytest.mark.parametrize("call", [TailDropout(), lambda each: keep_first(each, 3)], ids=["layer", "keep_first"])
def test_a_tensor_without_rows_in_memory_is_to_be_made_dense(call: Callable[[Tensor], Tensor], rows: int, layout: str) -> None:
    if layout == "mkldnn" and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch was built without oneDNN")
    with pytest.raises(TypeError, match=rf"layout torch\.\w*{layout}\w*; give a dense tensor: input\.to_dense\(\)"):
        call(getattr(torch.ones(rows, 8), f"to_{layout}")())


@pytest.mark.parametrize("rows", [3, 4000], ids=["small", "large"])
def test_eight_bits_are_to_be_converted(rows: int) -> None:
    with pytest.raises(TypeError, match=r"dtype torch\.float8_e4m3fn, in which torch cannot train; .*input\.bfloat16\(\)"):
        TailDropout()(torch.ones(rows, 8).to(torch.float8_e4m3fn))
