"""How scree weights batches, and that batches stay as they are."""

import functools
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from taildropout import Scree, TailDropout, frontier, scree
from taildropout.widths.calling import Caller

pytestmark = pytest.mark.usefixtures("float64")


def classifier() -> tuple[nn.Sequential, list[tuple[Tensor, Tensor]]]:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), TailDropout(), nn.Linear(6, 3)).eval()
    return model, [(torch.randn(rows, 4), torch.randint(3, (rows,))) for rows in (8, 3)]


def mean_of_counted(output: Tensor, target: Tensor) -> Tensor:
    """Return a mean loss that is 0, and not NaN, if all targets are ignored."""
    return nn.functional.cross_entropy(output, target, reduction="sum") / max(1, int((target != -100).sum()))


class WithLoss(nn.Module):
    """A model that computes its own loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": mean_of_counted(self.model(x), labels)}


def test_a_batch_of_ignored_targets_changes_nothing() -> None:
    model, batches = classifier()
    dicts = [{"x": x, "labels": y} for x, y in batches]
    ignored = {"x": batches[0][0], "labels": torch.full_like(batches[0][1], -100)}
    expected = scree(WithLoss(model), "model.2", dicts, progress=False)
    result = scree(WithLoss(model), "model.2", [ignored, *dicts], progress=False)
    assert torch.equal(result.loss, expected.loss)
    assert torch.equal(result.stderr, expected.stderr)
    with pytest.raises(ValueError, match="no batch has a label that counts"):
        scree(WithLoss(model), "model.2", [ignored], progress=False)


def test_the_default_device_is_not_used() -> None:
    model, batches = classifier()

    def number(output: Tensor, target: Tensor) -> float:
        return float(mean_of_counted(output, target))

    expected = scree(model, "2", batches, number, progress=False)
    falling = Scree((0, 1, 2, 3), torch.tensor([4.0, 2.0, 1.1, 1.0]), torch.full((4,), 0.1))
    torch.set_default_device("meta")  # as with a GPU, what is made without a device does not fit a model on the CPU
    try:
        assert torch.equal(scree(model, "2", batches, number, progress=False).loss, expected.loss)
        curve = frontier(
            model, batches, number, cost=lambda widths: sum(widths.values()), maximize=False, sizes=4, progress=False
        )
        assert falling.choose(method="elbow") == 1  # the deepest below the chord: 2 where that is 3
    finally:
        torch.set_default_device(None)
    assert curve.full.widths == {"2": 6}


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


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


class Derived(namedtuple("Derived", "x y")):
    """A subclass of a named tuple, which torch does not look into."""


class Triple(NamedTuple):
    x: Tensor
    y: Tensor
    name: str = "batch"


class Ordered(dict[str, Tensor]):
    """A subclass of dict, which torch does not look into."""


class Moving(UserDict[str, Any]):
    """Moves in place, as a BatchEncoding of transformers."""

    def to(self, device: torch.device) -> "Moving":
        self.data = {name: value.to(device) for name, value in self.data.items()}
        return self


@dataclass(frozen=True)
class Record:
    x: Tensor
    y: Tensor


def part(batch: Any, name: str) -> Any:
    return batch[name] if isinstance(batch, Mapping) else getattr(batch, name)


KINDS = [dict, UserDict, Moving, Ordered, OrderedDict, Pair, Derived, Triple, Record, SimpleNamespace]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_place", [False, True])
def test_a_call_gets_a_batch_of_its_own_type(kind: Any, in_place: bool) -> None:
    model, pairs = classifier()
    batches = [kind(x=x.clone(), y=y) for x, y in pairs]

    def call(model: nn.Module, batch: Any) -> Any:
        assert type(batch) is kind
        return model(part(batch, "x").mul_(2) if in_place else part(batch, "x") * 2)

    def loss(output: Tensor, batch: Any) -> Tensor:
        labels = batch if isinstance(batch, Tensor) else part(batch, "y")
        return nn.functional.cross_entropy(output, labels, reduction="none")

    found = scree(model, "2", batches, loss, call=call, progress=False)
    expected = scree(model, "2", [(x * 2, y) for x, y in pairs], loss, progress=False)
    torch.testing.assert_close(found.loss, expected.loss)
    for batch, (x, _) in zip(batches, pairs, strict=True):
        assert torch.equal(part(batch, "x"), x)


@pytest.mark.parametrize("kind", [tuple, list])
def test_pairs_of_a_subclass_that_torch_does_not_know_are_moved(kind: Any) -> None:
    pair = type("Own", (kind,), {})(classifier()[1][0])
    example = Caller(nn.Linear(4, 3), nn.MSELoss(), None, "meta").read(pair, 1)
    assert example.input.is_meta
    assert example.target.is_meta


@pytest.mark.parametrize("kind", [*KINDS, MappingProxyType])
@pytest.mark.parametrize("called", [False, True])
def test_a_batch_is_moved_and_the_callers_stays_where_it_is(kind: Any, called: bool) -> None:
    model, ((x, y), _) = classifier()
    batch = kind({"x": x, "y": y}) if kind is MappingProxyType else kind(x=x, y=y)
    caller = Caller(model, nn.MSELoss(), (lambda model, batch: model(batch)) if called else None, "meta")
    if not called and kind in (Triple, Record, SimpleNamespace):
        with pytest.raises(TypeError, match=f"batch 1 has type {kind.__name__} and is not a pair"):
            caller.read(batch, 1)
        return
    example = caller.read(batch, 1)
    moved = example.input if called or example.keywords else kind(example.input, example.target)
    for name in ("x", "y"):
        assert part(moved, name).is_meta
        assert not part(batch, name).is_meta
    assert example.keywords == (not called and kind not in (Pair, Derived))
    if called and kind is not MappingProxyType:
        assert type(moved) is kind


def test_a_loss_gets_a_mapping_of_its_own_type() -> None:
    class Encoded(UserDict[str, Tensor]):
        def __getattr__(self, name: str) -> Tensor:
            return self.data[name]

    class Keywords(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, y: Tensor) -> Any:
            return self.net(x)

    model, pairs = classifier()
    batches = [Encoded(x=x, y=y) for x, y in pairs]
    found = scree(Keywords(model), "net.2", batches, lambda output, batch: nn.functional.cross_entropy(output, batch.y))
    torch.testing.assert_close(found.loss, scree(model, "2", pairs, nn.CrossEntropyLoss()).loss)
