"""How scree weights batches, and that batches stay as they are."""

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from taildropout import TailDropout, scree

pytestmark = pytest.mark.usefixtures("float64")


def classifier() -> tuple[nn.Sequential, list[tuple[Tensor, Tensor]]]:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), TailDropout(), nn.Linear(6, 3)).eval()
    return model, [(torch.randn(rows, 4), torch.randint(3, (rows,))) for rows in (8, 3)]


def test_a_mean_that_ignores_targets_counts_by_the_others() -> None:
    model, batches = classifier()
    batches[0][1][2:] = -100
    output = model(torch.cat([x for x, _ in batches]))
    targets = torch.cat([y for _, y in batches])
    of_class = torch.tensor([1.0, 5.0, 0.5])
    partial, entropy = functools.partial, nn.functional.cross_entropy
    for loss in (nn.CrossEntropyLoss(), entropy, nn.CrossEntropyLoss(weight=of_class), partial(entropy, weight=of_class)):
        assert scree(model, "2", batches, loss, progress=False)[6] == pytest.approx(loss(output, targets).item(), rel=1e-5)
    batches = [(x, y.where(y != -100, 1)) for x, y in batches]
    targets = torch.cat([y for _, y in batches])
    smoothed = partial(nn.CrossEntropyLoss(ignore_index=1, label_smoothing=0.1))
    for loss in (nn.CrossEntropyLoss(ignore_index=1), partial(entropy, ignore_index=1), smoothed):
        assert scree(model, "2", batches, loss, progress=False)[6] == pytest.approx(loss(output, targets).item(), rel=1e-5)


def test_the_attributes_of_a_batch_weight_it_too() -> None:
    model, batches = classifier()
    found = scree(
        model,
        "2",
        [SimpleNamespace(x=x, y=y) for x, y in batches],
        lambda output, batch: nn.functional.cross_entropy(output, batch.y),
        call=lambda model, batch: model(batch.x),
        maximize=False,
        progress=False,
    )
    assert found[6] == pytest.approx(scree(model, "2", batches, nn.CrossEntropyLoss(), progress=False)[6], rel=1e-6)


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(reduction="sum"), functools.partial(nn.functional.cross_entropy, reduction="sum")],
    ids=["module", "partial"],
)
def test_a_sum_over_the_batch_is_no_loss_here(loss: Any) -> None:
    model, batches = classifier()
    with pytest.raises(ValueError, match=r"reduction='sum'.*'mean' or 'none'"):
        scree(model, "2", batches, loss, progress=False)


def test_a_batch_without_samples_is_named() -> None:
    model, batches = classifier()
    batches.append((torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)))
    with pytest.raises(ValueError, match="no number in batch 3; leave batches without samples out"):
        scree(model, "2", batches, nn.CrossEntropyLoss(reduction="none"), progress=False)


class Halving(nn.Module):
    """A model that changes its input in place."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.mul_(0.5).add_(1))


def test_a_batch_that_the_model_changes_stays_as_it_is() -> None:
    model, batches = classifier()
    before = [x.clone() for x, _ in batches]
    loss = nn.CrossEntropyLoss(reduction="none")
    found = scree(Halving(model), "model.2", batches, loss, progress=False)
    assert all(torch.equal(x, was) for (x, _), was in zip(batches, before, strict=True))
    torch.testing.assert_close(found.loss, scree(model, "2", [(x * 0.5 + 1, y) for x, y in batches], loss, progress=False).loss)


def test_a_call_may_take_items_out_of_a_batch() -> None:
    model, batches = classifier()
    found = scree(
        model,
        "2",
        [{"x": x, "y": y} for x, y in batches],
        lambda output, batch: nn.functional.cross_entropy(output, batch["y"], reduction="none"),
        call=lambda model, batch: model(batch.pop("x")),
        maximize=False,
        progress=False,
    )
    torch.testing.assert_close(
        found.loss, scree(model, "2", batches, nn.CrossEntropyLoss(reduction="none"), progress=False).loss
    )
