"""Scree: choosing a width, drawing, storing."""

import json
import math
import sys
from typing import Any

import pytest
import torch

from taildropout import Scree


def curve(*loss: float, widths: Any = None, stderr: float = 0.1, **known: Any) -> Scree:
    values = torch.tensor(loss, dtype=torch.float64)
    return Scree(
        tuple(widths or range(len(loss))), values, torch.full_like(values, stderr), "running sums along dim 0", **known
    )


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


def test_choose_does_not_guess_whether_more_is_better() -> None:
    rising = (0.1, 0.8, 0.9, 0.905, 0.904)
    with pytest.raises(ValueError, match=r"rise from 0.1 at width 0 to 0.904 at width 4.*give maximize=True for a metric"):
        curve(*rising).choose()
    assert curve(*rising, maximize=True).choose() == 2
    assert curve(*rising, maximize=False).choose() == 0
    assert curve(*rising, maximize=True).choose(maximize=False) == 0
    assert curve(*rising).choose(maximize=False) == 0
    assert curve(3, 1, maximize=True).choose() == 0


def test_length_and_indexing() -> None:
    result = curve(4, 2, 1, widths=[0, 3, 9])
    assert len(result) == 3
    assert list(result) == [0, 3, 9]
    assert 3 in result
    assert result[9] == 1.0
    assert type(result[9]) is float
    with pytest.raises(KeyError, match="width 2 was not measured; those measured are 0, 3, 9"):
        result[2]
    with pytest.raises(KeyError, match="20 from 0 to 19"):
        curve(*range(20))[-1]


def test_to_frame() -> None:
    pytest.importorskip("pandas")
    frame = curve(4, 2, widths=[0, 3]).to_frame()
    assert frame.index.name == "width"
    assert frame.index.tolist() == [0, 3]
    assert frame.to_dict("list") == {"loss": [4, 2], "stderr": [0.1, 0.1]}


def test_to_frame_without_pandas_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="to_frame needs pandas: pip install pandas"):
        curve(3, 1).to_frame()


def test_repr_says_what_one_wants_to_know() -> None:
    assert repr(curve(2.5, 1, 0.25, 0.5)) == (
        "Scree(4 widths from 0 to 3: loss 2.5 ± 0.1 at 0, 0.25 ± 0.1 at 2, 0.5 ± 0.1 at 3; running sums along dim 0)"
    )
    assert "loss 2.5 at 0, 0.25 at 1;" in repr(curve(2.5, 0.25, stderr=math.nan))


def test_json_keeps_everything() -> None:
    result = Scree(
        (0, 3), torch.rand(2).double(), torch.rand(2).double(), "copies", torch.rand(2, 5).double(), True, "accuracy"
    )
    again = Scree.from_json(result.to_json())
    for name in ("widths", "method", "maximize", "name"):
        assert getattr(again, name) == getattr(result, name)
    for name in ("loss", "stderr", "per_sample"):
        assert torch.equal(getattr(again, name), getattr(result, name))
    unknown = Scree.from_json(curve(1, 2, stderr=math.nan).to_json())
    assert unknown.stderr.isnan().all()
    assert unknown.per_sample is None


def test_json_of_earlier_versions_still_loads() -> None:
    """As written before a result had a name and a direction."""
    text = (
        '{"format": "taildropout.Scree", "version": 1, "widths": [0, 1, 4], "loss": [3.0, 2.0, 1.0], '
        '"stderr": [0.1, 0.1, "nan"], "method": "running sums along dim 0", "per_sample": null}'
    )
    old = Scree.from_json(text)
    assert (old.widths, old.maximize, old.name) == ((0, 1, 4), None, "")
    assert old.choose(1.0) == 1


def damaged(**changes: Any) -> str:
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
def test_bad_json_is_a_clear_error(text: str, message: str) -> None:
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
    assert [note.get_text() for note in ax.texts] == ["k = 1"]
    alone = curve(3, 2, 1, widths=[0, 1, 64], stderr=math.nan).plot()
    assert alone.get_xscale() == "symlog"
    assert not alone.collections
    assert alone.get_legend() is None
    alone.figure.canvas.draw()
    pyplot.close("all")


def test_several_fit_on_one_axes() -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="plotting needs matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    ax = curve(3, 1, 2, name="MSELoss").plot(color="red", label="first", linestyle="--")
    curve(4, 3, 1, maximize=False).plot(ax, label="second", chosen=False)
    curve(1, 3, 4).plot(ax, label="nobody said whether more is better")
    curve(4, 2, 1).plot(ax, chosen=1)
    assert [line.get_label() for line in ax.get_lines()][:2] == ["first", "second"]
    assert ax.get_lines()[0].get_color() == "red"
    assert ax.get_lines()[0].get_linestyle() == "--"
    assert len({line.get_color() for line in ax.get_lines()}) == 4
    assert [note.get_text() for note in ax.texts] == ["k = 1", "k = 1"]
    assert [note.xy for note in ax.texts] == [(1, 1.0), (1, 2.0)]
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend.count("± one standard error") == 1
    assert {"first", "second"} <= {*legend}
    with pytest.raises(KeyError, match="width 7 was not measured"):
        curve(3, 1).plot(chosen=7)
    ax.figure.canvas.draw()
    pyplot.close("all")


def test_plot_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'taildropout\[plot\]'"):
        curve(3, 1).plot()
