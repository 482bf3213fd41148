"""In half precision, where rounding might hide that samples mix, scree still tells one from the other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from package.widths.networks import NETWORKS, Custom, loop, per_element, regression
from torch import Tensor, nn

from taildropout import TailDropout, at_k, scree

HALF = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", NETWORKS)
def test_rounding_takes_no_strategy_away(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    build, layer, batches, method = NETWORKS[name]
    result = scree(build().to(dtype), layer, [(x.to(dtype), y.to(dtype)) for x, y in batches], per_element)
    assert result.method.startswith(method), result.method


class OwnMean(nn.Module):
    """Computes a mean loss by hand, which for several copies of the batch is a mean over their widths."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.drop, self.decode = nn.Linear(5, 12), TailDropout(), nn.Linear(12, 3)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return {"loss": (0.3 * self.decode(self.drop(self.encode(x)).tanh()) - y).square().mean()}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("widths", [None, [2, 9]])
def test_a_mean_over_widths_is_seen(dtype: torch.dtype, widths: list[int] | None) -> None:
    torch.manual_seed(0)
    model, x, y = OwnMean().to(dtype), torch.randn(40, 5).to(dtype), (3 * torch.randn(40, 3)).to(dtype)
    found = scree(model, "drop", [{"x": x, "y": y}], widths=widths)
    assert "one k per sample along dim 0 does not work (an output" in found.method
    for k in found.widths:
        with at_k(model.eval(), k), torch.no_grad():
            assert found[k] == float(model(x, y)["loss"])
    assert found.loss.unique().numel() > 1


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    "mix",
    [
        lambda h: h + 0.01 * h.mean(0),
        lambda h: h + 0.01 * h.roll(1, 0),
        lambda h: h / (1e-3 + 0.02 * h.abs().max()),
    ],
    ids=["mean", "next", "maximum"],
)
def test_samples_that_mix_a_little_are_seen(mix: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    for behind in (lambda h: h, torch.tanh):  # running sums, and copies
        torch.manual_seed(0)
        model = Custom(lambda net, x, behind=behind: mix(net.decode(behind(net.drop(net.encode(x)))))).to(dtype)
        batches = [(x.to(dtype), y.to(dtype)) for x, y in regression(5)]
        found = scree(model, "drop", batches, per_element)
        assert found.method.startswith("one width at a time: copies along dim 0 do not work"), found.method
        expected = loop(model, "drop", batches, per_element, range(13))
        torch.testing.assert_close(found.loss, expected, rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.004, 0.01])
def test_a_network_that_rounds_at_random_keeps_its_strategy(share: float, seed: int) -> None:
    """As sums in any order on a GPU do: a second forward then differs as much as one with other widths beside it.

    The smaller share, half of bfloat16's eps, changes some 2 % of the numbers, so that many a forward repeats another.
    """
    torch.manual_seed(seed)
    model = Custom(lambda net, x: (h := net.decode(net.drop(net.encode(x)).tanh())) * (1 + share * torch.rand_like(h)))
    batches = [(x.bfloat16(), y.bfloat16()) for x, y in regression(5)]
    assert scree(model.bfloat16(), "drop", batches, per_element).method == "copies along dim 0"
