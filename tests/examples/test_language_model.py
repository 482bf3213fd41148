"""The language model of the examples: what it reads, that no character sees a later one, its cuts, and what it says."""

import copy
import importlib
import json
import math
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from taildropout import TailDropout, at_k
from taildropout.baselines import LearnedDropout

pytest.importorskip("matplotlib", reason="the examples need matplotlib: pip install 'taildropout[examples]'")
pytest.importorskip("sklearn", reason="the examples need scikit-learn: pip install 'taildropout[examples]'")
pytest.importorskip("torch_pruning", reason="pruning needs torch-pruning: pip install 'taildropout[prune]'")

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def model_of() -> ModuleType:
    """The example as a module."""
    return importlib.import_module("examples.experiments.language_model")


@pytest.fixture(scope="module")
def settings(model_of: ModuleType) -> SimpleNamespace:
    return SimpleNamespace(**(model_of.SETTINGS["default"] | model_of.SETTINGS["quick"]))


@pytest.fixture(scope="module")
def written(model_of: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a quick run."""
    folder = tmp_path_factory.mktemp("language_model")
    model_of.main(["--quick", "--out", str(folder)])
    return folder


@pytest.mark.slow
def test_a_quick_run_writes_figure_results_and_a_table_of_every_network(model_of: ModuleType, written: Path) -> None:
    results = json.loads((written / "results" / "language_model.json").read_text())
    assert results["size"] == "quick"
    assert (written / "figures" / "language_model.png").read_bytes().startswith(b"\x89PNG")
    found = results["results"]
    assert set(found["runs"]) == set(model_of.CONFIGURATIONS)
    assert all(len(runs) == 2 for runs in found["runs"].values())
    assert all(
        run["parameters"] < found["runs"]["TailDropout .5"][0]["parameters"] for run in found["cuts"]["TailDropout .5"]["runs"]
    )
    table = (written / "results" / "language_model.md").read_text()
    for name in (*model_of.CONFIGURATIONS, "TailDropout .1, pruned to", "TailDropout .5, pruned to"):
        assert sum(line.startswith(f"| {name} ") for line in table.splitlines()) == 1
    whole = found | {"answers": model_of.analyse(found)}
    assert model_of.table(whole, model_of.say(whole, SimpleNamespace(**results["settings"]))) + "\n" == table
    widths = [line.count("|") for line in table.splitlines() if line.startswith("|")]
    assert len(set(widths)) == 1


def test_what_is_committed_comes_from_the_settings_of_today(model_of: ModuleType) -> None:
    results = json.loads((EXAMPLES / "results" / "language_model.json").read_text())
    assert results["size"] == "default"
    assert results["settings"] == model_of.SETTINGS["default"]
    found = results["results"]
    assert found["corpus"]["training"]["sha256"] != found["corpus"]["validation"]["sha256"]
    for name, cut in found["cuts"].items():
        for run in cut["runs"]:
            assert run["largest_difference_of_logits"] < 1e-4, name
            assert run["validation"] == pytest.approx(run["validation_at_k"], abs=1e-4)
    whole = found | {"answers": model_of.analyse(found)}
    said = model_of.say(whole, SimpleNamespace(**results["settings"]))
    committed = (EXAMPLES / "results" / "language_model.md").read_text()
    assert model_of.table(whole, said).strip() + "\n" == committed, "run the example anew"


def test_training_and_validation_share_no_module(model_of: ModuleType) -> None:
    for size, chosen in model_of.SETTINGS.items():
        chosen = model_of.SETTINGS["default"] | chosen
        assert not set(chosen["training"]) & set(chosen["validation"]), size
        assert len(set(chosen["training"])) == len(chosen["training"])
        lines = [set(model_of.source(chosen[part]).splitlines()) for part in ("training", "validation")]
        long = {line for line in lines[0] & lines[1] if len(line) >= 50}
        # An idiom, no sentence: Python 3.13 added it to modules on both sides.
        assert not long - {"    __class_getitem__ = classmethod(types.GenericAlias)"}, "a sentence is in both"


def test_a_module_that_is_not_there_is_named(model_of: ModuleType) -> None:
    with pytest.raises(FileNotFoundError, match=r"no source of no_such_module; use a Python"):
        model_of.source(["bisect", "no_such_module"])


def test_every_character_is_followed_by_the_next_one(model_of: ModuleType) -> None:
    text = model_of.encode("a\nb~ \té" + "xyz" * 9)
    assert text[:7].tolist() == [66, 0, 67, 95, 1, 96, 96]
    assert text.max() < model_of.CHARACTERS
    inputs, targets = model_of.windows(text, 5)
    assert inputs.shape == targets.shape == (6, 5)
    assert torch.equal(inputs.flatten(), text[:30])
    assert torch.equal(targets.flatten(), text[1:31])


@pytest.mark.parametrize("training", [True, False])
def test_no_character_sees_a_later_one(training: bool, model_of: ModuleType, settings: SimpleNamespace) -> None:
    """In training as well: the same noise is drawn for both texts."""
    for name, choice in model_of.CONFIGURATIONS.items():
        torch.manual_seed(3)
        model = model_of.decoder(choice, settings).train(training)
        with torch.no_grad():
            for each in model.parameters():
                each.mul_(3)  # attention that attends, masks on both sides of ½
            text = torch.randint(model_of.CHARACTERS, (2, settings.context))
            changed = text.clone()
            changed[:, 9:] = torch.randint(model_of.CHARACTERS, (2, settings.context - 9))
            outputs = []
            for each in (text, changed):
                torch.manual_seed(4)
                outputs.append(model(each))
        torch.testing.assert_close(outputs[0][:, :9], outputs[1][:, :9], rtol=0, atol=1e-4, msg=f"{name} sees what comes later")
        assert (outputs[0][:, 9:] - outputs[1][:, 9:]).abs().max() > 0.1


def test_a_position_sees_the_first_character_through_attention(model_of: ModuleType, settings: SimpleNamespace) -> None:
    model = model_of.decoder(model_of.Choice("none"), settings)
    text = torch.randint(model_of.CHARACTERS, (1, settings.context))
    changed = text.clone()
    changed[0, 0] = (text[0, 0] + 1) % model_of.CHARACTERS
    with torch.no_grad():
        assert (model(text)[:, -1] - model(changed)[:, -1]).abs().max() > 1e-4


def test_layers_stand_where_they_are_said_to(model_of: ModuleType, settings: SimpleNamespace) -> None:
    start = None
    for name, choice in model_of.CONFIGURATIONS.items():
        torch.manual_seed(0)
        model = model_of.decoder(choice, settings)
        state = model.state_dict()
        start = start or {key: value.clone() for key, value in state.items()}
        assert all(torch.equal(state[key], start[key]) for key in start), f"{name} starts from other weights"
        dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]
        tails = [module for module in model.modules() if isinstance(module, TailDropout)]
        learned = model_of.learned(model)
        assert all(isinstance(module, LearnedDropout) and module.causal for module in learned)
        blocks = settings.blocks
        numbers = {
            "none": (0, 0, 0),
            "dropout": (2, 0, 0),
            "dropout in the FFN": (1, 0, 0),
            "tail": (0, 1, 0),
            "learned": (0, 0, 2),
        }
        assert (len(dropouts), len(tails), len(learned)) == tuple(blocks * number for number in numbers[choice.kind])
        assert {module.p for module in dropouts + tails} <= {choice.p}
        assert {module.shift_init for module in learned} <= {choice.shift}
    assert {choice.p for choice in model_of.CONFIGURATIONS.values() if choice.kind == "dropout"} == {0.2, 0.3, 0.4}
    of_learned = {(choice.shift, choice.penalised) for choice in model_of.CONFIGURATIONS.values() if choice.kind == "learned"}
    assert of_learned == {(shift, penalised) for shift in (0, math.pi / 2, math.pi) for penalised in (False, True)}


def test_all_see_the_same_text_for_a_seed_and_other_text_for_another(
    model_of: ModuleType, settings: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {part: model_of.encode(model_of.source(getattr(settings, part))) for part in ("training", "validation")}
    objective = model_of.objective
    seen: list[list[torch.Tensor]] = []

    def record(model: nn.Module, choice: Any, batch: Any, settings: Any) -> torch.Tensor:
        seen[-1].append(torch.stack(batch))
        return objective(model, choice, batch, settings)

    monkeypatch.setattr(model_of, "objective", record)
    for name, seed in [("no dropout", 0), ("LearnedDropout 0", 0), ("TailDropout .5", 0), ("no dropout", 1)]:
        seen.append([])
        model_of.train(name, seed, texts, settings)
    batches = [torch.stack(each) for each in seen]
    assert batches[0].shape == (settings.steps, 2, settings.batch, settings.context)
    assert torch.equal(batches[0], batches[1])
    assert torch.equal(batches[0], batches[2])
    assert not torch.equal(batches[0], batches[3])
    assert torch.equal(batches[0][:, 0, :, 1:], batches[0][:, 1, :, :-1])


def test_training_learns(model_of: ModuleType, settings: SimpleNamespace) -> None:
    """A text of one repeated word is learned to less than a tenth of what chance gives, log 97."""
    texts = dict.fromkeys(("training", "validation"), model_of.encode("taildropout " * 100))
    longer = SimpleNamespace(**(vars(settings) | {"steps": 200, "every": 200, "rate": 1e-2}))
    assert model_of.train("nn.Dropout .2", 0, texts, longer)["validation"] < 0.1 * math.log(97)


def test_the_objective_is_the_loss_and_where_asked_the_penalty(model_of: ModuleType, settings: SimpleNamespace) -> None:
    text = torch.randint(model_of.CHARACTERS, (2, settings.context + 1))
    batch = text[:, :-1], text[:, 1:]
    values = []
    for penalised in (False, True):
        torch.manual_seed(5)
        choice = model_of.Choice("learned", shift=1.0, penalised=penalised)
        model = model_of.decoder(choice, settings)
        values.append(model_of.objective(model, choice, batch, settings))
    penalties = [layer.penalty() for layer in model_of.learned(model)]
    torch.testing.assert_close(values[1] - values[0], settings.penalty * sum(penalties) / len(penalties), rtol=1e-3, atol=1e-5)
    plain = nn.functional.cross_entropy(model.eval()(batch[0]).flatten(0, 1), batch[1].flatten()).item()
    assert model_of.evaluate(model, batch)[0] == pytest.approx(plain, rel=1e-5)


def test_the_loss_at_every_width_is_that_of_a_loop(model_of: ModuleType, settings: SimpleNamespace) -> None:
    model = model_of.decoder(model_of.Choice("tail"), settings)
    text = torch.randint(model_of.CHARACTERS, (100, settings.context + 1))
    text = text[:, :-1], text[:, 1:]
    widths = [0, 3, 17, 4 * settings.size]
    found = model_of.at_widths(
        model, widths, lambda model: model_of.evaluate(model, text)[0], model_of.pieces(text), model_of.each_loss
    )
    assert list(found) == ["every FFN", "blocks.0.ffn.2", "blocks.1.ffn.2"]
    for name, losses in found.items():
        for k, loss in zip(widths, losses, strict=True):
            with at_k(model.eval(), k, None if name == "every FFN" else name), torch.no_grad():
                wanted = model_of.each_loss(model(text[0]), text[1]).mean().item()
            assert loss == pytest.approx(wanted, rel=1e-5), f"{name} at {k}"
    assert len({losses[-1] for losses in found.values()} | {found["every FFN"][0]}) > 1


def test_a_pruned_network_is_the_network_at_that_width(model_of: ModuleType, settings: SimpleNamespace) -> None:
    model = model_of.decoder(model_of.Choice("tail", 0.5), settings).eval()
    inputs = torch.randint(model_of.CHARACTERS, (3, settings.context))
    smaller = model_of.cut(model, 5, inputs)
    assert not [module for module in smaller.modules() if isinstance(module, TailDropout)]
    gone = (4 * settings.size - 5) * (2 * settings.size + 1) * settings.blocks
    assert model_of.parameters(smaller) == model_of.parameters(model) - gone
    judged = model_of.judge_cut(model, smaller, 5, inputs, lambda model: model(inputs).sum().item())
    assert judged["largest_difference_of_logits"] < 1e-5
    assert judged["validation"] == pytest.approx(judged["validation_at_k"], rel=1e-4)
    other = model_of.judge_cut(model, smaller, 6, inputs, lambda model: 0.0)
    assert other["largest_difference_of_logits"] > 1e-4


def test_peak_memory_is_the_most_there_is_at_a_time(model_of: ModuleType) -> None:
    from examples.experiments.language_measures import peak_memory

    x = torch.randn(1_000_000)
    kept: list[torch.Tensor] = []

    def call() -> None:
        y = x + 1
        z = y * 2
        del y
        kept[:] = [z + 1]  # and what was kept before goes

    assert peak_memory(call) == pytest.approx(12e6, rel=0.01), "z, the new and the old"


@pytest.mark.slow
def test_what_is_said_follows_from_the_results(model_of: ModuleType, written: Path, settings: SimpleNamespace) -> None:
    from examples.experiments.language_report import IN_FFN, analyse, say

    results = json.loads((written / "results" / "language_model.json").read_text())["results"]

    def told(tail: float, spread: float) -> list[str]:
        changed = copy.deepcopy(results)
        for name, runs in changed["runs"].items():
            for i, run in enumerate(runs):
                of_seed = spread * (1 - i if name == IN_FFN else i)
                run["validation"] = 2 + of_seed + (tail if name.startswith("TailDropout") else 0)
        changed["answers"] = analyse(changed)
        return say(changed, settings)

    assert told(0.1, 1e-7)[2].count("TailDropout loses") == 2
    assert told(-0.1, 1e-7)[2].count("TailDropout is better") == 2
    assert told(0.1, 1.0)[2].count("no difference shown") == 1  # the others are paired: what a seed gives to both is no noise
    assert "higher: TailDropout .1, TailDropout .5;" in told(0.1, 1e-7)[1]
    assert "lower: TailDropout .1, TailDropout .5;" in told(-0.1, 1e-7)[1]
