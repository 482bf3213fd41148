"""What prune says if it refuses: the cause, and only a remedy that helps."""

from contextlib import nullcontext

import pytest
import torch
from package.pruning.like_others import OwnLinear
from package.pruning.pruned import Wired, checked, evaluated, followed, mlp, x
from torch import Tensor, nn

from taildropout import PruningError, TailDropout, prune

MOVE = "Move the layer"


def refusal(model: nn.Module, layer: str, input: Tensor) -> str:
    with pytest.raises(PruningError) as caught:
        prune(model, layer, 3, input)
    return str(caught.value)


def test_nan_in_a_weight() -> None:
    model = mlp()
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    message = refusal(model, "2", x())
    assert message.startswith("'0.weight' holds NaN")
    assert MOVE not in message


def test_nan_in_the_example_inputs() -> None:
    input = x()
    message = refusal(mlp(), "2", torch.full_like(input, torch.nan))
    assert "every output is NaN on the example inputs" in message
    assert message.endswith("The example inputs hold NaN; give numbers")
    input[0, 0] = torch.nan
    message = refusal(mlp(), "2", input)
    assert message.endswith("The example inputs hold NaN, which hides what depends on what; give numbers")
    assert MOVE not in message


def test_outputs_that_are_nan_without_any_in_the_inputs() -> None:
    model = followed(nn.Linear(8, 2), wiring=lambda m, x: m.after(m.drop(m.a(x))) / 0 * 0).double()
    assert refusal(model, "drop", x()).endswith("Give inputs on which outputs are numbers")


def test_nan_that_the_network_masks_is_no_obstacle() -> None:
    model = followed(nn.Linear(8, 2), wiring=lambda m, x: m.after(m.drop(m.a(x.nan_to_num())))).double()
    input = x()
    input[0, 0] = torch.nan
    smaller = prune(model, "drop", 3, input)
    assert smaller.a.out_features == 3
    torch.testing.assert_close(evaluated(smaller, input), evaluated(model, input, k=3, layer="drop"))


class Centred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(5, 8), TailDropout(), nn.Linear(8, 2)
        self.register_buffer("mean", torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.b(self.drop(self.a(x)) - self.mean)
        return output


def test_a_buffer_of_the_size_of_the_features_is_named_and_the_remedy_helps() -> None:
    model = Centred().double()
    message = refusal(model, "drop", x())
    assert "'mean' is a buffer with as many elements as the layer has features" in message
    assert MOVE not in message
    mean = model.mean
    del model.mean
    model.mean = nn.Parameter(mean, requires_grad=False)
    assert checked(model, "drop", 3, x()).mean.shape == (3,)


def test_the_layer_is_to_be_moved_only_where_that_helps() -> None:
    assert MOVE in refusal(followed(nn.LayerNorm(8), nn.Linear(8, 2)).double(), "drop", x())
    residual = followed(nn.Linear(8, 2), wiring=lambda m, x: m.after(m.a(x) + m.drop(m.a(x)))).double()
    assert MOVE in refusal(residual, "drop", x())
    unknown = refusal(followed(OwnLinear(8, 2)).double(), "drop", x())
    assert "use a Linear" in unknown
    assert MOVE not in unknown
    modules = {"a": nn.Linear(5, 8), "drop": TailDropout(), "out": nn.Linear(8, 8), "b": nn.Linear(8, 8)}
    tied = Wired(lambda m, x: m.b(m.out(m.drop(m.a(x))).relu()), **modules)
    tied.b.weight = tied.out.weight
    shared = refusal(tied.double(), "drop", x())
    assert "give each place its own" in shared
    assert MOVE not in shared


def shifted(where: str, shape: tuple[int, ...]) -> nn.Module:
    """Return a network that adds a learned shift before or after the layer."""
    wirings = {
        "before": lambda m, x: m.b(m.drop(m.a(x) + m.shift[0])),
        "after": lambda m, x: m.b(m.drop(m.a(x)) + m.shift[0]),
        "before, in part": lambda m, x: m.b(m.drop(m.shift[0][:, : x.shape[1]] - m.a(x))),
        "after, in part": lambda m, x: m.b(m.shift[0][:, : x.shape[1]] - m.drop(m.a(x))),
    }
    modules = {
        "a": nn.Linear(5, 8),
        "drop": TailDropout(),
        "b": nn.Linear(8, 2),
        "shift": nn.ParameterList([torch.randn(shape)]),
    }
    return Wired(wirings[where], **modules).double()


@pytest.mark.parametrize(("where", "shape"), [("after", (4, 8)), ("after, in part", (1, 9, 8)), ("after", (4, 1))])
def test_a_learned_shift_that_differs_by_position_is_named_and_the_remedy_helps(where: str, shape: tuple[int, ...]) -> None:
    message = refusal(shifted(where, shape), "drop", x(2, 4, 5))
    assert "'shift.0' is added to the features after the layer, and differs between positions" in message
    assert message.endswith("; add it before the layer.")
    assert "residual" not in message
    with nullcontext() if shape[-1] == 8 else pytest.warns(UserWarning, match="slices 3 of 8"):
        assert checked(shifted(where.replace("after", "before"), shape), "drop", 3, x(2, 4, 5)).b.in_features == 3


@pytest.mark.parametrize("shape", [(8,), (1, 1, 8)])
def test_a_learned_shift_with_one_number_for_each_feature_is_cut_exactly(shape: tuple[int, ...]) -> None:
    smaller = checked(shifted("after", shape), "drop", 3, x(2, 4, 5))
    assert smaller.shift[0].shape == (*shape[:-1], 3)
    model = followed(nn.LayerNorm(8), nn.Linear(8, 2), wiring=lambda m, x: m.after(m.drop(m.a(x)) + m.a.bias)).double()
    message = refusal(model, "drop", x())
    assert "LayerNorm" in message
    assert "residual" not in message
    assert "is added" not in message


def test_a_bilinear_is_named() -> None:
    after = Wired(lambda m, x: m.b(m.drop(m.a(x)), x), a=nn.Linear(5, 8), drop=TailDropout(), b=nn.Bilinear(8, 5, 2)).double()
    message = refusal(after, "drop", x())
    assert "'b' (Bilinear) mixes features" in message
    assert "residual" not in message
    before = Wired(lambda m, x: m.b(m.drop(m.a(x, x))), a=nn.Bilinear(5, 5, 8), drop=TailDropout(), b=nn.Linear(8, 2)).double()
    with pytest.warns(UserWarning, match=r"keeps its size: 'a' \(Bilinear\) mixes features"):
        assert checked(before, "drop", 3, x()).b.in_features == 3
    elsewhere = Wired(
        lambda m, x: m.c(m.b(m.drop(m.a(x))), input2=x),
        a=nn.Linear(5, 8),
        drop=TailDropout(),
        b=nn.Linear(8, 3),
        c=nn.Bilinear(3, 5, 2),
    )
    assert checked(elsewhere.double(), "drop", 3, x()).b.in_features == 3


def test_a_residual_connection_is_still_named_beside_a_shift() -> None:
    modules = {"a": nn.Linear(5, 8), "drop": TailDropout(), "b": nn.Linear(8, 2), "shift": nn.ParameterList([torch.randn(8)])}
    model = Wired(lambda m, x: m.b(m.drop(m.a(x)) + (m.a(x) + m.shift[0])), **modules).double()
    assert "a residual connection around the layer" in refusal(model, "drop", x())


def test_what_is_made_of_the_input_and_a_parameter_is_no_learned_shift() -> None:
    modules = {
        "a": nn.Linear(5, 8),
        "drop": TailDropout(),
        "b": nn.Linear(8, 2),
        "scale": nn.ParameterList([torch.randn(5, 1)]),
    }
    model = Wired(lambda m, x: m.b(m.drop(m.a(x)) + (x @ m.scale[0]).exp()), **modules).double()
    assert "a residual connection around the layer" in refusal(model, "drop", x())
