"""What prune says if it refuses: the cause, and only a remedy that helps."""

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
