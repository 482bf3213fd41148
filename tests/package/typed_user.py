"""What someone might write with every public name: the type checkers read it, and a test runs it."""

from collections.abc import Mapping
from typing import assert_type

import torch
from torch import Tensor, nn

from taildropout import (
    CensoredGeometric,
    Frontier,
    GatedTailMLP,
    PruningError,
    Scree,
    TailDropout,
    TailMLP,
    at_k,
    baselines,
    frontier,
    get_scale_param,
    insert_dropout,
    keep_first,
    load_pruned,
    prune,
    rate,
    remove_dropout,
    replace_dropout,
    scree,
    tail_dropout,
)


class Net(nn.Module):
    """A model with a method of its own, which must still be known after a cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.drop: nn.Module = nn.Dropout(0.5)
        self.last = nn.Linear(8, 2)

    def forward(self, input: Tensor) -> Tensor:
        """Two layers."""
        output: Tensor = self.last(self.drop(self.first(input)))
        return output

    def size(self) -> int:
        """Count the parameters."""
        return sum(parameter.numel() for parameter in self.parameters())


def features(widths: Mapping[str, int]) -> float:
    """Count the features that are kept."""
    return float(sum(widths.values()))


def whole() -> int:
    """From nn.Dropout to a smaller network."""
    net = assert_type(replace_dropout(Net(), "drop", batch_dim=0), Net)
    assert_type(insert_dropout(net, before=["last"], p=0.25, batch_dim=None), Net)
    with at_k(net, {"last.*": 2, "drop": torch.tensor(1)}, at_most=True):
        assert_type(remove_dropout(net, "last"), Net)
    batches = [(torch.randn(16, 4), torch.randn(16, 2)) for _ in range(2)]
    with at_k(net.eval(), 3, names=["drop"]) as at_three:
        assert_type(at_three, Net)
        assert_type(at_three.size(), int)
    found = assert_type(scree(net, "drop", batches, nn.MSELoss(), widths="log", progress=False), Scree)
    k = assert_type(found.choose(tolerance=10.0), int)
    curve = assert_type(frontier(net, batches, nn.MSELoss(), cost=features, sizes=2, max_forwards=9, progress=False), Frontier)
    assert_type(curve.choose(tolerance=10.0), dict[str, int])
    try:
        smaller = prune(net, "drop", max(1, k), torch.randn(5, 4))
        assert_type(prune(net, {"*": max(1, k)}, torch.randn(5, 4)), Net)
    except PruningError as error:
        raise SystemExit(str(error)) from error
    assert_type(load_pruned(net, smaller.state_dict()), Net)
    return assert_type(smaller, Net).size()


def parts() -> list[Tensor]:
    """Layer, functions, law and block."""
    layer = TailDropout(p=0.5, batch_dim=[0], dropout_dim=-1)
    layer.set_p(0.25)
    layer.set_k(torch.tensor(3))
    layer.set_k(None)
    assert_type(layer.p, float)
    assert_type(layer.k, Tensor | None)
    input = torch.randn(6, 8)
    law = CensoredGeometric(0.5, 8)
    scale: float = rate(0.5, 8) * get_scale_param(0.5)
    block = TailMLP(8, 16, 8, activation=nn.GELU(), p=0.5)
    output: Tensor = layer(input)
    gated = GatedTailMLP(8, 16, 8, activation=nn.SiLU(), p=0.5)
    return [output, block(input), gated(input), tail_dropout(input, 0.5), keep_first(input, 3), law.mean * scale]


def others() -> list[Tensor]:
    """The layers of the field."""
    input = torch.randn(6, 8)
    layers: list[nn.Module] = [
        baselines.DropConnectLinear(8, 8),
        baselines.InvertedDropout(0.5),
        baselines.LearnedDropout(8, 2),
        baselines.NestedDropout("uniform", min_k=1),
        baselines.StochasticReLU(),
    ]
    x, y = torch.randn(20, 3), torch.randn(20)
    moments = [baselines.dropout_moments(3, 0.5), baselines.tail_dropout_moments(3, 0.5)]
    solution = baselines.marginal_solution(x, y, moments[0])
    return [layer(input) for layer in layers] + [baselines.marginal_loss(x, y, solution, moments[1])]


if __name__ == "__main__":
    print(whole(), len(parts()), len(others()))
