"""The cost of widths in frontier: the parameters and MACs of the pruned network, also where layers share features."""

import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from package.widths.shared import PARTS, Wired, network
from package.widths.test_frontier import llama
from torch import Tensor, nn

from taildropout import PruningError, TailDropout, frontier, insert_dropout, prune
from taildropout.widths import cut_plans
from taildropout.widths.costs import CostModel

pytest.importorskip("torch_pruning")
from torch.utils.flop_counter import FlopCounterMode

SEEDS = [*range(len(PARTS)), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(len(PARTS), 2 * len(PARTS)))]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """The widths that were planned as prune does it."""
    seen: list[dict[str, int]] = []
    solve = cut_plans.CutPlans._solve

    def counted(self: Any, cut: dict[str, int]) -> Any:
        seen.append(cut)
        return solve(self, cut)

    monkeypatch.setattr(cut_plans.CutPlans, "_solve", counted)
    return seen


def features(model: nn.Module, input: Tensor) -> dict[str, int]:
    """Return the number of features of each TailDropout."""
    found: dict[str, int] = {}

    def record(name: str) -> Callable[..., None]:
        return lambda module, args, output: found.update({name: output.shape[module.dropout_dim]})

    handles = [
        each.register_forward_hook(record(name)) for name, each in model.named_modules() if isinstance(each, TailDropout)
    ]
    model(input)
    for handle in handles:
        handle.remove()
    return found


def true_costs(model: nn.Module, widths: dict[str, int], input: Tensor) -> tuple[int, float]:
    """Return the parameters and MACs of what prune returns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some layers slice
        smaller = prune(model, widths, input).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        smaller(input)
    return sum(parameter.numel() for parameter in smaller.parameters()), counter.get_total_flops() / 2


@pytest.mark.parametrize("seed", SEEDS)
def test_costs_are_those_of_prune_at_any_widths(seed: int) -> None:
    """Random networks with gates, heads, branches, chains, concatenations and convolutions, at three or five widths each."""
    model, what = network(seed)
    input = torch.randn(24, 4, dtype=torch.float64)
    full, draw = features(model, input), random.Random(seed)
    count, macs = (CostModel(model, full, input, macs=macs) for macs in (False, True))
    for _ in range(3 if seed < len(PARTS) else 5):
        widths = {name: draw.choice([1, n, draw.randint(1, n)]) for name, n in full.items()}
        assert (count(widths), macs(widths)) == true_costs(model, widths, input), (what, widths)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.h1, self.h2 = nn.Linear(8, 32), nn.Linear(32, 4), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.trunk(x).tanh()
        return torch.cat([self.h1(hidden), self.h2(hidden)], 1)


def gated() -> nn.Module:
    return Wired(
        lambda m, x: m["o"](m["dg"](nn.functional.silu(m["g"](x))) * m["du"](m["u"](x))),
        **{"g": nn.Linear(8, 32), "u": nn.Linear(8, 32), "dg": TailDropout(), "du": TailDropout(), "o": nn.Linear(32, 8)},
    )


SHARED: dict[str, tuple[Callable[[], nn.Module], int, int]] = {  # parameters at full width and at one feature, by hand
    "two heads": (lambda: insert_dropout(TwoHeads(), before=["h1", "h2"]), 32 * 9 + 2 * 4 * 33, 9 + 2 * 4 * 2),
    "gate and value": (gated, 2 * 32 * 9 + 8 * 33, 2 * 9 + 8 * 2),
    "in a row": (
        lambda: nn.Sequential(nn.Linear(8, 32), TailDropout(), nn.ReLU(), TailDropout(), nn.Linear(32, 8)),
        32 * 9 + 8 * 33, 9 + 8 * 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHARED)
def test_half_the_parameters_are_half_where_layers_share_features(name: str) -> None:
    build, most, least = SHARED[name]
    torch.manual_seed(0)
    model, inputs = build().eval(), [torch.randn(24, 8) for _ in range(2)]
    batches = [(x, x.tanh()) for x in inputs]
    curve = frontier(model, batches, nn.MSELoss(), inputs[0], sizes=5, max_forwards=60)
    assert curve.full.cost == most
    assert curve.points[0].cost == least
    for size in curve.points:
        assert size.cost == true_costs(model, dict(size.widths), inputs[0])[0]
    assert true_costs(model, curve.choose(cost=0.5), inputs[0])[0] <= 0.5 * most


def test_layers_that_share_nothing_take_two_plans(planned: list[dict[str, int]]) -> None:
    """However many layers, and however many widths are counted."""
    model, layers = llama(), {f"{block}.mlp.drop": 64 for block in range(8)}
    count = CostModel(model, layers, torch.randn(5, 8), macs=False)
    draw = random.Random(0)
    for _ in range(300):
        count({name: draw.randint(1, n) for name, n in layers.items()})
    assert planned == [dict.fromkeys(layers, 1), dict.fromkeys(layers, 63)]


@pytest.mark.parametrize("name", SHARED)
def test_layers_that_share_features_take_few_plans(planned: list[dict[str, int]], name: str) -> None:
    model, input = SHARED[name][0]().eval(), torch.randn(24, 8)
    full = features(model, input)
    count = CostModel(model, full, input, macs=False)
    for first in range(1, 33):
        for second in range(1, 33):
            count(dict(zip(full, (first, second), strict=True)))
    assert len(planned) <= 6


def test_where_losses_are_not_linear_each_width_is_planned(planned: list[dict[str, int]]) -> None:
    """A GroupNorm in pairs before the layer: its channels can be cut at even widths only."""
    layers = nn.Conv2d(2, 8, 1), nn.GroupNorm(4, 8), nn.ReLU(), TailDropout(dropout_dim=1), nn.Conv2d(8, 3, 1)
    model, input = nn.Sequential(*layers).double().eval(), torch.randn(6, 2, 5, 5, dtype=torch.float64)
    count = CostModel(model, {"3": 8}, input, macs=False)
    costs = [count({"3": k}) for k in range(1, 9)]
    assert costs == [true_costs(model, {"3": k}, input)[0] for k in range(1, 9)]
    assert costs[3] == 4 * 3 + 2 * 4 + 3 * 5, "cut before and after the layer"
    assert costs[2] == 8 * 3 + 2 * 8 + 3 * 4, "cut after it only"
    assert {"3": 5} in planned


def test_a_bias_is_counted_where_pruning_adds_one() -> None:
    """Sigmoid gives 1/2 for each feature that only the first layer drops; what the second drops is 0 and needs no bias."""
    layers = nn.Linear(4, 6), TailDropout(), nn.Sigmoid(), TailDropout(), nn.Linear(6, 3, bias=False)
    model, input = nn.Sequential(*layers).double().eval(), torch.randn(24, 4, dtype=torch.float64)
    count = CostModel(model, {"1": 6, "3": 6}, input, macs=False)
    for ks, bias in (((2, 4), 3), ((4, 2), 0), ((3, 3), 0), ((5, 6), 3), ((6, 5), 0)):
        widths = dict(zip(("1", "3"), ks, strict=True))
        assert count(widths) == 5 * min(ks) + 3 * min(ks) + bias == true_costs(model, widths, input)[0]


def test_widths_that_cannot_be_cut_are_an_error() -> None:
    """One Linear reads the sum of two layers, which can be cut to equal widths only."""
    parts = {"a": nn.Linear(4, 6), "b": nn.Linear(4, 6), "d1": TailDropout(), "d2": TailDropout(), "o": nn.Linear(6, 2)}
    model = Wired(lambda m, x: m["o"](m["d1"](m["a"](x)) + m["d2"](m["b"](x))), **parts)
    batches = [(torch.randn(8, 4), torch.randn(8, 2)) for _ in range(2)]
    with pytest.raises(PruningError, match="cannot be cut to k="):
        frontier(model, batches, nn.MSELoss(), batches[0][0])


@pytest.mark.parametrize("several", [False, True])
def test_macs_of_operations_without_a_weight_module(planned: list[dict[str, int]], several: bool) -> None:
    """A GRU counts its own products. They fall by a constant per feature, and with the smaller of two widths."""

    def wiring(m: nn.ModuleDict, x: Tensor) -> Tensor:
        read = m["d"](m["a"](x))
        return m["o"](m["gru"](m["e"](read) if several else read)[0])

    parts = {"a": nn.Linear(4, 6), "d": TailDropout(), "gru": nn.GRU(6, 5, batch_first=True), "o": nn.Linear(5, 3)}
    model = Wired(wiring, **parts, **({"e": TailDropout()} if several else {})).double().eval()
    input = torch.randn(4, 7, 4, dtype=torch.float64)
    layers = dict.fromkeys(["parts.d", "parts.e"][: 1 + several], 6)
    macs, seen = CostModel(model, layers, input, macs=True), len(planned)
    for ks in ((1, 1), (3, 5), (5, 3), (6, 2), (6, 6)):
        widths = dict(zip(layers, ks, strict=False))
        assert macs(widths) == true_costs(model, widths, input)[1]
    assert macs(layers) - macs(dict.fromkeys(layers, 5)) == 4 * 7 * (4 + 3 * 5)
    assert (len(planned) > seen) == several
