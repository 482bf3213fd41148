"""TailDropout: its k, p and dims, what it forgets, what it loads, and the networks it stands in."""

import doctest
import inspect
import warnings
from collections import OrderedDict
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor, nn

import taildropout
from taildropout import TailDropout, at_k, keep_first, prune, tail_dropout

ORIGINAL_CHECKPOINTS = [{"1.k": torch.tensor(3)}, {"1.k": torch.zeros((), dtype=torch.long)}, {}]


def test_the_signature_is_what_users_rely_on() -> None:
    assert str(inspect.signature(TailDropout)).startswith(
        "(p: 'float' = 0.5, batch_dim: 'int | Sequence[int] | None' = 0, dropout_dim: 'int' = -1, *, inplace: 'bool' = False)"
    )
    assert list(inspect.signature(tail_dropout).parameters) == [
        *("input", "p", "training", "inplace"),
        *("batch_dim", "dropout_dim", "generator"),
    ]


@pytest.mark.parametrize("shape", [(7, 5), (200, 400)], ids=["small", "large"])
@pytest.mark.parametrize("training", [True, False])
def test_set_k_keeps_exactly_k_in_training_and_eval(shape: tuple[int, int], training: bool) -> None:
    layer = TailDropout().train(training)
    input = torch.randn(shape)
    for k in (0, 1, shape[1] - 1, shape[1], torch.tensor(2), torch.tensor(2, dtype=torch.uint8)):
        layer.set_k(k)
        assert layer.k.dtype == torch.int64
        assert torch.equal(layer(input), oracles.keep_first(input[:1], int(k)).ne(0) * input)
    per_sample = torch.randint(0, shape[1] + 1, shape[:1])
    layer.set_k(per_sample)
    assert torch.equal(oracles.widths(layer(torch.ones(shape))), per_sample)
    layer.set_k(None)
    assert layer.k is None
    assert torch.equal(layer(input), input) is not training


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64])
def test_set_k_takes_every_integer_dtype(dtype: torch.dtype) -> None:
    layer = TailDropout()
    layer.set_k(torch.tensor([0, 3], dtype=dtype))
    assert oracles.widths(layer(torch.ones(2, 4))).tolist() == [0, 3]


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_k_may_be_an_integer_of_numpy(kind: type) -> None:
    """What numpy.argmin gives, say, for the layer, for at_k, for the function and for prune."""
    layer, ones = TailDropout(), torch.ones(2, 4)
    layer.set_k(kind(3))
    assert oracles.widths(layer(ones)).tolist() == [3, 3]
    with at_k(layer, kind(2)):
        assert oracles.widths(layer(ones)).tolist() == [2, 2]
    assert oracles.widths(keep_first(ones, kind(1))).tolist() == [1, 1]
    layer.set_k(None)
    model = nn.Sequential(nn.Linear(4, 6), layer, nn.Linear(6, 2))
    assert prune(model, "1", kind(3), ones)[0].out_features == 3


def test_dims_may_be_integers_of_numpy() -> None:
    one, two = np.int64(1), np.int32(2)
    assert repr(TailDropout(0.3, one, two)) == "TailDropout(p=0.3, batch_dim=1, dropout_dim=2)"
    assert repr(TailDropout(0.3, [np.int64(0), one], two)) == "TailDropout(p=0.3, batch_dim=[0, 1], dropout_dim=2)"
    assert taildropout.baselines.NestedDropout(batch_dim=one, dropout_dim=two).batch_dim == 1
    input = torch.ones(2, 3, 4)
    assert torch.equal(keep_first(input, 2, one), keep_first(input, 2, 1))
    assert tail_dropout(input, 0.5, batch_dim=one, dropout_dim=two).shape == input.shape


@pytest.mark.parametrize("batch_dim", [[0, 1], [1, 0], [-2, 0], (1, -3), [-3]])
def test_a_k_per_sample_has_the_sizes_of_batch_dim_in_order(batch_dim: list[int]) -> None:
    for shape in ((2, 3, 5), (30, 20, 60)):
        sizes = [shape[dim] for dim in batch_dim]
        k = torch.randint(0, shape[2] + 1, sizes)
        layer = TailDropout(batch_dim=batch_dim)
        layer.set_k(k)
        widths = oracles.widths(layer(torch.ones(shape)))
        for index in torch.cartesian_prod(*(torch.arange(size) for size in sizes)).reshape(-1, len(sizes)).tolist():
            at = [slice(None)] * 2
            for dim, where in zip(batch_dim, index, strict=True):
                at[dim % 3] = where
            assert (widths[tuple(at)] == k[tuple(index)]).all()


def test_without_a_batch_dim_there_is_one_k() -> None:
    layer = TailDropout(batch_dim=())
    for shape in ((4, 5), (300, 400)):
        assert {oracles.widths(layer(torch.ones(shape))).unique().numel() for _ in range(20)} == {1}
    layer.set_k(torch.tensor(3))
    assert (oracles.widths(layer(torch.ones(4, 5))) == 3).all()


def test_k_is_a_copy() -> None:
    k = torch.tensor([1, 2])
    layer = TailDropout()
    layer.set_k(k)
    k += 1
    assert layer.k.tolist() == [1, 2]


@pytest.mark.parametrize("switch", ["train", "eval"])
def test_train_and_eval_forget_k_and_say_so(switch: str) -> None:
    layer = TailDropout()
    for k, shown in ((3, "k=3"), (torch.tensor([1, 2]), r"shape \(2,\)")):
        layer.set_k(k)
        with pytest.warns(UserWarning, match=rf"^{switch}\(\) forgets k.*{shown}|^{switch}\(\) forgets {shown}") as caught:
            getattr(layer, switch)()
        assert len(caught) == 1
        assert "{" not in str(caught[0].message)
        assert layer.k is None
        assert layer.training is (switch == "train")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(layer, switch)()
        layer.set_k(3)
        layer.set_k(None)
        getattr(layer, switch)()


def test_p_takes_effect_at_once() -> None:
    layer = TailDropout(0.5)
    for change in (layer.set_p, lambda p: setattr(layer, "p", p)):
        for p in (1, 0, 0.9, 0.001):
            change(p)
            assert layer.p == p
            assert isinstance(layer.p, float)
            kept = layer(torch.ones(4000, 16)).mean().item()
            assert abs(kept - (1 - p)) < 5 * 0.5 / 4000**0.5


def test_eval_keeps_all_and_returns_the_input() -> None:
    input = torch.randn(3, 4)
    assert TailDropout(1.0).eval()(input) is input
    assert TailDropout(0.0)(input) is input


def test_nothing_is_rescaled() -> None:
    assert set(TailDropout(0.5)(torch.ones(100, 10)).unique().tolist()) == {0, 1}


@pytest.mark.parametrize(
    "layer",
    [TailDropout(), TailDropout(0.1, [0, 1], 2), TailDropout(1, (), 0, inplace=True), TailDropout(1 / 3, 1, -1)],
    ids=repr,
)
def test_repr_evaluates_back(layer: TailDropout) -> None:
    again = eval(repr(layer))
    assert repr(again) == repr(layer)
    assert (again.p, again._batch_dims, again.dropout_dim, again.inplace) == (
        *(layer.p, layer._batch_dims),
        *(layer.dropout_dim, layer.inplace),
    )


def test_the_state_dict_is_empty() -> None:
    layer = TailDropout()
    layer(torch.ones(3, 4))
    layer.set_k(3)
    assert layer.state_dict() == OrderedDict()
    assert list(layer.buffers()) == list(layer.parameters()) == []


def test_checkpoints_of_nn_dropout_and_of_the_original_load_strictly() -> None:
    old = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 2))
    for extra in ORIGINAL_CHECKPOINTS:
        net = nn.Sequential(nn.Linear(4, 8), TailDropout(), nn.Linear(8, 2)).eval()
        checkpoint = {**old.state_dict(), **extra}
        given = dict(checkpoint)
        net.load_state_dict(checkpoint, strict=True)
        assert checkpoint.keys() == given.keys()
        assert net[1].k is None  # full width
        assert torch.equal(net(torch.ones(3, 4)), old.eval()(torch.ones(3, 4)))
    with pytest.raises(RuntimeError, match="Unexpected"):
        net.load_state_dict({**old.state_dict(), "1.mask": torch.ones(3)})
    old.load_state_dict(net.state_dict(), strict=True)  # and back


def prefix_of(input: Tensor, output: Tensor, dim: int) -> Tensor:
    """Widths, once the output is known to be the input or 0 (no input here is 0)."""
    kept = output != 0
    assert torch.equal(output, torch.where(kept, input, 0))
    return oracles.widths(kept.to(torch.float32), dim)


def test_the_output_of_a_gru() -> None:
    hidden, _ = nn.GRU(4, 16)(torch.randn(7, 50, 4))
    widths = prefix_of(hidden, TailDropout(0.5, 1, 2)(hidden), 2)
    assert (widths == widths[:1]).all()  # one k per sequence, shared along time
    assert widths[0].unique().numel() > 3


@pytest.mark.parametrize("channels_last", [False, True])
def test_images(channels_last: bool) -> None:
    net = nn.Conv2d(3, 16, 3)
    input = torch.randn(30, 3, 10, 10)
    features = net(input.contiguous(memory_format=torch.channels_last) if channels_last else input)
    widths = prefix_of(features, TailDropout(0.5, dropout_dim=1)(features), 1)
    assert (widths == widths[:, :1, :1]).all()
    assert widths.unique().numel() > 3
    tokens = prefix_of(features, TailDropout(0.5, [0, 2, 3], 1)(features), 1)
    assert not (tokens == tokens[:, :1, :1]).all()


def test_batch_norm_before_the_layer() -> None:
    net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), TailDropout(), nn.Linear(16, 1))
    input = torch.randn(64, 4)
    net(input).square().mean().backward()
    assert all(each.grad.isfinite().all() for each in net.parameters())
    normed = net[1](net[0](input))
    prefix_of(normed, net[2](normed), 1)
    full = net.eval()(input)
    net[2].set_k(16)
    assert torch.equal(net(input), full)


@pytest.mark.parametrize(("batch_dim", "shared"), [(0, 1), (1, 0), ([0, 1], None)])
def test_what_sequences_share_as_the_docstring_says(batch_dim: int | list[int], shared: int | None) -> None:
    for shape in ((40, 30, 8), (40, 30, 80)):
        widths = oracles.widths(TailDropout(0.5, batch_dim)(torch.ones(shape)))
        for dim in (0, 1):
            assert (widths == widths.narrow(dim, 0, 1)).all().item() is (dim == shared)


def test_a_network_learns_its_features_in_order() -> None:
    """What the layer is for: with a tail dropped in training, a width k loses less the larger it is."""
    data = torch.randn(256, 6) * torch.tensor([8.0, 4, 2, 1, 0.5, 0.25])
    net = nn.Sequential(nn.Linear(6, 6, bias=False), TailDropout(0.5), nn.Linear(6, 6, bias=False))
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(400):
        optimizer.zero_grad()
        (net(data) - data).square().mean().backward()
        optimizer.step()
    net.eval()
    losses = []
    for k in range(7):
        net[1].set_k(k)
        losses.append((net(data) - data).square().mean().item())
    assert losses[1] < 0.4 * losses[0]  # the first feature holds most of the variance, as in PCA
    assert losses[2] < 0.5 * losses[1]
    assert losses[:4] == sorted(losses[:4], reverse=True)


PUBLIC = {name: getattr(taildropout, name) for name in taildropout.__all__ if name != "baselines"}
PUBLIC |= {f"baselines.{name}": getattr(taildropout.baselines, name) for name in taildropout.baselines.__all__}


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in ("Frontier", "PruningError", "Scree")])
def test_every_public_name_has_an_example_that_runs(name: str) -> None:
    """An exception and a result are shown by the function that raises or returns them."""
    names = {"torch": torch, "nn": nn, **vars(taildropout), **vars(taildropout.baselines)}
    examples = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, globs=names)
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples[0])
    assert result.attempted > 0
    assert result.failed == 0


def test_a_k_that_is_set_is_shown() -> None:
    layer = TailDropout(0.3)
    assert repr(layer) == "TailDropout(p=0.3, batch_dim=0, dropout_dim=-1)"
    layer.set_k(3)
    assert repr(layer) == "TailDropout(p=0.3, batch_dim=0, dropout_dim=-1; k=3)"
    layer.set_k(torch.tensor([1, 2]))
    assert repr(layer) == "TailDropout(p=0.3, batch_dim=0, dropout_dim=-1; k=a tensor of shape (2,))"
    layer.set_k(None)
    assert "k=" not in repr(layer)


@pytest.fixture
def unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taildropout.dropping, "_warned_of_columns", False)


@pytest.mark.usefixtures("unwarned")
@pytest.mark.parametrize("side", [2, 64], ids=["small", "large"])
def test_columns_of_pictures_are_warned_of_once(side: int) -> None:
    pictures = torch.randn(4, 3, side, side)
    with pytest.warns(UserWarning, match=r"dropout_dim is -1, its default: .* give dropout_dim=1 for the channels"):
        TailDropout()(pictures)
    TailDropout()(pictures)  # a second warning would be an error


@pytest.mark.usefixtures("unwarned", "compiler")
def test_compiled_code_warns_of_columns_too() -> None:
    with pytest.warns(UserWarning, match=r"dropout_dim is -1, its default"):
        torch.compile(TailDropout(), fullgraph=True, backend="eager")(torch.randn(4, 3, 2, 2))


@pytest.mark.usefixtures("unwarned")
@pytest.mark.parametrize("side", [2, 64], ids=["small", "large"])
@pytest.mark.parametrize("options", [{"dropout_dim": 1}, {"dropout_dim": 3}, {"batch_dim": [0, 1, 2]}])
def test_who_has_named_the_dims_is_not_warned(options: dict[str, Any], side: int) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        TailDropout(**options)(torch.randn(4, 3, side, side))
        TailDropout()(torch.randn(4, side, side))
        TailDropout().eval()(torch.randn(4, 3, side, side))
    assert not caught
