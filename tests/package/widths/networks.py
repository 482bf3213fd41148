"""Networks around a TailDropout, with what scree should say of them, and the loop over widths that it stands for."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from taildropout import TailDropout, at_k

per_element = nn.MSELoss(reduction="none")


def loop(model: nn.Module, name: str, batches: Any, loss: Any, widths: Any) -> Tensor:
    """Losses by the obvious loop: (widths, samples), or means weighted by the elements of their target."""
    rows = []
    with torch.no_grad():
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        for k in widths:
            with at_k(model, k, name):
                values, weights = [], []
                for input, target in batches:
                    value = torch.as_tensor(loss(model(input), target)).double()
                    value = value.flatten(1).mean(1) if value.dim() > 1 else value
                    values.append(value.reshape(-1))
                    weights.append(torch.full_like(value.reshape(-1), target.numel() if value.dim() == 0 else 1))
            values, weights = torch.cat(values), torch.cat(weights)
            rows.append((values * weights).sum() / weights.sum())
        for module, training in modes:
            module.training = training
    return torch.stack(rows)


normal = functools.partial(torch.randn, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def regression(
    *shape: int, out: tuple[int, ...] = (3,), sizes: Sequence[int] = (7, 7, 4), dim: int = 0
) -> list[tuple[Tensor, Tensor]]:
    """Batches of normal numbers: `shape` and `out` stand for one sample, whose dim is put at `dim`."""
    return [(normal(b, *shape).movedim(0, dim), normal(b, *out).movedim(0, dim)) for b in sizes]


def classes(n: int, c: int, sizes: Sequence[int] = (7, 7, 4)) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(b, n, dtype=torch.float64), torch.randint(c, (b,))) for b in sizes]


def computed(module: nn.Module) -> list[int]:
    """Return a list to which each real (not replayed) call of a module adds its number of samples."""
    rows: list[int] = []
    forward = module.forward

    def count(*args: Any) -> Any:
        rows.append(len(args[0]))
        return forward(*args)

    module.forward = count
    return rows


class Recurrent(nn.Module):
    """Time first; the GRU behind the layer mixes along dim 0, so that copies can only lie along dim 1."""

    def __init__(self, batch_dim: int | Sequence[int]) -> None:
        super().__init__()
        self.first, self.drop = nn.GRU(3, 8), TailDropout(0.5, batch_dim)
        self.second, self.last = nn.GRU(8, 5), nn.Linear(5, 3)

    def forward(self, input: Tensor) -> Any:
        return self.last(self.second(self.drop(self.first(input)[0]))[0])


class Custom(nn.Module):
    """Linear, layer, Linear, put together by a function."""

    def __init__(self, compose: Callable[[Any, Tensor], Tensor], **options: Any) -> None:
        super().__init__()
        self.encode, self.drop, self.decode = nn.Linear(5, 12), TailDropout(0.5, **options), nn.Linear(12, 3)
        self.widen = nn.Linear(3, 12)
        self.act, self.norm = nn.ReLU(inplace=True), nn.BatchNorm1d(12)
        self.compose = compose

    def forward(self, input: Tensor) -> Any:
        return self.compose(self, input)


def residual(net: Any, x: Tensor) -> Tensor:
    h = net.encode(x)
    return net.decode(h + net.drop(h).sin())


def centred(net: Any, x: Tensor) -> Tensor:
    z = net.drop(net.encode(x)).tanh()
    return net.decode(z - z.mean(0))


def twice(net: Any, x: Tensor) -> Tensor:
    return net.decode(net.drop(net.drop(net.encode(x)).sin() + 1))


def changed_before(net: Any, x: Tensor) -> Tensor:
    h = net.encode(x)
    h += x.sum(1, keepdim=True)  # in place, on what a module gave
    return net.decode(net.drop(h).sin())


def changed_further_before(net: Any, x: Tensor) -> Tensor:
    h = net.encode(x)
    h.mul_(2)
    return net.decode(net.drop(h + 1).sin())


def two_heads(net: Any, x: Tensor) -> Tensor:
    z = net.drop(net.encode(x))
    return net.decode(z) + nn.functional.linear(net.widen(net.decode(z)), net.decode.weight)


def in_place_after(net: Any, x: Tensor) -> Tensor:
    return net.decode(net.act(net.drop(net.act(net.encode(x)))))


def flattened(net: Any, x: Tensor) -> Tensor:
    z = net.drop(net.encode(x.reshape(len(x), -1, 5)))
    return net.decode(z.reshape(-1, 12)).reshape(len(z), -1, 3)


def used_otherwise(net: Any, x: Tensor) -> Tensor:
    z = net.drop(net.encode(x))
    return net.decode(z) + z[:, :3]


def own_batch_size(net: Any, x: Tensor) -> Tensor:
    return net.decode(net.drop(net.encode(x)).view(x.shape[0], -1).sin())


def wide_linear() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 12), nn.ReLU(), TailDropout(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3))


def normalised() -> nn.Module:
    net = nn.Sequential(nn.Linear(5, 12), TailDropout(), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))
    net(torch.randn(50, 5))  # statistics of its own
    return net


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), TailDropout(0.5, 0, 1), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(16, 3)
    )


def tokens(batch_dim: int | Sequence[int]) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), TailDropout(0.5, batch_dim), nn.Tanh(), nn.Linear(8, 3))


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)
    layer.dropout = TailDropout(0.5, (0, 1))
    return nn.Sequential(layer, nn.Linear(8, 3))


SUMS, COPIES, EACH, ONE = "running sums", "copies", "one k per sample along dim", "one width at a time:"
NETWORKS = {
    "mlp": (wide_linear, "2", regression(5), f"{SUMS} along dim 0"),
    "linear last": (lambda: nn.Sequential(nn.Linear(5, 12), TailDropout(), nn.Linear(12, 3)), "1", regression(5), SUMS),
    "no bias": (lambda: nn.Sequential(TailDropout(), nn.Linear(5, 3, bias=False)), "0", regression(5), SUMS),
    "layer last": (lambda: nn.Sequential(nn.Linear(5, 3), TailDropout()), "1", regression(5), COPIES),
    "layer alone": (TailDropout, "", regression(3), COPIES),
    "batch norm behind": (normalised, "1", regression(5), COPIES),
    "conv": (conv, "2", regression(2, 6, 6), f"{COPIES} along dim 0"),
    "a k per token": (lambda: tokens((0, 1)), "1", regression(4, 5, out=(4, 3)), f"{COPIES} along dim 0"),
    "a k per token, then Linear": (
        lambda: nn.Sequential(TailDropout(0.5, [0, 1]), nn.Linear(5, 3)), "0", regression(4, 5, out=(4, 3)), SUMS,
    ),
    "one k for all": (lambda: tokens(()), "1", regression(5), f"{COPIES} along dim 0"),
    "one k for all, time first": (lambda: Recurrent(()), "drop", regression(6, 3, out=(6, 3), dim=1), f"{COPIES} along dim 1"),
    "time first": (lambda: Recurrent(1), "drop", regression(6, 3, out=(6, 3), dim=1), f"{COPIES} along dim 1"),
    "time first, a k per token": (
        lambda: Recurrent((0, 1)), "drop", regression(6, 3, out=(6, 3), dim=1), f"{COPIES} along dim 1",
    ),
    "time first, then Linear": (
        lambda: nn.Sequential(TailDropout(0.5, 1), nn.Linear(5, 3)), "0", regression(6, 5, out=(6, 3), dim=1),
        f"{SUMS} along dim 1",
    ),
    "transformer": (transformer, "0.dropout", regression(4, 8, out=(4, 3)), f"{EACH} 0: "),
    "one sample a batch": (wide_linear, "2", regression(5, sizes=(1, 1, 1)), SUMS),
    "around the layer": (lambda: Custom(residual), "drop", regression(5), f"{EACH} 0: copies along dim 0 do not work"),
    "samples mixed": (lambda: Custom(centred), "drop", regression(5), f"{ONE} copies along dim 0 do not work"),
    "called twice": (lambda: Custom(twice), "drop", regression(5), f"{EACH} 0: the model calls the layer 2 times"),
    "one dim": (
        lambda: nn.Sequential(TailDropout(0.5, ()), nn.Linear(5, 3)), "0",
        [(normal(5), normal(3))] * 2, f"{ONE} the input of the layer has no dim",
    ),
    "in place before": (lambda: Custom(changed_before), "drop", regression(5), f"{COPIES} along dim 0, all of the model"),
    "in place further before": (
        lambda: Custom(changed_further_before), "drop", regression(5), f"{COPIES} along dim 0, all of the model",
    ),
    "two heads": (lambda: Custom(two_heads), "drop", regression(5), SUMS),
    "in place behind": (lambda: Custom(in_place_after), "drop", regression(5), COPIES),
    "in place in the layer": (lambda: Custom(in_place_after, inplace=True), "drop", regression(5), COPIES),
    "rows merged": (lambda: Custom(flattened), "drop", regression(4, 5, out=(4, 3)), COPIES),
    "used besides the Linear": (lambda: Custom(used_otherwise), "drop", regression(5), COPIES),
    "a batch size from before": (lambda: Custom(own_batch_size), "drop", regression(5), f"{EACH} 0: copies along dim 0"),
}  # fmt: skip
