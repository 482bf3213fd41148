"""Normalisations of channels are cut with or without weights, biases and running statistics."""

import pytest
import torch
from package.pruning.pruned import CHANNELS, checked, lively, x
from torch import Tensor, nn

from taildropout import TailDropout

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
