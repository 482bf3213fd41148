"""Small networks to prune, and the comparison of what comes out with the network under set_k."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from taildropout import TailDropout, at_k, prune

CHANNELS = {"dropout_dim": 1}


class Wired(nn.Module):
    """Modules by name, and a function that says how they are connected."""

    def __init__(self, wiring: Callable[..., object], **modules: nn.Module) -> None:
        super().__init__()
        self.wiring = wiring
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs: object, **named: object) -> object:
        return self.wiring(self, *inputs, **named)


def mlp(n: int = 8, activation: nn.Module | None = None, **options: object) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, n), activation or nn.ReLU(), TailDropout(**options), nn.Linear(n, 2)).double()


def x(*shape: int) -> Tensor:
    return torch.randn(*(shape or (6, 5)), dtype=torch.float64)


def followed(*modules: nn.Module, wiring: Callable[..., object] | None = None, channels: bool = False) -> nn.Module:
    first, options = (nn.Conv2d(3, 8, 3), CHANNELS) if channels else (nn.Linear(5, 8), {})
    wiring = wiring or (lambda m, x: m.after(m.drop(m.a(x))))
    return Wired(wiring, a=first, drop=TailDropout(**options), after=nn.Sequential(*modules))


def lively(model: nn.Module) -> nn.Module:
    """Return the model in float64, with running statistics as after training."""
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 2)
    return model.double()


def evaluated(model: nn.Module, *inputs: object, k: int | None = None, layer: str = "", **named: object) -> object:
    """Return a copy's output in evaluation, with the transformer's fast path if k is not set."""
    model = copy.deepcopy(model)
    for module in model.modules():
        module.training = False
    with torch.no_grad():
        inputs = [each.clone() if isinstance(each, Tensor) else each for each in inputs]
        if k is None:
            return model(*inputs, **named)
        with at_k(model, k, layer):
            return model(*inputs, **named)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def checked(model: nn.Module, layer: str, k: int, input: Tensor, **options: bool) -> nn.Module:
    """Prune, and compare on inputs that prune has not seen."""
    given = input.clone()
    smaller = prune(model, layer, k, input, **options)
    assert torch.equal(input, given)
    torch.manual_seed(1)
    for other in (input, torch.randn_like(input) if input.is_floating_point() else input.flip(0)):
        torch.testing.assert_close(
            evaluated(smaller, other), evaluated(model, other, k=k, layer=layer), rtol=1e-10, atol=1e-10, check_stride=False
        )
    return smaller


class Chain(nn.Module):
    """What follows the layer is `after`, what comes before it `before`; `sliced` takes the first features in between."""

    def __init__(self, before: nn.Module, after: nn.Module, sliced: int | None = None, **options: object) -> None:
        super().__init__()
        self.before, self.drop, self.after, self.sliced = before, TailDropout(**options), after, sliced

    def forward(self, input: Tensor) -> Tensor:
        hidden = self.before(input)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        if self.sliced is not None:
            hidden = hidden.narrow(self.drop.dropout_dim, 0, self.sliced)
        return self.after(self.drop(hidden))


def feed_forward(width: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, width, batch_first=True)
    layer.dropout = TailDropout()
    return layer


def two(first: int, second: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, first), nn.ReLU(), TailDropout(), nn.Linear(first, second), TailDropout(), nn.Linear(second, 2)
    )


def gru(width: int, sliced: int | None = None) -> nn.Module:
    return Chain(nn.GRU(5, 8), nn.Linear(width, 3), sliced, batch_dim=1, dropout_dim=2)
