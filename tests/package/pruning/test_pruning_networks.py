"""Which networks prune cuts, which it slices and which it refuses; sizes as counted by hand."""

import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from package.pruning.pruned import (
    CHANNELS,
    Chain,
    Wired,
    checked,
    count,
    evaluated,
    feed_forward,
    followed,
    gru,
    lively,
    two,
    x,
)
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from taildropout import TailDropout, TailMLP, at_k, prune


@dataclass
class Case:
    """A network, what to cut, and how large it must be then, counted by hand."""

    make: Callable[[int], nn.Module]
    layer: str
    n: int
    k: int
    input: Callable[[], Tensor]
    parameters: int
    flops: int | None  # two per multiplication and addition, of products and convolutions
    small: Callable[[], nn.Module] | None = None  # make(k) if None
    slices: str = ""


class Output(dict[str, Tensor]):
    """A mapping that `torch.utils._pytree` does not open."""


def rows() -> Tensor:
    return torch.randn(6, 5)


def images() -> Tensor:
    return torch.randn(2, 3, 6, 6)


CASES = {
    # Linear–ReLU–TailDropout–Linear: 5·3+3 and 3·2+2
    "mlp": Case(
        lambda n: Chain(nn.Sequential(nn.Linear(5, n), nn.ReLU()), nn.Linear(n, 2)),
        "drop", 8, 3, rows, 18 + 8, 2 * 6 * (5 * 3 + 3 * 2),
    ),
    "batch norm": Case(
        lambda n: Chain(nn.Sequential(nn.Linear(5, n), nn.BatchNorm1d(n), nn.ReLU()), nn.Linear(n, 2)),
        "drop", 8, 3, rows, 18 + 6 + 8, 2 * 6 * (5 * 3 + 3 * 2),
    ),
    # 3×3 kernels without padding: images of 6×6 become 4×4, then 2×2
    "convolutions": Case(
        lambda n: Chain(nn.Sequential(nn.Conv2d(3, n, 3), nn.BatchNorm2d(n), nn.ReLU()), nn.Conv2d(n, 2, 3), **CHANNELS),
        "drop", 8, 5, images, (3 * 5 * 9 + 5) + 10 + (5 * 2 * 9 + 2), 2 * 2 * (16 * 3 * 5 * 9 + 4 * 5 * 2 * 9),
    ),
    # as in MobileNet and SegFormer: channel by channel between the convolution that makes the features and the layer
    "depthwise convolution before": Case(
        lambda n: Chain(
            nn.Sequential(nn.Conv2d(3, n, 1), nn.Conv2d(n, n, 3, groups=n), nn.ReLU6()), nn.Conv2d(n, 2, 1), **CHANNELS
        ),
        "drop", 8, 5, images, (3 * 5 + 5) + (5 * 9 + 5) + (5 * 2 + 2), 2 * 2 * (36 * 3 * 5 + 16 * 5 * 9 + 16 * 5 * 2),
    ),
    "flatten": Case(
        lambda n: Chain(
            nn.Sequential(nn.Conv2d(3, n, 3), nn.BatchNorm2d(n)), nn.Sequential(nn.Flatten(), nn.Linear(16 * n, 2)), **CHANNELS
        ),
        "drop", 8, 5, images, (3 * 5 * 9 + 5) + 10 + (80 * 2 + 2), 2 * 2 * (16 * 3 * 5 * 9 + 80 * 2),
    ),
    # k = 4 leaves two groups of two
    "group norm": Case(
        lambda n: Chain(nn.Sequential(nn.Conv2d(3, n, 3), nn.GroupNorm(n // 2, n)), nn.Conv2d(n, 2, 3), **CHANNELS),
        "drop", 8, 4, images, (3 * 4 * 9 + 4) + 8 + (4 * 2 * 9 + 2), 2 * 2 * (16 * 3 * 4 * 9 + 4 * 4 * 2 * 9),
    ),
    "group norm cut through": Case(
        lambda n: Chain(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8)), nn.Conv2d(n, 2, 3), **CHANNELS),
        "drop", 8, 5, images, (3 * 8 * 9 + 8) + 16 + (5 * 2 * 9 + 2), 2 * 2 * (16 * 3 * 8 * 9 + 4 * 5 * 2 * 9),
        lambda: Chain(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8)), nn.Conv2d(5, 2, 3), 5, **CHANNELS),
        r"'before.1' \(GroupNorm\) mixes features, unless k is a multiple of 2",
    ),
    "embedding": Case(
        lambda n: Chain(nn.Embedding(9, n), nn.Linear(n, 2)),
        "drop", 8, 3, lambda: torch.randint(9, (4, 5)), 9 * 3 + 8, 2 * 20 * 3 * 2,
    ),
    # attention: 8·24+24 in, 8·8+8 out; two norms of 16; feed-forward 8·3+3 and 3·8+8
    "feed-forward": Case(
        feed_forward, "dropout", 16, 3, lambda: torch.randn(2, 4, 8), 216 + 72 + 32 + 27 + 32,
        2 * 8 * (8 * 24 + 8 * 8 + 8 * 3 + 3 * 8) + 2 * 2 * 4 * 4 * 8 * 2,
    ),
    "first of two": Case(lambda n: two(n, 6), "2", 8, 3, rows, 18 + (3 * 6 + 6) + 14, 2 * 6 * (15 + 18 + 12)),
    "second of two": Case(lambda n: two(8, n), "4", 6, 3, rows, 48 + (8 * 3 + 3) + 8, 2 * 6 * (40 + 24 + 6)),
    # The GRU keeps its 3·8·(5 + 8 + 2) weights.
    "gru": Case(
        gru, "drop", 8, 3, lambda: torch.randn(4, 2, 5), 360 + 12, None, lambda: gru(3, 3), r"'before' \(GRU\) mixes features",
    ),
    "sigmoid after": Case(
        lambda n: Chain(nn.Linear(5, n), nn.Sequential(nn.Sigmoid(), nn.Linear(n, 2))),
        "drop", 8, 3, rows, 18 + 8, 2 * 6 * (5 * 3 + 3 * 2),
    ),
    "block": Case(
        lambda n: TailMLP(5, n, 2, activation=nn.GELU(), p=0.5), "2", 8, 3, rows, 18 + 8, 2 * 6 * (5 * 3 + 3 * 2),
    ),
}  # fmt: skip


def flops(model: nn.Module, input: Tensor) -> int:
    # Not all ways of computing attention are counted.
    with (
        FlopCounterMode(display=False) as counter,
        at_k(nn.Sequential(model, TailDropout()), None),
        sdpa_kernel(SDPBackend.MATH),
    ):
        model(input)
    return counter.get_total_flops()


def doubled(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


@pytest.mark.filterwarnings("ignore:.*assigned during export:UserWarning")  # what torch says of every GRU
@pytest.mark.parametrize("remove", [False, True], ids=["kept", "removed"])
@pytest.mark.parametrize("name", CASES)
def test_outputs_size_and_export(name: str, remove: bool) -> None:
    case = CASES[name]
    model, input = lively(case.make(case.n)), doubled(case.input())
    with pytest.warns(UserWarning, match=case.slices) if case.slices else warnings.catch_warnings():
        smaller = checked(model, case.layer, case.k, input, remove=remove)
    assert count(smaller) == case.parameters < count(model)
    if case.flops is not None:
        assert flops(smaller.eval(), input) == case.flops < flops(model.eval(), input)
    left = smaller.get_submodule(case.layer)
    assert isinstance(left, TailDropout) is not remove
    fresh = (case.small or (lambda: case.make(case.k)))().double()
    fresh.load_state_dict(smaller.state_dict())
    torch.testing.assert_close(evaluated(fresh, input), evaluated(smaller, input))
    if not remove:
        exported = torch.export.export(smaller.eval(), (input,)).module()
        torch.testing.assert_close(exported(input), evaluated(smaller, input))


# Networks that can be cut: modules, wiring, input, parameters after cutting 8 features to 3.
WIRED = {
    "gate": (
        {"a": nn.Linear(5, 8), "b": nn.Linear(5, 8), "drop": TailDropout(), "out": nn.Linear(8, 2)},
        lambda m, x: m.out(m.drop(m.a(x)) * m.b(x).sigmoid()), (6, 5), 18 + 18 + 8,
    ),
    "parametric activation": (
        {"a": nn.Linear(5, 8), "act": nn.PReLU(8), "drop": TailDropout(), "out": nn.Linear(8, 2)},
        lambda m, x: m.out(m.drop(m.act(m.a(x)))), (6, 5), 18 + 3 + 8,
    ),
    "batch norm and sigmoid after": (
        {"a": nn.Linear(5, 8), "drop": TailDropout(), "norm": nn.BatchNorm1d(8), "out": nn.Linear(8, 2, bias=False)},
        lambda m, x: m.out(m.norm(m.drop(m.a(x))).sigmoid()), (6, 5), 18 + 6 + 8,
    ),
    "sigmoid before a convolution": (
        {"a": nn.Conv2d(3, 8, 3), "drop": TailDropout(**CHANNELS), "out": nn.Conv2d(8, 2, 3)},
        lambda m, x: m.out(m.drop(m.a(x)).sigmoid()), (2, 3, 6, 6), (81 + 3) + (54 + 2),
    ),
    "depthwise convolution after": (
        {"a": nn.Conv2d(3, 8, 3), "drop": TailDropout(**CHANNELS), "d": nn.Conv2d(8, 8, 3, groups=8, padding=1),
         "out": nn.Conv2d(8, 2, 1)},
        lambda m, x: m.out(m.d(m.drop(m.a(x))).relu()), (2, 3, 6, 6), (81 + 3) + (27 + 3) + (6 + 2),
    ),
    "constants through a depthwise convolution": (
        {"a": nn.Conv2d(3, 8, 3), "drop": TailDropout(**CHANNELS), "d": nn.Conv2d(8, 8, 3, groups=8),
         "out": nn.Conv2d(8, 2, 1)},
        lambda m, x: m.out(m.d(m.drop(m.a(x)).sigmoid())), (2, 3, 6, 6), (81 + 3) + (27 + 3) + (6 + 2),
    ),
    "frozen scale": (
        {"a": nn.Linear(5, 8), "scale": nn.ParameterList([torch.ones(8)]).requires_grad_(False), "drop": TailDropout(),
         "out": nn.Linear(8, 2)},
        lambda m, x: m.out(m.drop(m.a(x) * m.scale[0])), (6, 5), 18 + 3 + 8,
    ),
    "transposed convolution": (
        {"a": nn.ConvTranspose2d(3, 8, 3), "drop": TailDropout(**CHANNELS), "out": nn.ConvTranspose2d(8, 2, 3)},
        lambda m, x: m.out(m.drop(m.a(x)).relu()), (2, 3, 6, 6), (81 + 3) + (54 + 2),
    ),
    "one-dimensional convolution": (
        {"a": nn.Conv1d(3, 8, 3), "drop": TailDropout(**CHANNELS), "out": nn.Conv1d(8, 2, 3)},
        lambda m, x: m.out(m.drop(m.a(x)).relu()), (2, 3, 9), (27 + 3) + (18 + 2),
    ),
    "channels first to last": (
        {"a": nn.Conv2d(3, 8, 3), "drop": TailDropout(**CHANNELS), "out": nn.Linear(8, 2)},
        lambda m, x: m.out(m.drop(m.a(x)).permute(0, 2, 3, 1)), (2, 3, 6, 6), (81 + 3) + 8,
    ),
    "pooled": (
        {"a": nn.Conv2d(3, 8, 3), "drop": TailDropout(**CHANNELS), "pool": nn.AdaptiveAvgPool2d(1), "out": nn.Linear(8, 2)},
        lambda m, x: m.out(m.pool(m.drop(m.a(x))).flatten(1)), (2, 3, 6, 6), (81 + 3) + 8,
    ),
    "flattened with features last": (
        {"a": nn.Linear(5, 8), "drop": TailDropout(), "out": nn.Linear(32, 2)},
        lambda m, x: m.out(m.drop(m.a(x)).flatten(1)), (6, 4, 5), 18 + (24 + 2),
    ),
    "recurrence after": (
        {"a": nn.Linear(5, 8), "drop": TailDropout(batch_dim=1), "rnn": nn.LSTM(8, 4, num_layers=2, bidirectional=True)},
        lambda m, x: m.rnn(m.drop(m.a(x)))[0], (6, 4, 5), 18 + 2 * 16 * (3 + 4 + 2) + 2 * 16 * (8 + 4 + 2),
    ),
    "weights used again, transposed": (
        {"a": nn.Linear(5, 8), "drop": TailDropout()},
        lambda m, x: nn.functional.linear(m.drop(m.a(x)), m.a.weight.t()), (6, 5), 18,
    ),
    "a module called twice": (
        {"a": nn.Linear(5, 8), "drop": TailDropout(), "out": nn.Linear(8, 2)},
        lambda m, x: m.out(m.drop(m.a(x))) + m.out(m.drop(m.a(x * x))), (6, 5), 18 + 8,
    ),
    "written in place": (
        {"a": nn.Linear(5, 8), "drop": TailDropout(inplace=True), "out": nn.Linear(8, 2)},
        lambda m, x: (h := m.drop(m.a(x.mul_(2)).relu_()), m.out(h).sub_(1), h.add_(1))[1], (6, 5), 18 + 8,
    ),
    "a frozen convolution of images that need no gradient": (
        {"a": nn.Conv2d(3, 8, 3).requires_grad_(False), "drop": TailDropout(**CHANNELS), "out": nn.Conv2d(8, 2, 3)},
        lambda m, x: m.out(m.drop(m.a(x)).relu()), (2, 3, 6, 6), (81 + 3) + (54 + 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WIRED)
def test_other_networks(name: str) -> None:
    modules, wiring, shape, parameters = WIRED[name]
    model = lively(Wired(wiring, **modules))
    smaller = checked(model, "drop", 3, x(*shape))
    assert count(smaller) == parameters
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {name for name, parameter in smaller.named_parameters() if not parameter.requires_grad} == frozen


# Networks of which only what comes after the layer can be cut: modules, wiring, shape, parameters after, reason.
SLICED = {
    "layer norm": (
        {"a": nn.Linear(5, 8), "norm": nn.LayerNorm(8), "drop": TailDropout(), "out": nn.Linear(8, 2)},
        lambda m, x: m.out(m.drop(m.norm(m.a(x)))), (6, 5), 48 + 16 + 8, r"'norm' \(LayerNorm\) mixes features",
    ),
    "softmax": (
        {"a": nn.Linear(5, 8), "drop": TailDropout(), "out": nn.Linear(8, 2)},
        lambda m, x: m.out(m.drop(m.a(x).softmax(-1))), (6, 5), 48 + 8, "softmax mixes features",
    ),
    "the input": (
        {"drop": TailDropout(), "out": nn.Linear(8, 2)},
        lambda m, x: m.out(m.drop(x)), (6, 8), 8, "come from the model's input",
    ),
    "read elsewhere": (
        {"a": nn.Linear(5, 8), "drop": TailDropout(), "out": nn.Linear(8, 2), "other": nn.Linear(8, 2)},
        lambda m, x: m.out(m.drop(m.a(x))) + m.other(m.a(x)), (6, 5), 48 + 8 + 18, "'other' .Linear. reads values that",
    ),
    "groups before": (
        {"a": nn.Conv1d(4, 8, 3, groups=2), "drop": TailDropout(**CHANNELS), "out": nn.Conv1d(8, 2, 3)},
        lambda m, x: m.out(m.drop(m.a(x))), (2, 4, 9), 56 + 20, "keeps its size",
    ),
    "several outputs": (
        {"a": nn.LSTM(5, 8, batch_first=True), "drop": TailDropout(), "out": nn.Linear(8, 2)},
        lambda m, x: m.out(m.drop(m.a(x)[1][0])), (2, 4, 5), 4 * 8 * 15 + 8, r"'a' \(LSTM\) mixes features",
    ),
}  # fmt: skip


@pytest.mark.parametrize("remove", [False, True], ids=["kept", "removed"])
@pytest.mark.parametrize("name", SLICED)
def test_where_the_producer_cannot_be_cut_the_layer_slices(name: str, remove: bool) -> None:
    modules, wiring, shape, parameters, reason = SLICED[name]
    model = lively(Wired(wiring, **modules))
    with pytest.warns(UserWarning, match=f"'drop' now slices 3 of 8 features.*{reason}"):
        smaller = checked(model, "drop", 3, x(*shape), remove=remove)
    assert count(smaller) == parameters
    assert isinstance(smaller.drop, TailDropout) is not remove


@pytest.mark.parametrize("make", [dict, OrderedDict, Output, SimpleNamespace], ids=lambda make: make.__name__)
def test_outputs_are_opened_as_scree_opens_them(make: Callable[..., object]) -> None:
    model = followed(nn.Linear(8, 2), wiring=lambda m, x: make(logits=m.after(m.drop(m.a(x)))))
    assert prune(model.double(), "drop", 3, x(6, 5)).a.out_features == 3


def test_a_frozen_embedding_is_cut() -> None:
    model = nn.Sequential(nn.Embedding(9, 8).requires_grad_(False), TailDropout(), nn.Linear(8, 2)).double()
    assert prune(model, "1", 3, torch.randint(9, (4, 5)))[0].weight.shape == (9, 3)
