"""The parts of the example of TailMLP: time to a loss, and networks that start alike."""

import importlib
from types import ModuleType

import pytest
import torch

pytest.importorskip("matplotlib", reason="the examples need matplotlib: pip install 'taildropout[examples]'")
pytest.importorskip("sklearn", reason="the examples need scikit-learn: pip install 'taildropout[examples]'")


def load(name: str) -> ModuleType:
    return importlib.import_module(f"examples.{name}")


def test_the_time_to_a_loss_is_that_of_its_steps_over_those_without_dropout() -> None:
    """Two seeds. TailMLP needs twice the steps of half the time; nn.Dropout never comes down to the least of no dropout."""
    feedforward = load("experiments.feedforward")
    kinds = [(feedforward.NONE, 0.0), (feedforward.MLP, 0.5), (feedforward.DROPOUT, 0.5)]
    none, slower, never = [3.0, 2.0, 1.0, 0.5, 0.8], [3.0, 2.5, 2.0, 1.5, 0.5], [3.0, 2.0, 1.0, 0.6, 0.7]
    curves = torch.tensor([[none, none], [slower, slower], [never, never]])
    times, accuracies = torch.tensor([[2.0, 4.0], [1.0, 2.0], [2.0, 6.0]]), torch.tensor([[0.8, 0.8], [0.9, 0.8], [0.7, 0.7]])
    found = feedforward.judge(curves, accuracies, times, kinds, 10)
    assert found["easy loss"] == pytest.approx(0.6)
    _, mlp, dropout = found["rows"]
    assert mlp["a step"] == (0.5, 0.5, 0.5)
    assert mlp["to the easy loss"].mean == pytest.approx(0.5 * 39 / 28)
    assert mlp["to the least of no dropout"].mean == pytest.approx(0.5 * 40 / 30)
    assert mlp["points of accuracy beyond no dropout"].mean == pytest.approx(5)
    assert dropout["a step"].mean == pytest.approx(1.25)
    assert dropout["to the least of no dropout"] == "0 of 2 runs reach it"
    assert dropout["least loss beyond no dropout"].sign == 1
    assert feedforward.steps_to(curves[0, 0], 3.0, 10) == 0


def test_networks_of_a_seed_start_alike_and_another_training_is_not_taken_for_taildropouts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    feedforward = load("experiments.feedforward")
    network, starts = feedforward.network, []
    for kind in feedforward.LOOKS:
        torch.manual_seed(0)
        starts.append(list(network(kind, 0.5, 8).parameters()))
    for others in starts[1:]:
        assert all(torch.equal(mine, its) for mine, its in zip(starts[0], others, strict=True))
    settings = feedforward.Study("feedforward", "", feedforward.SETTINGS, ["--quick"]).settings
    data = load("common.data").Data(torch.rand(64, 784), torch.randint(10, (64,)), torch.rand(1, 784), torch.tensor([1]))
    assert feedforward.apart(0.5, data, settings) < 1e-5
    monkeypatch.setattr(feedforward, "network", lambda kind, *at: network({"TailDropout": "nn.Dropout"}.get(kind, kind), *at))
    with pytest.raises(RuntimeError, match="not rounding"):
        feedforward.apart(0.5, data, settings)
