"""frontier: near the optimum of an exhaustive search, in few forwards, with costs as prune makes them."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from package.widths.decoder import Block
from package.widths.networks import computed
from torch import Tensor, nn

from taildropout import Frontier, TailDropout, at_k, frontier, prune, scree
from taildropout.widths.costs import CostModel
from taildropout.widths.descent import Search

WIDTHS = {"2": 9, "5": 7, "8": 6}


def trained() -> tuple[nn.Module, list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    """Train an MLP with three TailDropouts on a smooth function; return it with batches for validation and testing."""
    torch.manual_seed(0)
    sizes = [6, *WIDTHS.values()]
    parts = [[nn.Linear(a, b), nn.Tanh(), TailDropout(0.4)] for a, b in itertools.pairwise(sizes)]
    model = nn.Sequential(*itertools.chain(*parts), nn.Linear(sizes[-1], 2))
    teacher = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 2)).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(400):
        x = torch.randn(128, 6)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), teacher(x)).backward()
        optimizer.step()
    inputs = [torch.randn(128, 6) for _ in range(4)]
    batches = [(x, teacher(x) + 0.02 * torch.randn(128, 2)) for x in inputs]
    return model.eval(), batches[:2], batches[2:]


@pytest.fixture(scope="module")
def network() -> Any:
    return trained()


def mean_loss(model: nn.Module, widths: Any, batches: Any, loss: Any = nn.functional.mse_loss) -> float:
    with torch.no_grad(), at_k(model, widths):
        return float(torch.stack([loss(model(x), y) for x, y in batches]).double().mean())


def parameters(widths: Any) -> int:
    sizes = [6, *widths.values(), 2]
    return sum(a * b + b for a, b in itertools.pairwise(sizes))


def every_choice(model: nn.Module, batches: Any) -> list[tuple[int, float]]:
    """Cost and loss of every choice of widths."""
    choices = itertools.product(*(range(1, n + 1) for n in WIDTHS.values()))
    named = [dict(zip(WIDTHS, widths, strict=True)) for widths in choices]
    return [(parameters(widths), mean_loss(model, widths, batches)) for widths in named]


@pytest.fixture(scope="module")
def choices(network: Any) -> list[tuple[int, float]]:
    return every_choice(*network[:2])


@pytest.mark.parametrize("max_forwards", [200, 1000])
def test_it_is_within_one_percent_of_an_exhaustive_search(
    network: Any, choices: list[tuple[int, float]], max_forwards: int
) -> None:
    """378 choices: with 1000 forwards all are evaluated, with 200 they are searched."""
    model, batches, held_out = network
    forwards = computed(model[-1])
    curve = frontier(model, batches, nn.MSELoss(), cost=parameters, held_out=held_out, max_forwards=max_forwards)
    del model[-1].forward
    assert len(curve) >= 15
    assert curve.forwards <= min(max_forwards, len(choices))
    assert len(forwards) <= curve.forwards * len(batches) + len(curve) * len(held_out) + 10
    for size in curve.points:
        assert size.cost == parameters(size.widths)
        assert size.search_loss == pytest.approx(mean_loss(model, size.widths, batches), rel=1e-5)
        assert size.loss == pytest.approx(mean_loss(model, size.widths, held_out), rel=1e-5)
        best = min(loss for cost, loss in choices if cost <= size.cost)
        assert size.search_loss <= best * (1 + (0.01 if max_forwards == 200 else 1e-6)), size
    assert curve.full.widths == WIDTHS
    assert curve.full.search_loss == pytest.approx(mean_loss(model, WIDTHS, batches), rel=1e-5)
    losses = [size.search_loss for size in curve.points]
    assert losses == sorted(losses, reverse=True)
    costs = [size.cost for size in curve.points]
    assert costs == sorted(costs)
    for share in (0.15, 0.3, 0.5, 0.8):
        widths = curve.choose(cost=share)
        assert parameters(widths) <= share * parameters(WIDTHS)


def test_the_widths_are_better_than_equal_shares(network: Any) -> None:
    model, batches, held_out = network
    curve = frontier(model, batches, nn.MSELoss(), torch.randn(3, 6), held_out=held_out)
    for share in (0.3, 0.5, 0.7):
        equal = {name: max(1, int(share * n)) for name, n in WIDTHS.items()}
        widths = curve.choose(cost=parameters(equal))
        assert mean_loss(model, widths, batches) <= mean_loss(model, equal, batches)


def llama(layers: int = 8, dim: int = 8, hidden: int = 64) -> nn.Module:
    """Feed-forward blocks with norms and residual connections: a Llama without attention."""
    torch.manual_seed(0)
    model = nn.Sequential(*(Block(dim, hidden, heads=0) for _ in range(layers)), nn.Linear(dim, 3))
    with torch.no_grad():  # as if trained: each layer with features that fall in importance, some layers faster than others
        for number, block in enumerate(list(model)[:-1]):
            block.mlp.down_proj.weight *= 8 * torch.exp(-torch.arange(hidden) * (number + 1) / hidden)
    return model.eval()


def test_twenty_sizes_of_eight_layers_in_two_hundred_forwards() -> None:
    model = llama()
    target = llama()
    inputs = [torch.randn(16, 8) for _ in range(2)]
    batches = [(x, target(x).detach()) for x in inputs]
    forwards = computed(model[-1])
    curve = frontier(model, batches, nn.MSELoss(), cost=lambda widths: sum(widths.values()), held_out=batches[:1])
    assert len(curve) == 20
    assert curve.forwards <= 200
    assert len(forwards) <= 200 * 2 + 20 + 1
    del model[-1].forward
    assert curve.points[-1].widths == {f"{block}.mlp.drop": 64 for block in range(8)}
    equal = {f"{block}.mlp.drop": 16 for block in range(8)}
    assert curve.choose(cost=8 * 16)["0.mlp.drop"] > curve.choose(cost=8 * 16)["7.mlp.drop"], "its features matter longer"
    assert mean_loss(model, curve.choose(cost=8 * 16), batches) < 0.5 * mean_loss(model, equal, batches)


def pruned(model: nn.Module, widths: dict[str, int], inputs: Tensor) -> nn.Module:
    for name, k in widths.items():
        model = prune(model, name, k, inputs)
    return model


def feeding_each_other() -> tuple[nn.Module, Tensor, dict[str, int]]:
    model = nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), TailDropout(0.5, 0, 1)),
        *(nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(), TailDropout(0.5, 0, 1), nn.Flatten()),
        *(nn.Linear(5 * 16, 9, bias=False), nn.Sigmoid(), TailDropout(), nn.Linear(9, 3, bias=False)),
    )
    return model, torch.randn(2, 2, 6, 6), {"3": 6, "6": 5, "10": 9}


@pytest.mark.parametrize("name", ["mlp", "conv", "llama"])
def test_costs_are_those_of_the_pruned_network(network: Any, name: str) -> None:
    pytest.importorskip("torch_pruning")
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    if name == "mlp":
        model, inputs, layers = network[0], torch.randn(5, 6), WIDTHS
    elif name == "conv":
        model, inputs, layers = feeding_each_other()
    else:
        model, inputs, layers = llama(2, 6, 8), torch.randn(5, 6), {"0.mlp.drop": 8, "1.mlp.drop": 8}
    count = CostModel(model, layers, inputs, macs=False)
    macs = CostModel(model, layers, inputs, macs=True)
    for share in (1.0, 0.7, 0.4, 0.1):
        widths = {layer: max(1, round(share * n)) for layer, n in layers.items()}
        smaller = pruned(model, widths, inputs).eval()
        assert count(widths) == sum(parameter.numel() for parameter in smaller.parameters())
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            smaller(inputs)
        assert macs(widths) == pytest.approx(counter.get_total_flops() / 2)
    uneven = dict(zip(layers, (3, 5, 2), strict=False))
    assert count(uneven) == sum(parameter.numel() for parameter in pruned(model, uneven, inputs).parameters())


def test_a_chosen_size_can_be_pruned_and_computes_the_same(network: Any) -> None:
    pytest.importorskip("torch_pruning")
    model, batches, _ = network
    curve = frontier(model, batches, nn.MSELoss(), torch.randn(3, 6), cost="macs", max_forwards=60)
    widths = curve.choose(cost=0.4)
    smaller = pruned(model, widths, batches[0][0])
    with at_k(model, widths), torch.no_grad():
        torch.testing.assert_close(smaller(batches[0][0]), model(batches[0][0]))


def test_layers_and_metrics_and_the_state_of_the_model(network: Any) -> None:
    model, batches, _ = network
    classes = [(x, y.argmax(1)) for x, y in batches]

    def accuracy(output: Tensor, target: Tensor) -> Tensor:
        return output.argmax(1) == target

    model.train()
    model[2].set_k(4)
    curve = frontier(
        model, iter(classes), accuracy, cost=lambda widths: widths["5"], layers=["[58]"], maximize=True, name="accuracy"
    )
    assert model.training
    assert int(model[2].k) == 4
    assert model[5].k is model[8].k is None
    assert {*curve[0].widths} == {"5", "8"}
    assert curve.name == "accuracy"
    alone = scree(model, "5", classes[1:], accuracy, maximize=True)
    assert curve.full.loss == alone[7], "at full width, with the other layer as it was set"
    assert curve.full.stderr == pytest.approx(float(alone.stderr[-1]))
    assert curve[-1].search_loss >= curve[0].search_loss
    with pytest.raises(ValueError, match="nobody said whether more is better"):
        frontier(model, classes, accuracy, cost=lambda widths: widths["5"], layers=["[58]"])
    model[2].set_k(None)
    model.eval()
    assert curve.choose(tolerance=0)["5"] <= 7


@pytest.mark.parametrize("form", [lambda layer: layer, lambda layer: [layer], lambda layer: "5"])
def test_a_layer_alone_is_searched(network: Any, form: Any) -> None:
    model, batches, _ = network
    curve = frontier(model, batches, nn.MSELoss(), cost=lambda widths: widths["5"], layers=form(model[5]), sizes=3)
    assert curve.full.widths == {"5": 7}


def test_batches_are_split_unless_others_are_given(network: Any) -> None:
    model, batches, held_out = network

    def run(batches: Any, **options: Any) -> Frontier:
        return frontier(model, batches, nn.MSELoss(), cost=parameters, max_forwards=30, sizes=4, **options)

    assert "on 1 batches, judged on 1 others" in run(batches).method
    assert run(batches).full.loss == pytest.approx(mean_loss(model, WIDTHS, batches[1:]))
    assert "on 2 batches, judged on 2 others" in run(batches, held_out=held_out).method
    assert "judged on the same one" in run(batches[:1]).method
    assert "on 1 batches" in run(batches, max_batches=1).method
    assert run(batches).cost_name == "parameters"


WRONG = {
    "layer": ({"layers": ["7"]}, KeyError, "no TailDropout is named '7'"),
    "layers of a wrong type": ({"layers": 5}, TypeError, "layer has type int; give a TailDropout of the model, or its name"),
    "a module that is no layer": ({"layers": nn.Sequential()}, TypeError, "layer has type Sequential; give a TailDropout"),
    "lists in a list": ({"layers": [["2"]]}, TypeError, "layer has type list; give a TailDropout"),
    "no cost": ({"cost": "flops"}, ValueError, "cost='flops' is no cost"),
    "no inputs": ({"cost": "macs"}, TypeError, "counted on example inputs"),
    "rising cost": ({"cost": lambda widths: -sum(widths.values())}, ValueError, "give a cost that falls"),
    "a cost that is no number": ({"cost": lambda widths: None}, TypeError, r"cost returned None \(NoneType\); let it return"),
    "a cost that is text": ({"cost": lambda widths: "12"}, TypeError, r"cost returned '12' \(str\); let it return a number"),
    "a cost that is NaN": ({"cost": lambda widths: float("nan")}, ValueError, "cost returned nan; let it return a finite"),
    "no sizes": ({"sizes": 0}, ValueError, "sizes=0"),
    "no forwards": ({"max_forwards": 0}, ValueError, "max_forwards=0 is no number of forwards"),
    "forwards without end": ({"max_forwards": None}, ValueError, "max_forwards=None .*; give an int, 1 or more$"),
    "no number of sizes": ({"sizes": None}, ValueError, "sizes=None is no number of sizes; give an int, 1 or more$"),
    "maximize": ({"maximize": "yes"}, TypeError, "maximize='yes'"),
    "held out": ({"held_out": []}, ValueError, "held_out is empty"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_a_clear_error(network: Any, name: str) -> None:
    options, kind, message = WRONG[name]
    with pytest.raises(kind, match=message):
        frontier(network[0], network[1], nn.MSELoss(), **({"cost": parameters} | options))
    with pytest.raises(ValueError, match="batches is empty"):
        frontier(network[0], [], nn.MSELoss(), cost=parameters)
    with pytest.raises(ValueError, match=r"^Linear has no TailDropout$"):
        frontier(nn.Linear(6, 2), network[1], nn.MSELoss(), cost=parameters)


def test_a_layer_that_is_never_called() -> None:
    model = nn.Sequential(nn.Linear(4, 4), TailDropout(), nn.Linear(4, 1))
    model.unused = TailDropout()
    model.forward = lambda x: model[2](model[1](model[0](x)))
    with pytest.raises(ValueError, match=r"^'unused' was not called on any sample"):
        frontier(model, [(torch.zeros(2, 4), torch.zeros(2, 1))], nn.MSELoss(), cost=lambda widths: 1)


@pytest.mark.parametrize("seed", range(4))
def test_the_search_finds_the_optimum_of_ordered_features(seed: int) -> None:
    """On sums of powers, with products between layers, whose optimum a search over all widths tells."""
    generator = torch.Generator().manual_seed(seed)
    full = (9, 12, 8)
    scale, power, price = (torch.rand(3, generator=generator).tolist() for _ in range(3))

    def loss(widths: Sequence[int]) -> Any:
        parts = [(a + 0.2) * (1 - k / n) ** (1.5 + 2 * p) for a, p, k, n in zip(scale, power, widths, full, strict=True)]
        return 1 + sum(parts) + parts[0] * parts[1]

    def cost(widths: Sequence[int]) -> float:
        return 5 + sum((0.3 + c) * k for c, k in zip(price, widths, strict=True)) + 0.1 * widths[0] * widths[1]

    least, most = cost((1, 1, 1)), cost(full)
    targets = [least + (most - least) * share for share in (1, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1, 0)]
    search = Search(full, cost, loss, 100)
    chosen = search.run(targets)
    assert len(search.known) <= 100
    for widths, target in zip(chosen, targets, strict=True):
        every = itertools.product(*(range(1, n + 1) for n in full))
        assert cost(widths) <= target
        assert loss(widths) <= 1.01 * min(loss(other) for other in every if cost(other) <= target)


def test_the_search_goes_on_where_no_layer_costs_a_loss() -> None:
    """A network that is far too wide: at first every smaller one is better."""

    def loss(widths: Sequence[int]) -> Any:
        return sum(max(k, 3) for k in widths) + (3 - min(*widths, 3))

    search = Search((40, 50), sum, loss, 60)
    chosen = search.run([90, 60, 30, 10, 2])
    assert search.known[chosen[3]] <= 10


def test_layers_that_cost_no_loss_are_shrunk() -> None:
    model = nn.Sequential(nn.Linear(4, 8), TailDropout(), nn.Linear(8, 6), TailDropout(), nn.Linear(6, 1))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    batches = [(torch.randn(16, 4), torch.randn(16, 1)) for _ in range(2)]
    curve = frontier(model, batches, nn.MSELoss(), cost=lambda widths: sum(widths.values()), sizes=4, max_forwards=20)
    assert curve.choose() == {"1": 1, "3": 1}
