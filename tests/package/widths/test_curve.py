"""Scree: choosing a width, drawing, storing."""

import json
import math
import sys

import pytest
import torch

from taildropout import Scree


def curve(*loss: float, widths=None, stderr: float = 0.1) -> Scree:
    values = torch.tensor(loss, dtype=torch.float64)
    return Scree(tuple(widths or range(len(loss))), values, torch.full_like(values, stderr), "running sums along dim 0")


def test_choose() -> None:
    falling = curve(10, 5, 2, 1.05, 1.0, 1.2, widths=[0, 1, 2, 4, 8, 16])
    assert falling.choose() == 8
    assert falling.choose(0.05) == 4  # the bound belongs to it
    assert falling.choose(0) == 8
    assert falling.choose(tolerance=100) == 0
    assert falling.choose(method="one_standard_error") == 4
    assert curve(10, 5, 2, 1.05, 1.0, stderr=0.01).choose(method="one_standard_error") == 4
    metric = curve(0.1, 0.8, 0.9, 0.905, 0.904)
    assert metric.choose(maximize=True) == 2
    assert metric.choose(0.001, maximize=True) == 3
    assert metric.choose(maximize=True, method="one_standard_error") == 2
    assert curve(-1, -2, -2.01).choose(0.01) == 1  # relative to the size of the best, whatever its sign
    assert curve(3, 3, 3).choose() == 0


def test_the_elbow_is_farthest_from_the_line_between_the_ends() -> None:
    assert curve(10, 4, 1, 0.9, 0.8, 0.7).choose(method="elbow") == 2
    assert curve(10, 4, 1, 0.9, 0.8, 0.7, widths=[0, 1, 2, 3, 4, 100]).choose(method="elbow") == 4
    assert curve(-10, -4, -1, -0.9, -0.8, -0.7).choose(maximize=True, method="elbow") == 2
    assert curve(3, 3, 3).choose(method="elbow") == 0
    with pytest.raises(ValueError, match="3 widths or more"):
        curve(3, 1).choose(method="elbow")


def test_choose_refuses_what_it_cannot_tell() -> None:
    with pytest.raises(ValueError, match="standard error is not known"):
        curve(3, 1, stderr=math.nan).choose(method="one_standard_error")
    with pytest.raises(ValueError, match="'elbow'"):
        curve(3, 1).choose(method="knee")
    for bad in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="tolerance"):
            curve(3, 1).choose(bad)
    for bad in (True, "0.1", None):
        with pytest.raises(TypeError, match="tolerance"):
            curve(3, 1).choose(bad)
    with pytest.raises(TypeError, match="maximize=1"):
        curve(3, 1).choose(maximize=1)


def test_repr_says_what_one_wants_to_know() -> None:
    assert repr(curve(2.5, 1, 0.25, 0.5)) == (
        "Scree(4 widths from 0 to 3: loss 2.5 ± 0.1 at 0, 0.25 ± 0.1 at 2, 0.5 ± 0.1 at 3; running sums along dim 0)"
    )
    assert "loss 2.5 at 0, 0.25 at 1;" in repr(curve(2.5, 0.25, stderr=math.nan))


def test_json_keeps_everything() -> None:
    result = Scree((0, 3), torch.rand(2).double(), torch.rand(2).double(), "copies", torch.rand(2, 5).double())
    again = Scree.from_json(result.to_json())
    assert again.widths == result.widths
    assert again.method == result.method
    for name in ("loss", "stderr", "per_sample"):
        assert torch.equal(getattr(again, name), getattr(result, name))
    unknown = Scree.from_json(curve(1, 2, stderr=math.nan).to_json())
    assert unknown.stderr.isnan().all()
    assert unknown.per_sample is None


def damaged(**changes) -> str:
    return json.dumps({**json.loads(curve(1, 2).to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[1]", "no format"),
        ('{"widths": [1]}', "no format"),
        (damaged(version=2), "version 2 of the format; this package reads version 1"),
        (damaged(widths=[1, 2, 3]), r"lengths \[2, 3\]"),
        (damaged(loss=[1, "x"]), "damaged.*could not convert"),
        (damaged(loss=None), "damaged"),
        (damaged(per_sample=[[1, 2], [1]]), "damaged"),
        (damaged(per_sample=[[1]]), r"lengths \[1, 2\]"),
        (damaged(widths=[], loss=[], stderr=[]), "lengths"),
    ],
)
def test_bad_json_is_a_clear_error(text, message) -> None:
    with pytest.raises(ValueError, match=message):
        Scree.from_json(text)


def test_plot() -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="plotting needs matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, ax = pyplot.subplots()
    assert curve(3, 1, 2).plot(ax) is ax
    (line,) = ax.get_lines()
    assert line.get_xdata().tolist() == [0, 1, 2]
    assert line.get_ydata().tolist() == [3, 1, 2]
    (band,) = ax.collections
    heights = {round(float(y), 9) for _, y in band.get_paths()[0].vertices}
    assert heights >= {0.9, 1.1, 1.9, 2.1, 2.9, 3.1}
    assert "width" in ax.get_xlabel()
    assert ax.get_ylabel()
    assert ax.get_xscale() == "linear"
    figure.canvas.draw()
    alone = curve(3, 2, 1, widths=[0, 1, 64], stderr=math.nan).plot()
    assert alone.get_xscale() == "symlog"
    assert not alone.collections
    assert alone.get_legend() is None
    alone.figure.canvas.draw()
    pyplot.close("all")


def test_plot_without_matplotlib_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'taildropout\[plot\]'"):
        curve(3, 1).plot()
