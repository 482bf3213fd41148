"""The parts of the examples that set the dropouts beside each other: intervals, paired training, closed forms, moons."""

import importlib
import json
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from scipy import stats
from torch import nn

pytest.importorskip("matplotlib", reason="the examples need matplotlib: pip install 'taildropout[examples]'")
pytest.importorskip("sklearn", reason="the examples need scikit-learn: pip install 'taildropout[examples]'")


def load(name: str) -> ModuleType:
    return importlib.import_module(f"examples.{name}")


def test_an_interval_and_its_p_value_are_those_of_students_t_test() -> None:
    intervals = load("common.intervals")
    values = [0.3, -0.1, 0.6, 0.2, 0.5]
    found, oracle = intervals.interval(values), stats.ttest_1samp(values, 0)
    assert found[1:] == pytest.approx(tuple(oracle.confidence_interval(0.95)))
    assert found.mean == pytest.approx(0.3)
    assert intervals.p_value(values) == pytest.approx(oracle.pvalue)
    assert intervals.p_value([-value for value in values]) == pytest.approx(oracle.pvalue)
    assert (intervals.p_value([1, 1]), intervals.p_value([0, 0])) == (0, 1)
    assert [intervals.Interval(0, *ends).sign for ends in [(-1, 1), (0.1, 1), (-1, -0.1)]] == [0, 1, -1]


def test_an_interval_holds_the_mean_95_times_in_100() -> None:
    """P(false alarm) below 1e-6: 2000 intervals, within 5 standard errors of 1900."""
    generator = torch.Generator().manual_seed(0)
    held = [
        low <= 2 <= high
        for _, low, high in (
            load("common.intervals").interval((2 + torch.randn(5, generator=generator)).tolist()) for _ in range(2000)
        )
    ]
    assert abs(sum(held) - 1900) < 5 * (2000 * 0.95 * 0.05) ** 0.5


def test_holm_adjusts_each_p_value_for_those_not_below_it() -> None:
    adjusted = load("common.intervals").holm({"b": 0.02, "c": 0.04, "a": 0.001, "d": 0.03})
    assert list(adjusted) == ["b", "c", "a", "d"]
    assert adjusted == pytest.approx({"a": 0.004, "b": 0.06, "d": 0.06, "c": 0.06})
    assert load("common.intervals").holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def small_fashion(samples: int = 96) -> tuple[object, SimpleNamespace]:
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.rand(samples, 784, generator=generator), torch.randint(10, (samples,), generator=generator)
    return load("common.data").Data(inputs, labels, inputs, labels), SimpleNamespace(batch=32, rate=0.1, width=64)


def test_every_configuration_starts_from_the_same_weights_and_sees_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    mlp = load("experiments.fashion_mlp")
    data, settings = small_fashion()
    starts: list[torch.Tensor] = []
    seen: list[torch.Tensor] = []
    whole = mlp.cross_entropy

    def network(configuration: dict[str, Any]) -> Any:
        made = build(configuration)
        starts.append(torch.cat([weight.detach().flatten() for weight in made.parameters()]))
        return made

    build = mlp.network
    monkeypatch.setattr(mlp, "network", network)

    def record(output: torch.Tensor, labels: torch.Tensor) -> Any:
        seen.append(labels)
        return whole(output, labels)

    monkeypatch.setattr(mlp, "cross_entropy", record)
    batches = []
    for configuration in mlp.CONFIGURATIONS.values():
        seen.clear()
        mlp.train(configuration, 3, data, 1e-3, [2], settings)
        batches.append(torch.cat(seen[:6]))
    assert len(starts) == len(batches) == 15
    assert all(torch.equal(start, starts[0]) for start in starts)
    assert all(torch.equal(batch, batches[0]) for batch in batches)
    assert not torch.equal(batches[0][:96], batches[0][96:]), "every epoch has an order of its own"


def test_weight_decay_is_in_the_two_configurations_that_name_it_and_the_dropouts_behind_both_layers() -> None:
    mlp = load("experiments.fashion_mlp")
    assert [name for name, made in mlp.CONFIGURATIONS.items() if made.decay] == [mlp.DECAY, mlp.BOTH]
    data, settings = small_fashion()
    for name in (mlp.NONE, mlp.DECAY):
        small, large = (mlp.train(mlp.CONFIGURATIONS[name], 0, data, decay, [1], settings)[1] for decay in (1e-4, 1.0))
        assert (small != large) == (name == mlp.DECAY)
    swapped = mlp.network(mlp.CONFIGURATIONS["nn.Dropout (.1, .5)"])
    assert (swapped[2].p, swapped[5].p) == (0.1, 0.5)
    rows = {name: mlp.network(made) for name, made in mlp.CONFIGURATIONS.items()}
    assert [type(layer).__name__ for layer in rows["DropConnect .5"] if isinstance(layer, nn.Linear)][1:] == [
        "DropConnectLinear"
    ] * 2
    assert rows["TailDropout .001"][2].p == rows["TailDropout .001"][5].p == 0.001
    assert rows["TailDropout .5"][2] is not rows["TailDropout .5"][5]


def test_accuracy_is_measured_without_dropout_and_with_the_first_features_alone() -> None:
    mlp = load("experiments.fashion_mlp")
    data, _ = small_fashion()
    model = mlp.network(mlp.CONFIGURATIONS[mlp.DROPOUT])
    hidden = torch.relu(model[0](data.inputs))
    output = model[6](torch.relu(model[3](hidden)))
    cut = hidden * (torch.arange(256) < 64)
    narrow = model[6](torch.relu(model[3](cut)) * (torch.arange(256) < 64))
    found = mlp.measure(model, data, 64)
    assert found["test"] == found["training"] == pytest.approx(100 * (output.argmax(1) == data.labels).double().mean().item())
    assert found["narrow"] == pytest.approx(100 * (narrow.argmax(1) == data.labels).double().mean().item())
    assert found["test_loss"] == pytest.approx(nn.functional.cross_entropy(output, data.labels).item(), rel=1e-5)


def test_the_answers_are_those_that_were_put_into_the_runs() -> None:
    """Accuracies made by hand: what adds up has no interaction, and a difference larger than its noise is found."""
    report = load("experiments.fashion_report")
    settings = SimpleNamespace(epochs=10, longer=[5, 10], seeds=range(6), width=64)
    generator = torch.Generator().manual_seed(0)
    effects = {
        report.NONE: 0.0, report.DROPOUT: -1.0, report.DECAY: 0.5, report.BOTH: -0.5,
        "better": 2.0, "same": -1.0, "worse": -3.0,
        "nn.Dropout (.1, .5)": 1.0, "nn.Dropout (.5, .1)": 0.0, "nn.Dropout (.1, .9)": -2.0, "nn.Dropout (.9, .1)": -1.0,
    }  # fmt: skip
    seed_effects = torch.randn(6, generator=generator)

    def run(effect: float, seed: int) -> dict[int, dict[str, float]]:
        test = 80 + effect + 3 * seed_effects[seed].item() + 0.05 * torch.randn((), generator=generator).item()
        row = {"test": test, "training": test + 4, "narrow": 50.0, "test_loss": 0.5}
        return {10: row, 5: row | {"test": test - effect}}

    found = {name: [run(effect, seed) for seed in range(6)] for name, effect in effects.items()}
    answers = report.analyse(found, ["better", "same", "worse"], settings)
    assert answers["interaction"].sign == 0
    assert abs(answers["interaction"].mean) < 0.2
    assert [each.sign for each in answers["swapped"].values()] == [1, -1]
    assert answers["configurations"]["better"]["against_none"].mean == pytest.approx(2, abs=0.2)
    assert answers["configurations"]["better"]["gap"].mean == pytest.approx(4)
    assert answers["epochs"][5]["difference"].mean == pytest.approx(0, abs=0.2)
    assert answers["epochs"][10]["difference"].mean == pytest.approx(-1, abs=0.2)
    assert report.judged(answers, report.DROPOUT) == "better: better; worse: worse; no difference shown: same"
    assert report.judged(answers, report.NONE).startswith(f"better: better; worse: {report.DROPOUT}, same, worse")
    found[report.BOTH] = [run(1.0, seed) for seed in range(6)]
    answers = report.analyse(found, ["better", "same", "worse"], settings)
    assert answers["interaction"].sign == 1
    assert "more than both apart" in report.say(answers, 1e-4, settings)[2]


@pytest.mark.parametrize("layer", ["no dropout", "nn.Dropout", "TailDropout"])
def test_the_closed_form_of_the_covariance_is_that_of_many_masks(layer: str) -> None:
    """P(false alarm) below 1e-4: 36 entries for each layer, each within 6 of its standard errors."""
    example = load("experiments.activation_variance")
    n, p, draws = 8, 0.3, 40_000
    torch.manual_seed(0)
    a = torch.randn(50, n).exp()
    drawn = example.LAYERS[layer](p).train()(a.repeat(draws // 50, 1)).double()
    mask = example.moments(layer, n, p)
    found = example.covariance(a, mask)
    mean = mask[0] * a.double().mean(0)
    products = (drawn - mean)[:, :, None] * (drawn - mean)[:, None, :]
    error = products.var(0).sqrt() / draws**0.5
    assert ((products.mean(0) - found).abs() <= 6 * error + 1e-6).all()
    second = (a.double() ** 2).mean(0)
    textbook = {"nn.Dropout": second / (1 - p) - a.double().mean(0) ** 2, "TailDropout": mask[0] * second - mean**2}
    torch.testing.assert_close(found.diagonal(), textbook.get(layer, a.double().var(0, correction=0)))
    held = example.covariance(a, mask, at_mean=True).diagonal()
    assert layer == "no dropout" or (held < 0.95 * found.diagonal()).all(), "a that is held at its mean does not vary"


def test_variances_follow_a_pass_in_training_mode() -> None:
    """Without dropout every closed form is the measurement itself; with one it is not, where the masks are of another."""
    example = load("experiments.activation_variance")
    torch.manual_seed(0)
    inputs = torch.rand(400, 784)
    plain = example.variances(example.network("no dropout", 0.5), example.moments("no dropout", 256, 0.5), inputs)
    torch.testing.assert_close(plain[0], plain[1], rtol=1e-4, atol=0)
    assert plain.shape == (len(example.FORMS), len(example.PLACES))
    model = example.network("nn.Dropout", 0.5).eval()
    right, wrong = (example.variances(model, example.moments(of, 256, 0.5), inputs) for of in ("nn.Dropout", "TailDropout"))
    assert (right[0] / right[1] - 1).abs().max() < 0.25
    assert (wrong[0] / wrong[1]).min() > 1.5


def test_moons_are_flipped_where_they_say_and_the_test_is_not() -> None:
    """P(false alarm) below 1e-6: of 1000 labels, 200 are flipped up to 5 standard deviations."""
    example = load("experiments.moons")
    settings = SimpleNamespace(**example.SETTINGS["default"] | {"noise": 0.0})
    found = example.moons(3, settings)
    sets = [found.training, found.validation, found.test]
    assert [len(inputs) for inputs, _ in sets] == [200, 1000, 4000]
    # Without noise the moon of label 0 lies on the unit circle.
    training, validation, test = (labels != ((inputs.norm(dim=1) - 1).abs() > 1e-4).long() for inputs, labels in sets)
    assert torch.equal(training, found.flipped)
    assert abs(validation.sum() - 200) < 5 * (1000 * 0.2 * 0.8) ** 0.5
    assert not test.any()
    assert not torch.equal(found.training[0], example.moons(4, settings).training[0])


def test_the_moons_network_learns_wrong_labels_by_heart_unless_it_is_kept_from_it() -> None:
    example = load("experiments.moons")
    settings = SimpleNamespace(**example.SETTINGS["default"])
    plain = example.train(example.NONE, 0.0, 0, settings)
    decayed = example.train(example.DECAY, 10.0, 0, settings)
    assert plain["training"] > 90
    assert plain["training"] > decayed["training"] + 5
    assert decayed["test"] > plain["test"] > 70


def test_moons_are_told_apart_far_better_than_by_chance() -> None:
    """In what is committed: half of the answers would be right by chance."""
    results = load("common.study").EXAMPLES / "results"
    accuracies = json.loads((results / "moons.json").read_text())["results"]["test_accuracy_of_each_seed"]
    assert len(accuracies) == 5
    means = {name: sum(each) / len(each) for name, each in accuracies.items()}
    assert min(means.values()) > 75
    assert max(means.values()) > 90
    assert "| TailDropout |" in (results / "moons.md").read_text()
