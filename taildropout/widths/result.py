"""Scree, the loss at every width: reading it, choosing a width, drawing and storing it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from .stored_json import read_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

_FORMAT, _VERSION = "taildropout.Scree", 1
_BAND = "± one standard error"


@dataclass(frozen=True, eq=False, repr=False)
class Scree:
    """The mean loss at every width, as `scree` measures it.

    Attributes:
        widths: the widths k, in ascending order.
        loss: mean loss, or metric, at each width; float64, (widths,).
        stderr: standard error of the mean loss at each width; float64, (widths,). It is estimated from the samples, or from the
            means of batches if the loss returned only these. NaN if there was only one sample, or one such mean.
        method: the strategy by which the network was evaluated, and why no faster one.
        per_sample: the loss of each sample at each width, (widths, samples); None unless `scree` was called with
            `per_sample=True`.
        maximize: True if more is better, as for an accuracy; False for a loss; None if unknown.
        name: what was measured, such as "CrossEntropyLoss".

    A result has a length, the number of widths; and `result[k]` is the loss at width k. Iterating gives the widths, as for a
    dict.

    Example:
        >>> result = Scree((0, 1, 2), torch.tensor([4.0, 2.0, 1.0]), torch.full((3,), 0.1))
        >>> len(result), result[2], list(result)
        (3, 1.0, [0, 1, 2])
    """

    widths: tuple[int, ...]
    loss: Tensor
    stderr: Tensor
    method: str = ""
    per_sample: Tensor | None = None
    maximize: bool | None = None
    name: str = ""

    def __len__(self) -> int:
        return len(self.widths)

    def __iter__(self) -> Iterator[int]:
        return iter(self.widths)

    def __getitem__(self, k: int) -> float:
        """Return the loss at width k.

        Raises:
            KeyError: if width k was not measured.
        """
        if k not in self.widths:
            raise KeyError(f"width {k!r} was not measured; those measured are {_shown(self.widths)}")
        return float(self.loss[self.widths.index(k)])

    def choose(
        self,
        tolerance: float = 0.01,
        *,
        maximize: bool | None = None,
        method: Literal["tolerance", "one_standard_error", "elbow"] = "tolerance",
    ) -> int:
        """Choose the width to cut down to.

        Args:
            tolerance: the accepted loss above the best, as a fraction of the best; only for "tolerance".
            maximize: True if more is better, False if less is better; by default the attribute `maximize`. If both are None,
                values that do not rise from the first to the last width are taken for a loss, and rising values are an error.
            method: "tolerance": the smallest width with loss ≤ best + tolerance · |best|. "one_standard_error": the smallest
                width with loss ≤ best + standard error of the best (Breiman et al., "Classification and regression trees",
                1984). "elbow": the width farthest below the line from the first to the last point of the curve (Satopää et
                al., "Finding a kneedle in a haystack", 2011).

        Returns:
            One of the measured widths.

        Raises:
            TypeError: if an argument is of a wrong type.
            ValueError: if an argument has a wrong value, the losses do not allow the method, or `maximize` is needed.

        Example:
            >>> loss = torch.tensor([4.0, 2.0, 1.1, 1.0], dtype=torch.float64)
            >>> Scree((0, 1, 2, 3), loss, loss / 100).choose(0.2)
            2
        """
        if isinstance(tolerance, bool) or not isinstance(tolerance, Real):
            raise TypeError(f"tolerance={tolerance!r} has type {type(tolerance).__name__}; give a number, 0 or more")
        if not 0 <= tolerance < math.inf:
            raise ValueError(f"tolerance={tolerance} is out of range; give a number, 0 or more")
        loss = -self.loss if self._more_is_better(maximize) else self.loss
        best = int(loss.argmin())
        if method == "tolerance":
            enough = loss <= loss[best] + tolerance * loss[best].abs()
        elif method == "one_standard_error":
            if self.stderr[best].isnan():
                raise ValueError(
                    "the standard error is not known, since the loss gave one mean of one batch; "
                    "let it give the loss per sample (reduction='none'), or give scree several batches"
                )
            enough = loss <= loss[best] + self.stderr[best]
        elif method == "elbow":
            if len(self.widths) < 3 or not loss.isfinite().all():
                raise ValueError(
                    f"an elbow needs 3 widths or more and finite losses; here are {len(self.widths)} widths, "
                    f"{int(loss.isfinite().sum())} of the losses finite: choose by another method"
                )
            along = torch.tensor(self.widths, dtype=torch.float64, device="cpu")
            along = (along - along[0]) / (along[-1] - along[0])
            below = loss[0] + (loss[-1] - loss[0]) * along - loss
            enough = below >= below.max()
        else:
            raise ValueError(f"method={method!r} is none of 'tolerance', 'one_standard_error', 'elbow'")
        return self.widths[int(enough.nonzero()[0])]

    def _more_is_better(self, maximize: bool | None) -> bool:
        if not isinstance(maximize, bool | None):
            raise TypeError(f"maximize={maximize!r} has type {type(maximize).__name__}; give True or False")
        maximize = self.maximize if maximize is None else maximize
        if maximize is None and self.loss[-1] > self.loss[0]:
            raise ValueError(
                f"the values rise from {self.loss[0]:.4g} at width {self.widths[0]} to {self.loss[-1]:.4g} at width "
                f"{self.widths[-1]}, and nobody said whether more is better; give maximize=True for a metric such as an "
                "accuracy, maximize=False for a loss, here or to scree"
            )
        return bool(maximize)

    def plot(self, ax: Axes | None = None, *, label: str | None = None, chosen: int | bool = True, **kwargs: Any) -> Axes:
        """Draw the loss over the width, with a band of ± one standard error where the standard error is known.

        Args:
            ax: the axes to draw on, which may hold other lines; new axes if None.
            label: the label of the line in the legend; by default the attribute `name`.
            chosen: the width to mark; True for the width from `choose()`, if it needs no `maximize`; False for none.
            kwargs: further arguments of matplotlib's `Axes.plot`, such as `color` and `linestyle`.

        Returns:
            The axes drawn on.

        Raises:
            ImportError: if matplotlib is not installed.
            KeyError: if the width to mark was not measured.
        """
        ax = new_axes() if ax is None else ax
        loss, stderr = self.loss.tolist(), self.stderr.tolist()
        style: dict[str, Any] = {"marker": "o" if len(self.widths) <= 32 else None, "markersize": 4} | kwargs
        (line,) = ax.plot(self.widths, loss, label=label or self.name or "mean over samples", **style)
        band = not bool(self.stderr.isnan().all())
        if band:
            low, high = ([a + sign * b for a, b in zip(loss, stderr, strict=True)] for sign in (-1, 1))
            known = ax.get_legend_handles_labels()[1]
            about = None if _BAND in known else _BAND
            ax.fill_between(self.widths, low, high, color=line.get_color(), alpha=0.25, linewidth=0, label=about)
        k = self._marked(chosen)
        if k is not None:
            arrow = {"arrowstyle": "-|>", "color": line.get_color()}
            where: dict[str, Any] = {"xytext": (0, 24), "textcoords": "offset points", "ha": "center"}
            ax.annotate(f"k = {k}", (k, self[k]), color=line.get_color(), arrowprops=arrow, **where)
        if self.widths[-1] > 4 * len(self.widths):  # widths far apart, as with widths="log"
            ax.set_xscale("symlog", base=2, linthresh=1)
            ax.xaxis.set_major_formatter("{x:.0f}")
        ax.set_xlabel("width k (first features kept)")
        ax.set_ylabel(self.name or "loss")
        ax.grid(alpha=0.3)
        if band or label or self.name:
            ax.legend(frameon=False)
        return ax

    def _marked(self, chosen: int | bool) -> int | None:
        if not isinstance(chosen, bool):
            return chosen
        known = self.maximize is not None or bool(self.loss[-1] <= self.loss[0])
        return self.choose() if chosen and known else None

    def to_frame(self) -> DataFrame:
        """Return a pandas DataFrame with the columns loss and stderr, and the widths as its index.

        Raises:
            ImportError: if pandas is not installed.
        """
        pandas = import_pandas()
        columns = {"loss": self.loss.tolist(), "stderr": self.stderr.tolist()}
        return pandas.DataFrame(columns, index=pandas.Index(self.widths, name="width"))

    def to_json(self) -> str:
        """Return all attributes as JSON text; non-finite numbers are written as "nan", "inf" and "-inf"."""
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "widths": self.widths,
            "loss": _to_list(self.loss),
            "stderr": _to_list(self.stderr),
            "method": self.method,
            "per_sample": None if self.per_sample is None else [_to_list(row) for row in self.per_sample],
            "maximize": self.maximize,
            "name": self.name,
        }
        return json.dumps(content, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Scree:
        """Return the result that `to_json` wrote; `name` and `maximize` may be missing, as in older files.

        Raises:
            ValueError: if the text is not JSON, not written by `to_json`, of another version, or damaged.
        """
        content = read_json(text, _FORMAT, _VERSION)
        try:
            widths = tuple(int(width) for width in content["widths"])
            loss, stderr = _from_list(content["loss"]), _from_list(content["stderr"])
            rows = content["per_sample"]
            per_sample = None if rows is None else torch.stack([_from_list(row) for row in rows])
            method, name, maximize = str(content["method"]), str(content.get("name", "")), content.get("maximize")
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"this JSON is damaged ({type(error).__name__}: {error}); write it anew") from error
        lengths = {len(widths), len(loss), len(stderr), *([] if per_sample is None else [len(per_sample)])}
        if len(lengths) > 1 or not widths:
            raise ValueError(f"this JSON is damaged: its lists have lengths {sorted(lengths)}; write it anew")
        return cls(widths, loss, stderr, method, per_sample, maximize if maximize is None else bool(maximize), name)

    def __repr__(self) -> str:
        last, best = len(self.widths) - 1, int(self.loss.argmin())
        name = self.name or "loss"
        points = ", ".join(
            f"{self.loss[at]:.4g}{'' if self.stderr[at].isnan() else f' ± {self.stderr[at]:.2g}'} at {self.widths[at]}"
            for at in sorted({0, best, int(self.loss.argmax()), last})
        )
        method = f"; {self.method}" if self.method else ""
        return f"Scree({len(self.widths)} widths from {self.widths[0]} to {self.widths[-1]}: {name} {points}{method})"


def new_axes() -> Axes:
    """Return new axes of matplotlib.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("plot needs matplotlib: pip install 'taildropout[plot]'") from error
    axes: Axes = pyplot.subplots(layout="constrained")[1]
    return axes


def import_pandas() -> Any:
    """Return the module pandas.

    Raises:
        ImportError: if pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_frame needs pandas: pip install pandas") from error
    return pandas


def _shown(widths: tuple[int, ...]) -> str:
    return ", ".join(map(str, widths)) if len(widths) <= 12 else f"{len(widths)} from {widths[0]} to {widths[-1]}"


def _to_list(values: Tensor) -> list[Any]:
    return [value if math.isfinite(value) else str(value) for value in values.tolist()]


def _from_list(values: Any) -> Tensor:
    return torch.tensor([float(value) for value in values], dtype=torch.float64, device="cpu")
