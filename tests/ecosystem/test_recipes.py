"""Every recipe on the page of other libraries runs, its assertions hold, and its callbacks log what `at_k` gives."""

import inspect
from pathlib import Path
from typing import Any

import page
import pytest
import torch
from torch import nn

from taildropout import at_k

pytestmark = pytest.mark.ecosystem

RECIPES = page.recipes()
LONGEST = 60  # lines of a callback


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes write files where they run."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("title", sorted(RECIPES.keys() - {"transformers", "transformers' Trainer", "Lightning"}))
def test_a_recipe_runs(title: str) -> None:
    page.run(RECIPES[title])


def test_the_recipe_of_transformers_runs_and_warns_as_the_page_says() -> None:
    page.require("transformers")
    with pytest.warns(UserWarning, match="the config of 'LlamaForCausalLM' keeps intermediate_size = 48"):
        page.run(RECIPES["transformers"])


def lines_of(code: str, name: str) -> int:
    """Return the number of lines of a class."""
    return len(inspect.getblock(code[code.index(f"class {name}") :].splitlines(keepends=True)))


@pytest.mark.parametrize("title", ["transformers' Trainer", "Lightning"])
def test_a_callback_is_short(title: str) -> None:
    assert 1 < lines_of(RECIPES[title], "LossAtWidths") < LONGEST


def test_the_callback_of_trainer_logs_the_loss_at_each_width() -> None:
    found = page.run(RECIPES["transformers' Trainer"])
    model, ids, logged = found["model"].eval(), found["ids"], found["logged"]
    assert logged.keys() == {"eval_at_4_loss", "eval_at_16_loss", "eval_at_48_loss"}
    for k in (4, 16, 48):
        with at_k(model, k), torch.no_grad():
            expected = float(model(input_ids=ids, labels=ids).loss)
        assert logged[f"eval_at_{k}_loss"] == pytest.approx(expected, rel=1e-5)
    assert logged["eval_at_4_loss"] != logged["eval_at_48_loss"]
    assert all(layer.k is None for name, layer in model.named_modules() if name.endswith("dropout_before"))
    times = [entry["step"] for entry in found["trainer"].state.log_history if "eval_at_4_loss" in entry]
    assert times[:2] == [2, 4]  # whenever Trainer evaluates


def test_the_callback_of_lightning_logs_the_loss_at_each_width() -> None:
    found = page.run(RECIPES["Lightning"])
    x, logged = found["x"], found["trainer"].callback_metrics
    trained: Any = found["trained"].eval()
    for k in (1, 8, 32):
        with at_k(trained, k), torch.no_grad():
            expected = float(nn.functional.mse_loss(trained(x), x[:, :1]))
        assert float(logged[f"val_loss_at_{k}"]) == pytest.approx(expected, rel=1e-5)
    assert logged["val_loss_at_1"] != logged["val_loss_at_32"]


def test_a_library_that_is_missing_is_named() -> None:
    with pytest.raises(pytest.skip.Exception, match=r"no_such_library cannot be imported .*: make ecosystem installs it"):
        page.run("import no_such_library.part")
    with pytest.raises(AssertionError):  # and what fails is no reason to skip
        page.run("assert False")
