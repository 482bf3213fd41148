"""Frontier: choosing, drawing, storing."""

import json
import math
import sys
from typing import Any

import pytest

from taildropout import Frontier
from taildropout.widths.sizes import Size


def curve(*values: tuple[float, float, float], **known: Any) -> Frontier:
    """Sizes from (cost, held-out loss, loss of the search)."""
    rows = enumerate(values)
    points = [Size({"a": at + 1, "b": 2 * at + 1}, cost, loss, 0.1, searched) for at, (cost, loss, searched) in rows]
    return Frontier(tuple(points), points[-1], **known)


SIZES = curve((20, 2.0, 1.9), (40, 1.2, 1.3), (60, 1.25, 1.1), (100, 1.0, 1.0), name="MSELoss", cost_name="parameters")


def test_choose_by_cost() -> None:
    assert SIZES.choose(cost=0.4) == {"a": 2, "b": 3}
    assert SIZES.choose(cost=40) == {"a": 2, "b": 3}
    assert SIZES.choose(cost=0.7) == {"a": 3, "b": 5}, "by the loss of the search: that of the held-out batches only judges"
    assert SIZES.choose(cost=1) == SIZES.choose(cost=100) == SIZES.choose(cost=1000) == {"a": 4, "b": 7}
    with pytest.raises(ValueError, match=r"no size costs 10 or less; the smallest costs 20, 0.2 of the full"):
        SIZES.choose(cost=0.1)
    beaten = curve((20, 1.0, 1.0), (40, 1.1, 1.1))
    assert beaten.choose(cost=1.0) == {"a": 1, "b": 1}


def test_choose_by_tolerance() -> None:
    assert SIZES.choose() == SIZES.choose(tolerance=0.01) == {"a": 4, "b": 7}
    assert SIZES.choose(tolerance=0.2) == {"a": 2, "b": 3}
    assert SIZES.choose(tolerance=5) == {"a": 1, "b": 1}
    metric = curve((20, 0.5, 0.5), (40, 0.89, 0.9), (60, 0.9, 0.95), maximize=True)
    assert metric.choose(tolerance=0.02) == {"a": 2, "b": 3}
    assert metric.choose(cost=1) == {"a": 3, "b": 5}


def test_choose_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="give one of them"):
        SIZES.choose(cost=0.5, tolerance=0.1)
    for name in ("cost", "tolerance"):
        for bad in (True, "0.5"):
            with pytest.raises(TypeError, match=f"{name}="):
                SIZES.choose(**{name: bad})
        for bad in (-1, math.inf, math.nan):
            with pytest.raises(ValueError, match=f"{name}="):
                SIZES.choose(**{name: bad})


def test_what_is_chosen_is_the_callers() -> None:
    SIZES.choose(cost=0.4)["a"] = 100
    assert SIZES.choose(cost=0.4)["a"] == 2


def test_length_indexing_and_text() -> None:
    assert len(SIZES) == len([*SIZES]) == 4
    assert SIZES[-1].cost == SIZES.full.cost == 100
    assert repr(SIZES).startswith("Frontier(4 sizes of 2 layers, parameters from 20 to 100: MSELoss 2 ± 0.1 to 1 ± 0.1")


def test_json_keeps_everything() -> None:
    result = curve((20, 2.0, 1.9), (40, 1.0, math.inf), maximize=True, name="x", cost_name="macs", method="how", forwards=7)
    assert Frontier.from_json(result.to_json()) == result
    size = Size({"a": 1}, 1.0, 2.0, math.nan, 2.0)
    unknown = Frontier((size,), size)
    assert math.isnan(Frontier.from_json(unknown.to_json())[0].stderr)


def damaged(**changes: Any) -> str:
    return json.dumps({**json.loads(SIZES.to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[1]", "no format 'taildropout.Frontier'"),
        (damaged(format="taildropout.Scree"), "no format"),
        (damaged(version=2), "version 2 of the format; this package reads version 1"),
        (damaged(points=[{"widths": {"a": 1}}]), "damaged.*KeyError"),
        (damaged(points=3), "damaged"),
        (damaged(points=[{"widths": [1], "cost": 1, "loss": 1, "stderr": 1, "search_loss": 1}]), "damaged"),
        (damaged(colour="red"), "damaged"),
    ],
)
def test_bad_json_is_a_clear_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Frontier.from_json(text)


def test_plot() -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="plotting needs matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    ax = SIZES.plot(color="red")
    assert SIZES.plot(ax, label="again", linestyle="--") is ax
    first, second = ax.get_lines()
    assert first.get_xdata().tolist() == [20, 40, 60, 100]
    assert first.get_ydata().tolist() == [2.0, 1.2, 1.25, 1.0]
    assert (first.get_color(), first.get_label(), second.get_label()) == ("red", "MSELoss", "again")
    assert len(ax.collections) == 2
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("parameters", "MSELoss")
    ax.figure.canvas.draw()
    pyplot.close("all")


def test_to_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    frame = SIZES.to_frame()
    assert list(frame.columns) == ["cost", "share", "loss", "stderr", "a", "b"]
    assert frame["share"].tolist() == [0.2, 0.4, 0.6, 1.0]
    assert frame["b"].tolist() == [1, 3, 5, 7]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="to_frame needs pandas"):
        SIZES.to_frame()
