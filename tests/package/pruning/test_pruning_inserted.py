"""prune and frontier treat a layer that insert_dropout has inserted as they treat a plain layer at the same place."""

import copy

import pytest
import torch
from package.pruning.pruned import CHANNELS, checked, count, lively, x
from torch import Tensor, nn

from taildropout import TailDropout, frontier, insert_dropout

FLAT = [nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)]
IMAGES = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1), nn.Flatten()]
WORDS = [nn.Embedding(9, 8), nn.Linear(8, 2)]
PLACES = [(FLAT, 0), (FLAT, 1), (FLAT, 2), (IMAGES, 0), (IMAGES, 1), (IMAGES, 2), (WORDS, 0)]


def input_of(modules: list[nn.Module]) -> Tensor:
    return {id(FLAT): x(), id(IMAGES): x(4, 3, 5, 5)}.get(id(modules), torch.arange(8))


@pytest.mark.parametrize(("modules", "place"), PLACES)
@pytest.mark.parametrize("after", [True, False])
def test_it_is_cut_like_a_plain_layer(modules: list[nn.Module], place: int, after: bool) -> None:
    plain, options = copy.deepcopy(modules), CHANNELS if modules is IMAGES else {}
    plain.insert(place + 1, TailDropout(**options))
    model = lively(nn.Sequential(*copy.deepcopy(modules)))
    where, child = (place, "dropout_after") if after else (place + 1, "dropout_before")
    insert_dropout(model, **{child.removeprefix("dropout_"): str(where)}, **options)
    smaller = checked(model, f"{where}.{child}", 3, input_of(modules))
    expected = checked(lively(nn.Sequential(*plain)), str(place + 1), 3, input_of(modules))
    assert [each.shape for each in smaller.parameters()] == [each.shape for each in expected.parameters()]
    checked(model, f"{where}.{child}", 3, input_of(modules), remove=True)


def test_frontier_takes_it() -> None:
    model = insert_dropout(nn.Sequential(*copy.deepcopy(FLAT)), after="0").double()
    batches = [(x(), torch.arange(6) % 2)] * 2
    found = frontier(model, batches, nn.CrossEntropyLoss(), x(), progress=False)
    assert min(point.cost for point in found.points) < count(model)
