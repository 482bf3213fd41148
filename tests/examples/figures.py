"""Figures that cost little."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def small_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save figures with few pixels and without arranging them: most of the seconds of a quick run are for that."""
    from matplotlib.figure import Figure

    savefig = Figure.savefig

    def save(figure: Figure, path: Path, **options: Any) -> None:
        figure.set_layout_engine("none")
        savefig(figure, path, dpi=10)

    monkeypatch.setattr(Figure, "savefig", save)
