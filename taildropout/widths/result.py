"""The loss at every width: reading it, choosing a width, drawing and storing it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FORMAT, _VERSION = "taildropout.Scree", 1


@dataclass(frozen=True, eq=False, repr=False)
class Scree:
    """The mean loss at every width, as `scree` measures it.

    Attributes:
        widths: the widths k, in ascending order.
        loss: mean loss, or metric, at each width: float64, one element per width, as are:
        stderr: its standard error over samples. Where the loss gave only the means of batches it is estimated from how these
            differ, and NaN if there was but one batch.
        method: how the network was evaluated, and why not faster.
        per_sample: the loss of each sample at each width, (widths, samples), if it was asked for.
    """

    widths: tuple[int, ...]
    loss: Tensor
    stderr: Tensor
    method: str = ""
    per_sample: Tensor | None = None

    def choose(
        self,
        tolerance: float = 0.01,
        *,
        maximize: bool = False,
        method: Literal["tolerance", "one_standard_error", "elbow"] = "tolerance",
    ) -> int:
        """The width to cut down to.

        Args:
            tolerance: what may be lost, relative to the best loss; for "tolerance" only.
            maximize: for a metric, where more is better.
            method: "tolerance": the smallest width with loss ≤ best + tolerance · |best|. "one_standard_error": the smallest
                with loss ≤ best + the standard error there (Breiman et al., "Classification and regression trees", 1984).
                "elbow": the one farthest below the line from the first to the last point of the curve (Satopää et al.,
                "Finding a kneedle in a haystack", 2011).

        Raises:
            TypeError, ValueError: if an argument is of a wrong type or value, or the curve does not allow the method.

        Example:
            >>> loss = torch.tensor([4.0, 2.0, 1.1, 1.0], dtype=torch.float64)
            >>> Scree((0, 1, 2, 3), loss, loss / 100).choose(0.2)
            2
        """
        if isinstance(tolerance, bool) or not isinstance(tolerance, Real):
            raise TypeError(f"tolerance={tolerance!r} is a {type(tolerance).__name__}; give a number, 0 or more")
        if not 0 <= tolerance < math.inf:
            raise ValueError(f"tolerance={tolerance} is no tolerance; give a number, 0 or more")
        if not isinstance(maximize, bool):
            raise TypeError(f"maximize={maximize!r} is a {type(maximize).__name__}; give True or False")
        loss = -self.loss if maximize else self.loss
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
            along = torch.tensor(self.widths, dtype=torch.float64)
            along = (along - along[0]) / (along[-1] - along[0])
            below = loss[0] + (loss[-1] - loss[0]) * along - loss
            enough = below >= below.max()
        else:
            raise ValueError(f"method={method!r} is none of 'tolerance', 'one_standard_error', 'elbow'")
        return self.widths[int(enough.nonzero()[0])]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the loss over the width, with a band of one standard error to either side where that is known.

        Args:
            ax: where to draw; new axes if None.

        Returns:
            The axes drawn on.

        Raises:
            ImportError: if there is no matplotlib.
        """
        if ax is None:
            try:
                from matplotlib import pyplot
            except ImportError as error:
                raise ImportError("plot needs matplotlib: pip install 'taildropout[plot]'") from error
            ax = pyplot.subplots(layout="constrained")[1]
        loss, stderr = self.loss.tolist(), self.stderr.tolist()
        marker = "o" if len(self.widths) <= 32 else None
        ax.plot(self.widths, loss, color="#0072B2", marker=marker, markersize=4, label="mean over samples")
        if not self.stderr.isnan().all():
            low, high = ([a + sign * b for a, b in zip(loss, stderr, strict=True)] for sign in (-1, 1))
            ax.fill_between(self.widths, low, high, color="#0072B2", alpha=0.25, linewidth=0, label="± one standard error")
            ax.legend(frameon=False)
        if self.widths[-1] > 4 * len(self.widths):  # far apart: "log"
            ax.set_xscale("symlog", base=2, linthresh=1)
            ax.xaxis.set_major_formatter("{x:.0f}")
        ax.set_xlabel("width k (first features kept)")
        ax.set_ylabel("loss")
        ax.grid(alpha=0.3)
        return ax

    def to_json(self) -> str:
        """All of it as JSON text; numbers that JSON lacks are written as "nan" and "inf"."""
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "widths": self.widths,
            "loss": _to_list(self.loss),
            "stderr": _to_list(self.stderr),
            "method": self.method,
            "per_sample": None if self.per_sample is None else [_to_list(row) for row in self.per_sample],
        }
        return json.dumps(content, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Scree:
        """What `to_json` wrote.

        Raises:
            ValueError: if the text is no JSON, not written by `to_json`, of another version, or damaged.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"this is no JSON ({error}); give the text that to_json wrote") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"this JSON has no format {_FORMAT!r}; give the text that to_json wrote")
        if content.get("version") != _VERSION:
            raise ValueError(f"this is version {content.get('version')!r} of the format; this package reads version {_VERSION}")
        try:
            widths = tuple(int(width) for width in content["widths"])
            loss, stderr = _from_list(content["loss"]), _from_list(content["stderr"])
            rows = content["per_sample"]
            per_sample = None if rows is None else torch.stack([_from_list(row) for row in rows])
            method = str(content["method"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"this JSON is damaged ({type(error).__name__}: {error}); write it anew") from error
        lengths = {len(widths), len(loss), len(stderr), *([] if per_sample is None else [len(per_sample)])}
        if len(lengths) > 1 or not widths:
            raise ValueError(f"this JSON is damaged: its lists have lengths {sorted(lengths)}; write it anew")
        return cls(widths, loss, stderr, method, per_sample)

    def __repr__(self) -> str:
        last, best = len(self.widths) - 1, int(self.loss.argmin())
        points = ", ".join(
            f"{self.loss[at]:.4g}{'' if self.stderr[at].isnan() else f' ± {self.stderr[at]:.2g}'} at {self.widths[at]}"
            for at in sorted({0, best, int(self.loss.argmax()), last})
        )
        method = f"; {self.method}" if self.method else ""
        return f"Scree({len(self.widths)} widths from {self.widths[0]} to {self.widths[-1]}: loss {points}{method})"


def _to_list(values: Tensor) -> list[Any]:
    return [value if math.isfinite(value) else str(value) for value in values.tolist()]


def _from_list(values: Any) -> Tensor:
    return torch.tensor([float(value) for value in values], dtype=torch.float64)
