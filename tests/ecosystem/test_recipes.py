"""Every recipe on the page of other libraries runs, and its assertions hold."""

from pathlib import Path

import page
import pytest
import torch

from taildropout import TailDropout

pytestmark = pytest.mark.ecosystem

RECIPES = page.recipes()


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_runs(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # recipes write files
    torch.manual_seed(0)
    page.run(RECIPES[title])
