"""Normalisations of channels are cut and loaded with or without weights, biases and running statistics."""

import copy
import io
import pickle

import pytest
import torch
from package.pruning.pruned import CHANNELS, checked, evaluated, lively, x
from torch import Tensor, nn

from taildropout import PruningError, TailDropout, load_pruned, prune

WHOLE = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)
NORMS = [(kind, {"affine": affine, "track_running_stats": stats}) for kind in WHOLE for affine in (0, 1) for stats in (0, 1)]
NORMS += [(nn.GroupNorm, {"affine": affine}) for affine in (0, 1)]


def norm(kind: type[nn.Module], **options: int) -> nn.Module:
    made = kind(*((4, 8) if kind is nn.GroupNorm else (8,)), **{name: bool(value) for name, value in options.items()})
    for parameter in made.parameters():
        nn.init.uniform_(parameter, 0.5, 2)
    return made


def around(made: nn.Module, before: bool) -> nn.Module:
    """Return a network in which the normalisation stands before or after the layer, and its input."""
    dims = int(digit) if (digit := type(made).__name__[-2]).isdigit() else 2
    convolution: type[nn.Module] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    middle = [made, nn.ReLU(), TailDropout(**CHANNELS)] if before else [TailDropout(**CHANNELS), made, nn.ReLU()]
    return lively(nn.Sequential(convolution(3, 8, 3), *middle, convolution(8, 2, 1)))


def input_of(model: nn.Module) -> Tensor:
    return x(2, 3, *[5] * len(model[0].kernel_size))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(("kind", "options"), NORMS, ids=lambda value: getattr(value, "__name__", None))
def test_all_that_it_has_is_cut(kind: type[nn.Module], options: dict[str, int], before: bool, bias: bool) -> None:
    made = norm(kind, **options)
    if not bias:
        made.bias = None  # as torch 2.13 makes it by bias=False
    model = around(made, before)
    smaller = checked(model, "3" if before else "1", 4, input_of(model))
    cut = smaller[1 if before else 2]
    assert cut.num_channels == 2 * cut.num_groups == 4 if kind is nn.GroupNorm else cut.num_features == 4
    tensors = {name: tensor for name, tensor in cut.state_dict().items() if name != "num_batches_tracked"}
    assert {*tensors} == {*made.state_dict()} - {"num_batches_tracked"}
    assert all(torch.equal(tensor, made.state_dict()[name][:4]) for name, tensor in tensors.items())
    assert {name for name, _ in cut.named_parameters()} == {name for name, _ in made.named_parameters()}
    input, loaded = input_of(model), load_pruned(copy.deepcopy(model), smaller.state_dict())
    assert repr(loaded) == repr(smaller)
    torch.testing.assert_close(evaluated(loaded, input), evaluated(smaller, input), rtol=0, atol=0)


WITHOUT = [nn.GroupNorm(4, 8, affine=False), nn.InstanceNorm2d(8), nn.BatchNorm2d(8, affine=False, track_running_stats=False)]


@pytest.mark.parametrize("remove", [False, True])
@pytest.mark.parametrize("made", WITHOUT, ids=lambda made: type(made).__name__)
def test_the_size_of_a_norm_without_weights_is_recorded_or_given(made: nn.Module, remove: bool) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return around(copy.deepcopy(made), before=True)

    smaller = pickle.loads(pickle.dumps(prune(prune(build(), "3", 6, x(2, 3, 5, 5)), "3", 4, x(2, 3, 5, 5), remove=remove)))
    state_dict = smaller.state_dict()
    assert not [key for key in state_dict if key.startswith("1")]
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    first = load_pruned(build(), torch.load(file, weights_only=True))
    for loaded in (
        first,
        load_pruned(build(), first.state_dict()),
        load_pruned(build(), {**state_dict}, slices={"1": 4}),  # as from a safetensors file
        load_pruned(build(), state_dict, slices={}),
        load_pruned(first, state_dict),
        load_pruned(nn.ModuleList([build()]), nn.ModuleList([smaller]).state_dict())[0],
    ):
        assert repr(loaded[1]) == repr(smaller[1])
        torch.testing.assert_close(evaluated(loaded, x(2, 3, 5, 5) * 0 + 1), evaluated(smaller, x(2, 3, 5, 5) * 0 + 1))
    whole = build()
    assert repr(load_pruned(build(), {**whole.state_dict()})) == repr(whole)


def test_without_the_number_of_groups_nothing_is_loaded() -> None:
    """torch would take 8 channels in the groups of 4, and give other numbers."""

    def build() -> nn.Module:
        return around(nn.GroupNorm(4, 8, affine=False), before=True)

    state_dict = {**prune(build(), "3", 4, x(2, 3, 5, 5)).state_dict()}
    model = build()
    before = repr(model)
    for slices, message in (
        (None, r"how many channels '1' \(GroupNorm\) has, which has no weights; give slices=\{'1': number of channels\}"),
        ({"3": 4}, "how many channels '1'"),
        ({"1": 3}, r"'1' \(GroupNorm\) does not fit the checkpoint: 3 channels are no multiple of the 2 of a group"),
        ({"1": 10}, r"'1' \(GroupNorm\) has 8 channels in the model and 10 in the checkpoint"),
        ({"1": 0}, "slices gives 0 features for '1'"),
        ({"1": 2}, "'1' holds 2 of 8 features in the checkpoint, and no module makes 2"),
    ):
        with pytest.raises(PruningError, match=message):
            load_pruned(model, state_dict, slices=slices)
        assert repr(model) == before
    alone = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8, affine=False), TailDropout(**CHANNELS), nn.Conv2d(8, 2, 1)
    ).double()
    with pytest.warns(UserWarning, match="slices 4 of 8"):
        state_dict = {**prune(alone, "2", 4, x(2, 3, 5, 5)).state_dict()}
    assert load_pruned(alone, state_dict, slices={"2": 4})[3].in_channels == 4  # one group is whole
