"""Small random networks whose TailDropouts share features or feed each other, for tests of costs."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn

from taildropout import TailDropout

N = 6  # features of most layers


class Wired(nn.Module):
    """Modules, and a function of them and the input."""

    def __init__(self, forward: Callable[[nn.ModuleDict, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.parts, self.wiring = nn.ModuleDict(modules), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.wiring(self.parts, x)


def _activation(draw: random.Random) -> nn.Module:
    return draw.choice([nn.ReLU, nn.Sigmoid, nn.SiLU, nn.Tanh])()


def gate(draw: random.Random) -> nn.Module:
    """A TailDropout on the gate and one on the value."""
    parts = {"g": nn.Linear(4, N), "u": nn.Linear(4, N, draw.random() < 0.5), "o": nn.Linear(N, 4, draw.random() < 0.5)}
    return Wired(
        lambda m, x: m["o"](m["dg"](nn.functional.silu(m["g"](x))) * m["du"](m["u"](x))),
        **parts, dg=TailDropout(), du=TailDropout(),
    )  # fmt: skip


def heads(draw: random.Random) -> nn.Module:
    """Two or three heads that read the same features, each after a TailDropout; sometimes also one without."""
    many = draw.choice([2, 2, 3])
    parts: dict[str, nn.Module] = {f"h{each}": nn.Linear(N, 4) for each in range(many)}
    drops: dict[str, nn.Module] = {f"d{each}": TailDropout() for each in range(many)}
    plain = {"plain": nn.Linear(N, 4)} if draw.random() < 0.2 else {}

    def wiring(m: nn.ModuleDict, x: Tensor) -> Tensor:
        read = m["t"](x).tanh()  # no feature is 0 on all inputs by chance
        read_plainly = m["plain"](read) if plain else 0
        return sum((m[f"h{each}"](m[f"d{each}"](read)).tanh() for each in range(many)), read_plainly)

    return Wired(wiring, t=nn.Linear(4, N), **parts, **drops, **plain)


def branch(draw: random.Random) -> nn.Module:
    """A head after one TailDropout, and one after two more on the same features."""

    def wiring(m: nn.ModuleDict, x: Tensor) -> Tensor:
        read = m["t"](x).tanh()  # no feature is 0 on all inputs by chance
        return m["a"](m["d0"](read)) + m["b"](m["d2"](m["f"](m["d1"](read)))).tanh()

    layers = {f"d{each}": TailDropout() for each in range(3)}
    return Wired(
        wiring, t=nn.Linear(4, N), a=nn.Linear(N, 4), b=nn.Linear(N, 4, draw.random() < 0.5), f=_activation(draw), **layers
    )


def behind(draw: random.Random) -> nn.Module:
    """A TailDropout that two heads read, one of them after another TailDropout."""

    def wiring(m: nn.ModuleDict, x: Tensor) -> Tensor:
        read = m["d0"](m["t"](x).tanh())
        return m["a"](read) + m["b"](m["d1"](read)).tanh()

    return Wired(wiring, t=nn.Linear(4, N), a=nn.Linear(N, 4), b=nn.Linear(N, 4), d0=TailDropout(), d1=TailDropout())


def twice(draw: random.Random) -> nn.Module:
    """Two TailDropouts on the same features, one after the other."""
    between = [_activation(draw), nn.BatchNorm1d(N), nn.Identity()]
    return nn.Sequential(
        *(nn.Linear(4, N), TailDropout(), draw.choice(between), TailDropout(), nn.Linear(N, 4, draw.random() < 0.5))
    )


def chain(draw: random.Random) -> nn.Module:
    """Hidden layers that feed each other."""
    bias = draw.random() < 0.5
    return nn.Sequential(
        *(nn.Linear(4, N), _activation(draw), TailDropout(), nn.Linear(N, 5, bias), _activation(draw), TailDropout()),
        nn.Linear(5, 4, bias),
    )


def block(draw: random.Random) -> nn.Module:
    """A feed-forward block with a norm and a residual connection; the second TailDropout slices."""
    parts = {"up": nn.Linear(4, N), "down": nn.Linear(N, 4), "norm": nn.LayerNorm(4), "f": _activation(draw)}
    if draw.random() < 0.5:
        return Wired(lambda m, x: x + m["down"](m["d"](m["f"](m["up"](m["norm"](x))))), **parts, d=TailDropout())
    return Wired(
        lambda m, x: x + m["down"](m["d"](m["f"](m["up"](m["d1"](m["norm"](x)))))), **parts, d=TailDropout(), d1=TailDropout()
    )


def concatenation(draw: random.Random) -> nn.Module:
    """One Linear reads two layers side by side."""
    parts = {"a": nn.Linear(4, N), "b": nn.Linear(4, 5), "o": nn.Linear(N + 5, 4, draw.random() < 0.5)}
    f, g = _activation(draw), _activation(draw)
    return Wired(
        lambda m, x: m["o"](torch.cat([m["f"](m["da"](m["a"](x))), m["g"](m["db"](m["b"](x)))], 1)),
        **parts, f=f, g=g, da=TailDropout(), db=TailDropout(),
    )  # fmt: skip


def convolutions(draw: random.Random) -> nn.Module:
    """Channels, then features after a flattening; sometimes TailDropouts on both sides of the flattening."""
    norm = draw.choice([nn.Identity(), nn.BatchNorm2d(N), nn.GroupNorm(3, N)])
    both = [TailDropout()] if draw.random() < 0.4 else []
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, N, 1), norm, nn.ReLU(), TailDropout(dropout_dim=1), nn.Flatten(), *both),
        *(nn.Linear(4 * N, 5), nn.Sigmoid(), TailDropout(), nn.Linear(5, 4)),
    )


PARTS = (gate, heads, branch, behind, twice, chain, block, concatenation, convolutions)


def network(seed: int) -> tuple[nn.Module, str]:
    """Return one or two random parts in a row, in float64, and their names."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    parts = [PARTS[seed % len(PARTS)], *draw.choices(PARTS, k=draw.choice([0, 1]))]
    return nn.Sequential(*(part(draw) for part in parts)).double().eval(), " then ".join(part.__name__ for part in parts)
