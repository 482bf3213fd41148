"""The experiment that trains one network for all sizes: its text, its training steps, its sizes, and what it says."""

import gzip
import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from figures import small_figures

from taildropout import TailDropout, at_k

pytest.importorskip("matplotlib", reason="the examples need matplotlib: pip install 'taildropout[examples]'")
pytest.importorskip("sklearn", reason="the examples need scikit-learn: pip install 'taildropout[examples]'")

from examples.common import jargon

__all__ = ["small_figures"]  # a fixture

EXAMPLES = Path(__file__).parents[2] / "examples"
MINE = SimpleNamespace(size=16, heads=2, blocks=2, context=16, rate=1e-3)
BATCH = torch.randint(97, (3, 16), generator=torch.Generator().manual_seed(0)), torch.zeros(3, 16, dtype=torch.long)


@pytest.fixture
def example() -> ModuleType:
    return importlib.import_module("examples.experiments.one_for_all")


@pytest.fixture(autouse=True)
def forgotten_text() -> Iterator[None]:
    """Let each test read its own file."""
    jargon.jargon_file.cache_clear()
    yield
    jargon.jargon_file.cache_clear()


@pytest.mark.usefixtures("small_figures")
def test_a_quick_run_has_a_row_for_each_network(example: ModuleType, tmp_path: Path) -> None:
    if not jargon.DEBIAN.is_file():
        pytest.skip("the Jargon File is not here: install the Debian package jargon-text")
    found = example.main(["--quick", "--out", str(tmp_path)])
    assert (tmp_path / "figures" / "one_for_all.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "results" / "one_for_all.md").read_text().splitlines()
    for name in example.RECIPES:
        assert sum(line.startswith(f"| {name} ") for line in table) == (not name.startswith("trained at"))
    assert len({line.count("|") for line in table if line.startswith("|")}) == 1
    for name in ("no dropout", "MatFormer"):
        run = found["results"]["runs"][name][0]
        costs, losses = ([point[what] for point in run["points"]] for what in ("cost", "chosen_by"))
        assert costs == sorted(costs)
        assert costs[-1] <= run["parameters"]
        assert losses == sorted(losses, reverse=True)


def test_the_text_is_the_jargon_file_or_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JARGON_FILE", str(tmp_path / "jargon.txt.gz"))
    with pytest.raises(FileNotFoundError, match=r"jargon\.txt\.gz does not exist; install .* jargon-text, or set"):
        jargon.jargon_file()
    for content in (b"another text", gzip.compress(b"another text")):
        (tmp_path / "jargon.txt.gz").write_bytes(content)
        with pytest.raises(ValueError, match=r"has SHA-256 .*, not 40dfb4b9.*: it is not version"):
            jargon.jargon_file()


def test_training_and_validation_have_no_block_in_common() -> None:
    text = "".join(chr(97 + at % 26) + str(at) for at in range(3000))
    training, validation = jargon.split(text, block=100)
    assert len(training) + len(validation) == len(text)
    blocks = [text[at : at + 100] for at in range(0, len(text), 100)]
    assert validation == "".join(blocks[9::10])
    assert training == "".join(block for at, block in enumerate(blocks) if at % 10 != 9)


def drawn(example: ModuleType, name: str, done: float, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what a training step sets as k, a list for each of 40 steps."""
    model, generator = example.network(example.RECIPES[name], MINE), torch.Generator().manual_seed(0)
    steps: list[Any] = []
    monkeypatch.setattr(TailDropout, "set_k", lambda layer, k: steps[-1].append(k))
    for _ in range(40):
        steps.append([])
        example.objective(model, example.RECIPES[name], BATCH, done, generator)
    return [step[:2] for step in steps]


def test_matformer_draws_one_of_its_four_sizes_for_all_layers(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = drawn(example, "MatFormer", 0.5, monkeypatch)
    assert all(first == second for first, second in steps)
    assert {first for first, _ in steps} == {8, 16, 32, 64}


LOG_UNIFORM = {  # the share of Ks that are all features, at the end of training
    "a step: log-uniform, ¼ whole": 0.25,
    "a sequence: log-uniform, ¼ whole": 0.25,
    "a sequence: log-uniform, whole rising": 0.5,
    "a character: log-uniform, ¼ whole": 0.25,
}


@pytest.mark.parametrize("name", LOG_UNIFORM)
def test_nested_dropouts_draw_for_each_step_sequence_or_character(
    example: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = drawn(example, name, 1.0, monkeypatch)
    if name.startswith("a step"):
        assert all(first == second for first, second in steps)
        draws = torch.tensor([first for first, _ in steps])
    else:
        widths = torch.stack([torch.stack(step) for step in steps])
        assert widths.shape == (40, 2, 3, 16)
        together = name.startswith("a sequence")
        assert (widths == widths[:, :1, :, :1]).all() == together
        draws = widths[:, 0, :, 0] if together else widths
    assert 8 <= draws.min() <= draws.max() <= 64
    # A log-uniform K is above 32 with probability log(65/33) / log(65/8). A false alarm needs more than five standard errors.
    expected = LOG_UNIFORM[name] + (1 - LOG_UNIFORM[name]) * math.log(65 / 33) / math.log(65 / 8)
    error = math.sqrt(expected * (1 - expected) / draws.numel())
    assert abs((draws > 32).float().mean().item() - expected) < 5 * error


def test_the_time_of_a_step_is_the_mean_over_its_sizes(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = {"0.125": 1.0, "0.25": 2.0, "0.5": 4.0, "1.0": 8.0}  # proportional to the size
    monkeypatch.setattr(example, "median_times", lambda calls, rounds: {name: measured.get(name, 9.0) for name in calls})
    times = example.step_times(BATCH, SimpleNamespace(**vars(MINE), calls=1))
    assert times["MatFormer"] == 3.75
    law = example.log_uniform(64, 0.25).draw((100_000,), 64).double()
    assert times["a step: log-uniform, ¼ whole"] == pytest.approx(8 * law.mean().item() / 64, rel=0.03)
    assert times["no dropout"] == 9.0


def test_all_networks_of_a_seed_start_from_the_same_weights_and_compute_the_same(example: ModuleType) -> None:
    outputs = []
    for recipe in example.RECIPES.values():
        torch.manual_seed(0)
        model = example.network(recipe, MINE).eval()
        if recipe.share == 1:
            outputs.append(model(BATCH[0]))
        else:
            assert model.blocks[0].ffn[0].out_features == round(64 * recipe.share)
    for output in outputs:
        torch.testing.assert_close(output, outputs[0])


def test_a_distilled_step_trains_full_width_on_the_text_and_the_narrow_ones_on_its_output(example: ModuleType) -> None:
    torch.manual_seed(0)
    recipe = example.RECIPES[example.DISTILLED]
    model = example.network(recipe, MINE)
    loss = example.objective(model, recipe._replace(whole=(1.0, 1.0)), BATCH, 0.0, torch.Generator())
    torch.testing.assert_close(loss, example.each_loss(model.eval()(BATCH[0]), BATCH[1]).mean())  # no divergence from itself


def test_mixed_sizes_are_all_that_are_better_than_every_cheaper_one(example: ModuleType) -> None:
    model = example.network(example.RECIPES["MatFormer"], MINE).eval()
    texts = [[BATCH], [tuple(each.flip(0) for each in BATCH)]]

    def cost(widths: dict[str, int]) -> float:
        return float(sum(widths.values()))

    points = example.mixed(model, [8, 64], cost, texts).points
    every: list[tuple[float, float]] = []
    for first in (8, 64):
        for second in (8, 64):
            widths = {"blocks.0.ffn.2": first, "blocks.1.ffn.2": second}
            with at_k(model, widths):
                every.append((cost(widths), example.loss_of(model, texts[0])))
    wanted = [each for each in every if not any(other[0] <= each[0] and other[1] < each[1] for other in every)]
    assert {(point.cost, point.search_loss) for point in points} == set(wanted)
    with at_k(model, points[-1].widths):
        assert points[-1].loss == example.loss_of(model, texts[1])


def test_what_is_committed_comes_from_the_settings_of_today(example: ModuleType) -> None:
    stored = json.loads((EXAMPLES / "results" / "one_for_all.json").read_text())
    assert stored["size"] == "default"
    assert stored["settings"] == example.SETTINGS["default"]
    assert stored["results"]["text"] == jargon.SHA256
    whole = stored["results"] | {"answers": example.analyse(stored["results"])}
    said = example.say(whole, SimpleNamespace(**stored["settings"]))
    assert example.table(whole, said).strip() + "\n" == (EXAMPLES / "results" / "one_for_all.md").read_text()


def test_a_budget_takes_the_size_that_other_text_prefers() -> None:
    report = importlib.import_module("examples.experiments.one_for_all_report")
    points = [{"cost": 10, "loss": 3.0, "chosen_by": 2.9}, {"cost": 20, "loss": 1.0, "chosen_by": 2.5}]
    points.append({"cost": 30, "loss": 0.5, "chosen_by": 2.7})
    assert [report.at_budget({"points": points}, budget) for budget in (10, 25, 100)] == [3.0, 1.0, 1.0]
