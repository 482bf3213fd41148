"""Layers that only some batches reach, such as those of a mixture of experts."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from package.widths.networks import Custom, centred, loop, per_element
from torch import Tensor, nn

from taildropout import TailDropout, at_k, frontier, scree

pytestmark = pytest.mark.usefixtures("float64")


def expert() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), TailDropout(), nn.Linear(6, 3))


class Mixture(nn.Module):
    """Two experts: one for samples with a positive first feature, one for the others.

    An idle expert is called with a tensor of no rows, or not at all if `skip` is True.
    """

    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.experts, self.skip = nn.ModuleList([expert(), expert()]), skip

    def forward(self, x: Tensor) -> Tensor:
        output = x.new_zeros(len(x), 3)
        for at, part in enumerate(self.experts):
            chosen = (x[:, 0] > 0) == (at == 0)
            if not self.skip or chosen.any():
                output[chosen] = part(x[chosen])
        return output


def batch(*signs: int) -> tuple[Tensor, Tensor]:
    """Samples whose first features have these signs."""
    x = torch.randn(len(signs), 4)
    x[:, 0] = x[:, 0].abs() * torch.tensor(signs)
    return x, torch.randn(len(signs), 3)


def batches() -> list[tuple[Tensor, Tensor]]:
    """The second expert is reached in the third batch first, and not in the fourth."""
    return [batch(1, 1, 1), batch(1, 1, 1, 1, 1), batch(1, -1, 1, -1), batch(1, 1), batch(-1, -1, -1)]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_batches_that_do_not_reach_the_layer_count_alike_at_every_width(skip: bool, reduction: str) -> None:
    model, data, loss, name = Mixture(skip), batches(), nn.MSELoss(reduction=reduction), "experts.1.2"
    result = scree(model, name, data, loss, per_sample=reduction == "none")
    torch.testing.assert_close(result.loss, loop(model, name, data, loss, range(7)), rtol=1e-10, atol=0)
    assert result.method.startswith("one k per sample along dim 0: copies")
    assert "later batch" not in result.method
    if reduction == "none":
        assert result.per_sample is not None
        assert result.per_sample.shape == (7, 17)
        torch.testing.assert_close(result.per_sample.mean(1), result.loss)
        torch.testing.assert_close(result.stderr, result.per_sample.std(1) / 17**0.5)
    together = scree(model, ["*"], data, loss)
    assert torch.allclose(together[name].loss, result.loss, rtol=1e-10)
    assert torch.allclose(together["experts.0.2"].loss, loop(model, "experts.0.2", data, loss, range(7)), rtol=1e-10)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(
    ("choose", "named"),
    [(lambda m: "experts.1.2", "'experts.1.2'"), (lambda m: m.experts[1][2], "the layer"), (lambda m: ["*"], "'experts.1.2'")],
)
def test_a_layer_that_no_sample_reaches_is_an_error(skip: bool, choose: Any, named: str) -> None:
    model, idle = Mixture(skip), [batch(1, 1), batch(1, 1, 1)]
    with pytest.raises(ValueError, match=rf"^{named} was not called on any sample of the 2 batches; give batches that reach"):
        scree(model, choose(model), idle, nn.MSELoss())


def test_strategies_are_not_trusted_where_the_outputs_are_empty() -> None:
    """The samples mix behind the layer, which only the second batch can show."""
    model = Custom(lambda net, x: centred(net, x)[x[:, 0] > 0])
    data = [(torch.randn(7, 5) - torch.tensor([9.0, 0, 0, 0, 0]), torch.zeros(7, 3)), (torch.randn(9, 5), torch.zeros(9, 3))]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return output.square().sum() / 10

    result = scree(model, "drop", data, loss)
    assert result.method.startswith("one width at a time, all of the model each time: the outputs")
    torch.testing.assert_close(result.loss, loop(model, "drop", data, loss, range(13)), rtol=1e-10, atol=0)


def cost(widths: dict[str, int]) -> int:
    return sum(widths.values())


@pytest.mark.parametrize("skip", [False, True])
def test_frontier_finds_the_features_in_the_first_batch_that_reaches_a_layer(skip: bool) -> None:
    model, data = Mixture(skip), batches()
    curve = frontier(model, data, nn.MSELoss(), cost=cost, sizes=4, maximize=False)
    assert curve.full.widths == {"experts.0.2": 6, "experts.1.2": 6}
    searched = data[::2]
    with torch.no_grad(), at_k(model.eval(), curve[0].widths):
        every = [float(per_element(model(x), y).mean()) * len(x) for x, y in searched]
    assert curve[0].search_loss == pytest.approx(sum(every) / sum(len(x) for x, _ in searched))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("order", [[0, 1], [0, 4]])
def test_frontier_cuts_no_layer_of_which_the_search_knows_nothing(skip: bool, order: Sequence[int]) -> None:
    """Of two batches, the second only judges."""
    data = [batches()[at] for at in order]
    with pytest.raises(ValueError, match=r"^'experts\.1\.2' was not called on any sample of the search, which has every"):
        frontier(Mixture(skip), data, nn.MSELoss(), cost=cost)
