"""prune with a width per layer: all layers are cut in one go and verified together, from few copies of the network."""

import doctest
import gc
import importlib
import warnings
import weakref
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from package.pruning.like_others import gpt
from package.pruning.pruned import Chain, Wired, count, evaluated, feed_forward, followed, mlp, two, x
from torch import Tensor, nn

import taildropout
from taildropout import PruningError, TailDropout, at_k, load_pruned, prune
from taildropout.pruning import graph, handlers, pruner, verification


def at_widths(model: nn.Module, widths: Any, *inputs: Any) -> Any:
    """Return the model's output in evaluation at these widths."""
    with ExitStack() as stack:
        for name, k in widths.items():
            stack.enter_context(at_k(model, k, name))
        return evaluated(model, *inputs)


def test_all_layers_are_cut_in_one_go() -> None:
    model, input, widths = two(8, 6).double(), x(), {"2": 3, "4": 2}
    smaller = prune(model, widths, input)
    assert type(smaller) is type(model)
    assert [smaller[0].out_features, smaller[3].in_features, smaller[3].out_features, smaller[5].in_features] == [3, 3, 2, 2]
    torch.testing.assert_close(evaluated(smaller, input), at_widths(model, widths, input))
    torch.testing.assert_close(evaluated(smaller, x(9, 5)), evaluated(smaller, x(9, 5)), rtol=10, atol=10)
    assert count(prune(model, widths, example_inputs=input)) == count(smaller)


def test_keys_are_names_patterns_or_layers() -> None:
    model, input = two(8, 6).double(), x()
    for widths in ({"2": 3, "4": 4}, {"2": 3, "[4-9]": 4}, {model[2]: 3, model[4]: 4}):
        smaller = prune(model, widths, input)
        assert (smaller[0].out_features, smaller[3].out_features) == (3, 4)
    encoder = nn.TransformerEncoder(feed_forward(16), 2, enable_nested_tensor=False).double()
    smaller = prune(encoder, {"layers.*.dropout": 5}, x(2, 4, 8))
    assert [layer.linear1.out_features for layer in smaller.layers] == [5, 5]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (({}, x()), ValueError, "widths is empty; give a width for one of '2', '4'"),
        (({"3*": 2}, x()), KeyError, "no TailDropout is named '3\\*'; those of Sequential are: '2', '4'"),
        (({"2": 3, "4": 9}, x()), ValueError, "k=9 is greater than the 6 features of '4'"),
        (({"*": 3, "[24]": 4}, x()), ValueError, "'2' is given two widths, k=3 and k=4"),
        (({"2": 3, "4": 0}, x()), ValueError, "k=0 leaves no feature"),
        (({"2": 3}, 3, x()), TypeError, r"k=3 is given beside a dict of widths; call prune\(model, widths, example_inputs\)"),
        (({"2": 3},), TypeError, r"example_inputs is missing; call prune\(model, widths, example_inputs\)"),
        (("2", x()), TypeError, "k or example_inputs is missing"),
        (({2: 3}, x()), TypeError, "layer has type int; give a TailDropout"),
    ],
)
def test_bad_widths(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        prune(two(8, 6).double(), *arguments)


def test_whole_widths_are_left_alone_and_layers_can_be_removed() -> None:
    model, input = two(8, 6).double(), x()
    smaller = prune(model, {"2": 8, "4": 2}, input, remove=True)
    assert (type(smaller[2]), type(smaller[4]), smaller[3].in_features) == (nn.Identity, nn.Identity, 8)
    assert count(prune(model, {"2": 8, "4": 6}, input)) == count(model)


def test_two_layers_on_the_same_features_share_a_cut() -> None:
    """The indices of a second cut would be shifted by the first."""
    for first, second in ((3, 5), (5, 3), (4, 4)):
        modules = {"a": nn.Linear(5, 8), "one": TailDropout(), "two": TailDropout(), "out": nn.Linear(8, 2)}
        model = Wired(lambda m, x: m.out(m.two(m.one(m.a(x)).tanh())), **modules).double()
        widths, input = {"one": first, "two": second}, x()
        smaller = prune(model, widths, input)
        assert smaller.out.in_features == smaller.a.out_features == min(first, second)
        torch.testing.assert_close(evaluated(smaller, input), at_widths(model, widths, input))


def test_some_layers_are_cut_and_others_slice() -> None:
    layers = nn.Linear(5, 8), nn.LayerNorm(8), TailDropout(), nn.Linear(8, 6), nn.Sigmoid(), TailDropout(), nn.Linear(6, 2)
    model, widths, input = nn.Sequential(*layers).double(), {"2": 3, "5": 4}, x()
    with pytest.warns(UserWarning, match=r"'2' now slices 3 of 8 features.*'1' \(LayerNorm\) mixes") as caught:
        smaller = prune(model, widths, input)
    assert len(caught) == 1
    assert [type(each).__name__ for each in (smaller[2], smaller[5])] == ["SlicedTailDropout", "TailDropout"]
    assert (smaller[3].in_features, smaller[3].out_features, smaller[6].in_features) == (3, 4, 4)
    torch.testing.assert_close(evaluated(smaller, input), at_widths(model, widths, input))


def test_the_layer_that_cannot_be_cut_is_named() -> None:
    layers = nn.Linear(5, 8), TailDropout(), nn.Linear(8, 8), TailDropout(), nn.LayerNorm(8), nn.Linear(8, 2)
    model = nn.Sequential(*layers).double()
    with pytest.raises(PruningError, match=r"^'3' cannot be cut to k=4 .*'4' .LayerNorm. mixes features"):
        prune(model, {"1": 3, "3": 4}, x())


def test_the_network_is_verified_as_a_whole() -> None:
    """One Linear reads both layers here: neither can be cut alone, nor both to different widths."""

    def wiring(m: Any, x: Tensor) -> Tensor:
        first, second = m.one(m.a(x)), m.two(m.b(x))
        return m.out(first) + m.out(second)

    modules = {name: nn.Linear(5, 8) for name in "ab"} | {"one": TailDropout(), "two": TailDropout(), "out": nn.Linear(8, 2)}
    model, input = Wired(wiring, **modules).double(), x()
    with pytest.raises(PruningError):
        prune(model, {"one": 3}, input)
    smaller = prune(model, {"one": 3, "two": 3}, input)
    assert (smaller.a.out_features, smaller.b.out_features, smaller.out.in_features) == (3, 3, 3)
    torch.testing.assert_close(evaluated(smaller, input), at_widths(model, {"one": 3, "two": 3}, input))
    with pytest.raises(PruningError):
        prune(model, {"one": 3, "two": 4}, input)


@pytest.mark.parametrize(
    ("widths", "kept"), [((4, 4, 4), 4), ((4, 5, 4), 5), ((2, 7, 5), 7), ((8, 3, 3), 8)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("remove", [False, True])
def test_layers_that_read_the_same_features_leave_the_greatest_width(widths: tuple[int, ...], kept: int, remove: bool) -> None:
    def wiring(m: Any, x: Tensor) -> list[Tensor]:
        read = m.trunk(x).relu()
        return [m.h0(m.d0(read)), m.h1(m.d1(read)), m.h2(m.d2(m.norm(m.other(x))))]

    def build() -> nn.Module:
        heads = {f"h{each}": nn.Linear(8, 2) for each in range(3)} | {f"d{each}": TailDropout() for each in range(3)}
        trunks = {"trunk": nn.Linear(5, 8), "other": nn.Linear(5, 8), "norm": nn.LayerNorm(8)}
        return Wired(wiring, **trunks, **heads).double()

    model, input, by_name = build(), x(), dict(zip(("d0", "d1", "d2"), widths, strict=True))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        smaller = prune(model, by_name, input, remove=remove)
    assert (smaller.trunk.out_features, smaller.other.out_features) == (kept, 8), "the other layer slices anyway"
    assert [head.in_features for head in (smaller.h0, smaller.h1, smaller.h2)] == list(widths)
    torch.testing.assert_close(evaluated(smaller, input), at_widths(model, by_name, input))
    narrower = [f"'{name}' now slices {k} of" for name, k in by_name.items() if name != "d2" and k < kept]
    assert [str(each.message).partition(" of")[0] + " of" for each in caught][: len(narrower)] == narrower
    if kept < 8 and narrower:
        assert f"of the {kept} features kept for 'd1'" in str(caught[0].message)
    if not remove:
        loaded = load_pruned(build(), smaller.state_dict())
        torch.testing.assert_close(evaluated(loaded, input), evaluated(smaller, input))


def test_one_copy_in_float64_is_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every copy of the network the weights are followed; a circle of references keeps none of them."""
    model = two(8, 6)
    model.circle = [model]  # a model that refers to itself, as some do by their hooks
    alive: list[weakref.ref[nn.Parameter]] = []
    most = 0

    def copied(module: nn.Module, memo: object = None) -> nn.Module:
        nonlocal most
        copy = evaluating(module)
        alive.extend(weakref.ref(parameter) for parameter in copy.parameters())
        most = max(most, sum(each() is not None for each in alive))
        return copy

    evaluating = verification.evaluating
    monkeypatch.setattr(verification, "_WORTH_COLLECTING", 1)
    monkeypatch.setattr(verification, "evaluating", copied)
    monkeypatch.setattr(pruner, "evaluating", copied)
    gc.collect()
    gc.disable()
    try:
        prune(model, {"2": 3, "4": 2}, x().float())
    finally:
        gc.enable()
    assert len(alive) >= 5 * 6
    assert most <= 2 * 6


def test_a_walk_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch-pruning's own walk does not end on this network, in which it takes the weight of a Conv1D for feature-wise."""
    monkeypatch.setattr(handlers, "is_conv1d", lambda module: False)
    monkeypatch.setattr(graph, "_MOST_INDICES", 20_000)
    model, ids = gpt().double(), torch.randint(30, (2, 5))
    model.lm_head = nn.Identity()
    with pytest.raises(PruningError, match="a cycle on which the number of features grows"):
        prune(model, {"*": 5}, ids)


def test_the_same_network_is_cut_where_its_modules_are_known() -> None:
    model, ids = gpt().double(), torch.randint(30, (2, 5))
    model.lm_head = nn.Identity()
    smaller = prune(model, {"*": 5}, ids)
    torch.testing.assert_close(evaluated(smaller, ids), at_widths(model, {"h.0.drop": 5}, ids))


def test_where_the_graph_ends_before_the_layer_the_layer_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp(80)
    monkeypatch.setattr(graph, "_MOST_INDICES", 5 * 77)  # what the walk needs on both sides
    assert prune(model, "2", 3, x())[0].out_features == 3
    monkeypatch.setattr(graph, "_MOST_INDICES", 4 * 77)
    with pytest.warns(UserWarning, match="'2' now slices 3 of 80 features.*a cycle"):
        smaller = prune(model, "2", 3, x())
    assert (smaller[0].out_features, smaller[3].in_features) == (80, 3)


def test_nothing_is_warned_of_where_nothing_slices() -> None:
    model = Chain(nn.Sequential(nn.Linear(5, 8), nn.ReLU()), nn.Linear(8, 2)).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smaller = prune(model, {"drop": 3}, x()), prune(followed(nn.Linear(8, 2)).double(), {"drop": 3}, x())
    assert all(each.get_submodule("drop").k is None for each in smaller)


@pytest.mark.parametrize("name", ["pruner", "loading"])
def test_the_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(f"taildropout.pruning.{name}")
    public = {"torch": torch, "nn": nn, **vars(taildropout)}
    result = doctest.testmod(module, extraglobs=public, raise_on_error=False)
    assert result.attempted > 2
    assert result.failed == 0
