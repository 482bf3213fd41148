"""Random networks: what prune makes of them computes the same, or there is an error. Never a wrong network."""

import copy
import warnings

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from package.pruning.pruned import CHANNELS, count, evaluated, lively, x
from torch import Tensor, nn

from taildropout import PruningError, TailDropout, load_pruned, prune

ACTIVATIONS = [nn.ReLU, nn.Sigmoid, nn.GELU, nn.Tanh, nn.Softplus, nn.Identity]
FLAT = [
    *ACTIVATIONS,
    lambda: nn.LayerNorm(8), lambda: nn.BatchNorm1d(8), lambda: nn.Softmax(-1), lambda: nn.PReLU(8), lambda: nn.GroupNorm(4, 8),
    lambda: TailDropout(), lambda: nn.Linear(8, 8), lambda: Residual(nn.Linear(8, 8)), lambda: Residual(nn.Tanh()),
    lambda: nn.Unflatten(1, (2, 4)), lambda: nn.Flatten(),
]  # fmt: skip
IMAGES = [
    *ACTIVATIONS,
    lambda: nn.BatchNorm2d(8), lambda: nn.GroupNorm(4, 8), lambda: nn.GroupNorm(8, 8),
    lambda: nn.InstanceNorm2d(8, affine=True),
    lambda: nn.Conv2d(8, 8, 3, padding=1), lambda: nn.Conv2d(8, 8, 1), lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8),
    lambda: nn.Conv2d(8, 8, 1, groups=2), lambda: Residual(nn.Conv2d(8, 8, 1)), lambda: TailDropout(**CHANNELS),
    lambda: nn.MaxPool2d(2, 1), lambda: nn.AvgPool2d(3, 1, 1), lambda: nn.Softmax(1), lambda: nn.Softmax2d(),
]  # fmt: skip


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input: Tensor) -> Tensor:
        return input + self.inner(input)


def equal_or_error(model: nn.Module, layer: str, k: int, input: Tensor) -> str:
    """Return the outcome of pruning; assert that a pruned network computes the same."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            smaller = prune(model, layer, k, input)
        except PruningError:
            return "error"
    for other in (input, torch.randn_like(input), 3 * torch.randn_like(input)):
        torch.testing.assert_close(
            evaluated(smaller, other), evaluated(model, other, k=k, layer=layer), rtol=1e-8, atol=1e-8, check_stride=False
        )
    assert count(smaller) <= count(model)
    loaded = load_pruned(copy.deepcopy(model), smaller.state_dict())
    torch.testing.assert_close(evaluated(loaded, input), evaluated(smaller, input), rtol=0, atol=0)
    return "sliced" if caught else "cut"


def draw_network(draw: st.DrawFn) -> tuple[nn.Module, str, int, Tensor]:
    flat = draw(st.booleans())
    block = st.lists(st.sampled_from(FLAT if flat else IMAGES), max_size=3)
    before, behind = ([make() for make in draw(block)] for _ in range(2))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    if flat:
        first, layer, last, input = nn.Linear(5, 8), TailDropout(), nn.Linear(8, 2), x()
    else:
        first, layer, input = nn.Conv2d(3, 8, 3), TailDropout(**CHANNELS), x(2, 3, 7, 7)
        last = (
            nn.Conv2d(8, 2, 2)
            if draw(st.booleans())
            else nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 2))
        )
    model = lively(nn.Sequential(first, *before, layer, *behind, last))
    if draw(st.booleans()):  # some weights are 0 at first, as in many residual branches
        nn.init.zeros_(draw(st.sampled_from([each for each in model.parameters() if each.dim() > 1])))
    return model, str(1 + len(before)), draw(st.integers(1, 8)), input


OUTCOMES: list[str] = []


@settings(max_examples=80)
@given(st.data())
def test_random_networks_are_equal_or_an_error(data: st.DataObject) -> None:
    model, layer, k, input = draw_network(data.draw)
    try:
        evaluated(model, input)
    except (RuntimeError, ValueError):
        assume(False)
    OUTCOMES.append(equal_or_error(model, layer, k, input))


def test_random_networks_come_out_in_every_way() -> None:
    """Or the test before this one shows less than it seems to."""
    if not OUTCOMES:
        pytest.skip("the random networks were not drawn in this run")
    assert {outcome: OUTCOMES.count(outcome) > 5 for outcome in ("cut", "sliced", "error")} == {
        "cut": True, "sliced": True, "error": True,
    }  # fmt: skip
