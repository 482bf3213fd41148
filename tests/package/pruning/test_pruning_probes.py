"""prune refuses networks that mix features where example inputs seldom show it, and says what mixes them."""

from collections.abc import Callable

import pytest
import torch
from package.pruning.pruned import CHANNELS, Wired, checked, x
from torch import Tensor, nn

from taildropout import PruningError, TailDropout, prune
from taildropout.pruning import proving
from taildropout.pruning.probing import Probes

Wiring = Callable[[nn.Module, Tensor], Tensor]


def sparse(hidden: Tensor) -> Tensor:
    """Keep the 4 largest features, as a sparse autoencoder does."""
    return torch.where(hidden >= hidden.topk(4, -1).values[..., -1:], hidden, torch.zeros_like(hidden))


def network(after: Wiring, activation: nn.Module | None = None) -> nn.Module:
    modules = {"a": nn.Linear(5, 32), "f": activation or nn.Identity(), "drop": TailDropout(), "b": nn.Linear(32, 3)}
    return Wired(lambda m, x: after(m, m.drop(m.f(m.a(x)))), **modules, e=nn.Embedding(32, 3)).double()


MIXED: dict[str, tuple[Wiring, str]] = {
    "the largest": (lambda m, h: m.b(sparse(h)), "'topk' mixes features"),
    "which is the largest": (lambda m, h: m.b(h) + m.e(h.argmax(-1)), "'argmax' mixes features"),
    "a gate on the largest": (lambda m, h: m.b(h) * (h.amax(-1, keepdim=True) > -0.1), "'amax' mixes features"),
    "a gate on the mean": (lambda m, h: m.b(h) * (h.mean(-1, keepdim=True) > 0.15), "'mean' mixes features"),
    "a gate on a share": (lambda m, h: m.b(h) * ((h >= 0).double().mean(-1, keepdim=True) > 0.2), "'mean' mixes features"),
    "a gate on a count": (lambda m, h: m.b(h) * ((h >= 0).sum(-1, keepdim=True) > 12), "'sum' mixes features"),
    "a gate seldom crossed": (lambda m, h: m.b(h) * (h.detach().mean(-1, keepdim=True) < 0.9), "'mean' mixes features"),
    "a branch": (lambda m, h: m.b(h) if h.mean().item() < 0.5 else -m.b(h), "'item' decides by other numbers"),
    "a rounded mean": (lambda m, h: m.b(h) + h.detach().mean(-1, keepdim=True).div(9).round(), "'mean' mixes features"),
    "the least": (lambda m, h: m.b(h) - h.detach().amin(-1, keepdim=True).clamp(min=0), "'amin' mixes features"),
}


@pytest.mark.parametrize("rows", [1, 6, 40])
@pytest.mark.parametrize("name", MIXED)
def test_what_seldom_shows_is_refused_and_named(name: str, rows: int) -> None:
    """24 of 32 features are kept, at seeds at which the example inputs alone often show nothing."""
    after, message = MIXED[name]
    for seed in range(3):
        torch.manual_seed(seed)
        with pytest.raises(PruningError, match=message):
            prune(network(after), "drop", 24, x(rows, 5))


def test_without_probes_the_check_would_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the test above would show nothing."""
    monkeypatch.setattr("taildropout.pruning.proving.RUNS", 0)
    torch.manual_seed(0)
    assert prune(network(MIXED["the largest"][0]), "drop", 24, x()).b.in_features == 24


EXACT: dict[str, tuple[Wiring, nn.Module]] = {
    "the largest of features that are positive": (lambda m, h: m.b(sparse(h)), nn.ReLU()),
    "the greatest of features that are positive": (lambda m, h: m.b(h) * (h.amax(-1, keepdim=True) > 0.1), nn.Sigmoid()),
    "the least of features that are negative": (lambda m, h: m.b(h) + h.detach().amin(-1, keepdim=True), nn.LogSigmoid()),
    "a gate on the sum": (lambda m, h: m.b(h) * (h.sum(-1, keepdim=True) > 0.1), nn.Tanh()),
    "a gate on the norm": (lambda m, h: m.b(h) * (h.norm(dim=-1, keepdim=True) > 1), nn.GELU()),
    "features rounded one by one": (lambda m, h: m.b((h * 8).round() / 8), nn.Identity()),
    "features compared one by one": (lambda m, h: m.b(h * (h > 0.1)), nn.Identity()),
    "a check for numbers that overflow": (lambda m, h: m.b(h) if h.mean().isfinite() else h, nn.Identity()),
    "a mean that decides nothing": (lambda m, h: (h.mean(), m.b(h))[1], nn.Identity()),
    "a network that refuses values": (lambda m, h: m.b(only_small(h)), nn.Tanh()),
}


def only_small(hidden: Tensor) -> Tensor:
    assert not (hidden.abs() > 1).any()
    return hidden


@pytest.mark.parametrize("name", EXACT)
def test_exact_cuts_are_made(name: str) -> None:
    after, activation = EXACT[name]
    assert checked(network(after, activation), "drop", 24, x()).b.in_features == 24


def test_channels_and_a_layer_called_twice() -> None:
    def wiring(m: nn.Module, x: Tensor) -> Tensor:
        return m.b(m.drop(m.a(x))) + m.b(m.drop(m.a(-x)))

    modules = {"a": nn.Conv2d(3, 8, 3), "drop": TailDropout(**CHANNELS), "b": nn.Conv2d(8, 2, 1)}
    assert checked(Wired(wiring, **modules).double(), "drop", 3, x(2, 3, 6, 6)).b.in_channels == 3
    mixed = Wired(lambda m, x: m.b(m.drop(m.a(x))) * (m.drop(m.a(x)).detach().amax(1, keepdim=True) > -0.2), **modules)
    with pytest.raises(PruningError, match="amax"):
        prune(mixed.double(), "drop", 7, x(2, 3, 6, 6))


def test_probes_run_where_a_watched_call_would_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside of vmap a tensor has no numbers, and compiled code would trace the watch."""
    seen: list[object] = []
    probed = proving._probed
    monkeypatch.setattr(proving, "_probed", lambda *arguments: seen.append(probed(*arguments)) or seen[-1])
    compiled = torch.compile(torch.tanh, backend="eager")
    for after in (lambda m, h: m.b(torch.func.vmap(torch.tanh)(h)), lambda m, h: m.b(compiled(h))):
        assert checked(network(after), "drop", 24, x()).b.in_features == 24
    assert seen
    assert None not in seen


@pytest.mark.parametrize(("activation", "signs"), [(nn.Identity(), {-1, 1}), (nn.ReLU(), {0, 1}), (nn.Sigmoid(), {1})])
def test_made_up_features_have_all_sizes_and_the_signs_seen(activation: nn.Module, signs: set[int]) -> None:
    model, probes = network(lambda m, h: h, activation), Probes({"drop": range(24)})
    with probes.observing(model):
        model(x(100, 5))
    values = [probes.run(model, number, lambda model: [model(x(100, 5)).detach()]).outputs[0][:, :24] for number in range(6)]
    made = torch.stack(values)
    assert {*made.sign().unique().int().tolist()} == signs
    assert made.abs().max() / made[made != 0].abs().min() > 1e3
    same = probes.run(model, 1, lambda model: [model(x(100, 5)).detach()]).outputs[0][:, :24]
    assert torch.equal(same, values[1])
    if -1 in signs:
        assert (made < 0).all(-1).any(-1).any()
        assert (made > 0).all(-1).any(-1).any()
