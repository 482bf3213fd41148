"""load_pruned: a model built at full size takes the sizes and weights of a pruned one, or nothing changes."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from package.pruning.like_others import Conv1D, Gpt, gpt
from package.pruning.pruned import CHANNELS, Wired, count, evaluated, followed, gru, lively, mlp, two, x
from package.pruning.test_pruning_networks import CASES, WIRED, doubled
from torch import Tensor, nn

from taildropout import PruningError, TailDropout, insert_dropout, load_pruned, prune


def saved(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state_dict after `torch.save` and `torch.load`."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same(loaded: nn.Module, smaller: nn.Module, input: Tensor) -> None:
    torch.testing.assert_close(evaluated(loaded, input), evaluated(smaller, input), rtol=0, atol=0)
    assert repr(loaded) == repr(smaller)
    assert [*loaded.state_dict()] == [*smaller.state_dict()]


@pytest.mark.parametrize("name", CASES)
def test_every_network_that_can_be_pruned_can_be_loaded(name: str) -> None:
    case = CASES[name]
    input = doubled(case.input())
    with pytest.warns(UserWarning, match=case.slices) if case.slices else pytest.MonkeyPatch.context():
        smaller = prune(lively(case.make(case.n)), case.layer, case.k, input)
    model = lively(case.make(case.n))
    assert load_pruned(model, saved(smaller.state_dict())) is model
    assert_same(model, smaller, input)


@pytest.mark.parametrize("name", WIRED)
def test_other_networks_that_can_be_pruned_can_be_loaded(name: str) -> None:
    modules, wiring, shape, parameters = WIRED[name]
    model, input = lively(Wired(wiring, **copy.deepcopy(modules))), x(*shape)
    smaller = prune(model, "drop", 3, input)
    assert count(load_pruned(model, smaller.state_dict())) == parameters
    assert_same(model, smaller, input)


def test_a_bias_that_pruning_added_is_loaded() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 8), TailDropout(), nn.Sigmoid(), nn.Linear(8, 2, bias=False)).double()

    smaller = prune(build(), "1", 3, x())
    assert_same(load_pruned(build(), smaller.state_dict()), smaller, x())


def test_a_conv1d_and_a_config_are_loaded() -> None:
    ids = torch.randint(30, (2, 5))
    smaller = prune(gpt(2).double(), {"h.*.drop": 5}, ids)
    tensors = smaller.state_dict()
    del tensors["lm_head.weight"]  # tied to another, which files leave out
    model = load_pruned(gpt(2).double(), tensors)
    assert_same(model, smaller, ids)
    assert model.config.n_inner == 5
    assert model.lm_head.weight is model.wte.weight
    mixed = load_pruned(gpt(2).double(), mixed_state(ids))
    assert mixed.config.n_inner is None
    assert [block["c_fc"].nf for block in mixed.h] == [5, 6]


def mixed_state(ids: Tensor) -> dict[str, Tensor]:
    with pytest.warns(UserWarning, match="load_pruned"):
        return prune(gpt(2).double(), {"h.0.drop": 5, "h.1.drop": 6}, ids).state_dict()


def test_inserted_layers_may_be_there_or_not() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2)).double()

    smaller = prune(insert_dropout(build(), before="2"), "2.dropout_before", 3, x())
    for model in (build(), insert_dropout(build(), before="2")):
        input = x()
        torch.testing.assert_close(evaluated(load_pruned(model, smaller.state_dict()), input), evaluated(smaller, input))


@pytest.mark.parametrize("remove", [False, True])
def test_slices_are_in_the_metadata_or_given(remove: bool) -> None:
    with pytest.warns(UserWarning, match="slices"):
        smaller = prune(gru(8).double(), "drop", 3, x(4, 2, 5), remove=remove)
    input = x(4, 2, 5)
    state_dict = smaller.state_dict()
    assert not [key for key in state_dict if key.startswith("drop")]
    for loaded in (
        load_pruned(gru(8).double(), saved(state_dict)),
        load_pruned(gru(8).double(), {**state_dict}, slices={"drop": 3}),  # as from a safetensors file
        load_pruned(copy.deepcopy(smaller), state_dict),
    ):
        torch.testing.assert_close(evaluated(loaded, input), evaluated(smaller, input))
    with pytest.raises(KeyError, match=r"no TailDropout is named 'up'.*'drop'"):
        load_pruned(gru(8).double(), {**state_dict}, slices={"up": 3})


def test_the_model_keeps_its_dtype_modes_and_frozen_weights() -> None:
    smaller = prune(two(8, 6).double(), {"2": 3, "4": 2}, x())
    model = two(8, 6).eval()
    model[0].weight.requires_grad_(False)
    whole = model[5].bias
    load_pruned(model, smaller.state_dict())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["0.weight"]
    assert not model.training
    assert model[5].bias is whole
    assert model[0].weight.data_ptr() != smaller[0].weight.data_ptr()
    model.train()(x().float()).sum().backward()
    assert pickle.loads(pickle.dumps(model))[3].in_features == 3


def test_a_model_on_the_meta_device_takes_the_tensors_of_the_checkpoint() -> None:
    smaller, input = prune(mlp(), "2", 3, x()), x()
    with torch.device("meta"):
        model = mlp()
    assert_same(load_pruned(model, smaller.state_dict()), smaller, input)
    with torch.device("meta"):
        tied = gpt()
    ids = torch.randint(30, (2, 5))
    smaller = prune(gpt(), {"*": 5}, ids)
    assert_same(load_pruned(tied, smaller.state_dict()), smaller, ids)
    assert tied.lm_head.weight is tied.wte.weight


def test_a_checkpoint_of_full_size_is_loaded_as_it_is() -> None:
    model, other = mlp(), mlp()
    weights = [*model.parameters()]
    assert_same(load_pruned(model, other.state_dict()), other, x())
    assert all(before is after for before, after in zip(weights, model.parameters(), strict=True))


def small_state() -> dict[str, Tensor]:
    return prune(mlp(), "2", 3, x()).state_dict()


def changed(**tensors: Tensor) -> Callable[[], dict[str, Tensor]]:
    return lambda: {**small_state(), **{name.replace("_", "."): tensor for name, tensor in tensors.items()}}


@pytest.mark.parametrize(
    ("state_dict", "error", "message"),
    [
        (
            changed(**{"0_bias": torch.ones(4)}),
            PruningError,
            r"'0' \(Linear\) does not fit .* its bias has shape \(4,\) in the ch",
        ),
        (
            changed(**{"0_weight": torch.ones(3, 6)}),
            PruningError,
            r"'0' \(Linear\) .*weight has shape \(8, 5\) .* and \(3, 6\)",
        ),
        (changed(**{"3_weight": torch.ones(2, 9)}), PruningError, r"'3' \(Linear\) .* which is no part of it"),
        (changed(**{"3_weight": torch.ones(6)}), PruningError, r"'3' \(Linear\) .*and \(6,\) in the checkpoint"),
        (changed(**{"4_weight": torch.ones(6)}), PruningError, "of another model than Sequential: the model has no '4.weight'"),
        (lambda: {"0.weight": torch.ones(3, 5)}, PruningError, "the checkpoint lacks '0.bias', '3.weight', '3.bias'"),
        (
            lambda: {f"lit.net.{key}": tensor for key, tensor in small_state().items()},
            PruningError,
            r"all keys of the state_dict begin with 'lit\.net\.', .* give \{key.removeprefix\('lit\.net\.'\): tensor for",
        ),
        (lambda: {"state_dict": small_state(), "epoch": 3}, TypeError, r"give checkpoint\['state_dict'\]"),
        (lambda: {**small_state(), "epoch": 3}, TypeError, r"state_dict\['epoch'\] has type int; give a dict of tensors"),
        (lambda: mlp(), TypeError, r"state_dict is the pruned model itself; give its state_dict\(\)"),
        (lambda: 3, TypeError, "state_dict has type int; give the pruned model's"),
        (lambda: "small.pt", TypeError, "as torch.load gives it back"),
    ],
)
def test_what_does_not_fit_changes_nothing(state_dict: Any, error: type[Exception], message: str) -> None:
    model = mlp()
    before, weights = copy.deepcopy(model.state_dict()), [*model.parameters()]
    with pytest.raises(error, match=message):
        load_pruned(model, state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(before is after for before, after in zip(weights, model.parameters(), strict=True))
    assert model[0].out_features == 8


def test_what_does_not_fit_elsewhere() -> None:
    with pytest.raises(TypeError, match=r"give an nn.Module built at full size"):
        load_pruned("model", small_state())
    groups = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8))
    cut = nn.Sequential(nn.Conv2d(3, 5, 3), nn.GroupNorm(5, 5))
    with pytest.raises(PruningError, match=r"'1' \(GroupNorm\) .* 5 channels are no multiple of the 2 of a group"):
        load_pruned(groups, cut.state_dict())
    normed = followed(nn.utils.parametrizations.weight_norm(nn.Linear(8, 2)))
    smaller = followed(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    smaller.a = nn.Linear(5, 3)
    with pytest.raises(PruningError, match=r"fold it first: remove_parametrizations"):
        load_pruned(normed, smaller.state_dict())
    with pytest.raises(PruningError, match=r"'0' \(Embedding\)"):
        load_pruned(nn.Sequential(nn.Embedding(9, 8)), nn.Sequential(nn.Embedding(7, 8)).state_dict())


def test_sizes_of_other_modules_follow() -> None:
    full = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.InstanceNorm2d(8, affine=True), nn.PReLU(8))
    cut = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, 3, groups=5), nn.InstanceNorm2d(5, affine=True), nn.PReLU(5))
    load_pruned(full, cut.state_dict())
    assert repr(full) == repr(cut)
    full, cut = nn.ConvTranspose2d(8, 4, 3, groups=2), nn.ConvTranspose2d(6, 2, 3, groups=2)
    assert repr(load_pruned(full, cut.state_dict())) == repr(cut)
    assert type(load_pruned(Conv1D(8, 5), Conv1D(3, 5).state_dict())).__name__ == "Conv1D"
    layer = TailDropout(**CHANNELS)
    old = {**small_state(), "2.k": torch.tensor(3)}  # the original package's layers have one
    assert load_pruned(mlp(), old)[0].out_features == 3
    assert not load_pruned(nn.Sequential(layer), {}).state_dict()
    assert isinstance(load_pruned(gpt(), gpt().state_dict()), Gpt)


@pytest.mark.parametrize("k", [0, -3, 2.5, "a", None, True, torch.tensor(3)])
def test_slices_that_are_no_widths(k: object) -> None:
    with pytest.raises(PruningError, match=r"slices gives .* features for 'drop'; give an int from 1 on"):
        load_pruned(gru(8).double(), gru(8).state_dict(), slices={"drop": k})


@pytest.mark.parametrize(
    ("build", "shapes", "slices", "message"),
    [
        (mlp, {}, {"2": 99}, "'2' keeps 99 features by `slices`, and no module of the checkpoint reads so few"),
        (mlp, {}, {"2": 3}, "'2' keeps 3 features"),
        (lambda: gru(8), {"after.weight": (3, 3)}, {"drop": 5}, "'drop' keeps 5 features"),
        (lambda: gru(8), {"after.weight": (3, 3)}, {}, r"'after' reads 3 of 8 features .* give its width: slices="),
        (mlp, {"0.weight": (5, 5), "0.bias": (5,), "3.weight": (2, 6)}, {}, "'3' reads 6 of 8 features .* no module makes 6"),
        (mlp, {"3.weight": (1, 8), "3.bias": (1,)}, {}, "'3' makes 1 of 2 features .* an output of the network would be cut"),
        (mlp, {"0.weight": (5, 5), "0.bias": (5,), "3.weight": (1, 5), "3.bias": (1,)}, {}, "'3' makes 1 of 2"),
        (
            lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), TailDropout(), nn.Linear(8, 2)),
            dict.fromkeys(("1.weight", "1.bias", "1.running_mean", "1.running_var"), (5,)),
            {},
            "'1' holds 5 of 8 features",
        ),
    ],
)
def test_sizes_that_contradict_each_other_load_nothing(
    build: Callable[[], nn.Module], shapes: dict[str, tuple[int, ...]], slices: dict[str, int], message: str
) -> None:
    model = build()
    before = copy.deepcopy(model)
    tensors = {**model.state_dict(), **{name: torch.ones(shape) for name, shape in shapes.items()}}
    with pytest.raises(PruningError, match=message):
        load_pruned(model, tensors, slices=slices)
    assert repr(model) == repr(before)
    assert all(torch.equal(tensor, before.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_sizes_that_fit_in_other_ways() -> None:
    """What a module reads is flattened, concatenated or one part of what another makes, or nothing reads it at all."""
    flat, small = (
        nn.Sequential(nn.Conv2d(1, n, 3), TailDropout(dropout_dim=1), nn.Flatten(), nn.Linear(4 * n, 2)) for n in (8, 3)
    )
    assert load_pruned(flat, small.state_dict())[3].in_features == 12
    both, small = (nn.ModuleList([nn.Linear(5, n), TailDropout(), nn.Linear(n, 4), nn.Linear(n + 4, 2)]) for n in (8, 3))
    assert load_pruned(both, small.state_dict())[3].in_features == 7
    gated, small = (nn.ModuleList([nn.Linear(5, 2 * n), TailDropout(), nn.Linear(n, 2)]) for n in (8, 3))
    assert load_pruned(gated, small.state_dict())[0].out_features == 6
    towers, small = (nn.ModuleList([nn.Embedding(9, n), nn.Embedding(7, n), TailDropout()]) for n in (8, 3))
    assert load_pruned(towers, small.state_dict())[1].embedding_dim == 3


def test_a_slice_in_the_metadata_may_be_read_in_part() -> None:
    def build() -> nn.Module:
        return Wired(lambda m, x: m.out(m.drop(x)[:, :3]), drop=TailDropout(), out=nn.Linear(3, 2)).double()

    with pytest.warns(UserWarning, match="slices 3 of 8"):
        smaller = prune(build(), "drop", 3, x(6, 8))
    assert_same(load_pruned(build(), saved(smaller.state_dict())), smaller, x(6, 8))
