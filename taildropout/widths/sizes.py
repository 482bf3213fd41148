"""Frontier, the best widths of a network at many costs: reading, choosing, drawing and storing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from .result import import_pandas, new_axes
from .stored_json import read_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

_FORMAT, _VERSION = "taildropout.Frontier", 1


@dataclass(frozen=True)
class Size:
    """One size of a network.

    Attributes:
        widths: the width of each layer, by name.
        cost: the cost of a network of these widths, in the unit of `Frontier.cost_name`.
        loss: mean loss, or metric, on the held-out batches.
        stderr: standard error of `loss`; NaN if unknown, see `Scree`.
        search_loss: mean loss, or metric, on the batches of the search. It is too good on average, since the search chose the
            widths by it.
    """

    widths: dict[str, int]
    cost: float
    loss: float
    stderr: float
    search_loss: float


@dataclass(frozen=True, repr=False)
class Frontier:
    """Sizes of a network with a width for each layer, as `frontier` finds them.

    Attributes:
        points: the sizes by rising cost; `search_loss` improves with the cost. Full width is the last size, unless a smaller
            size is at least as good.
        full: the size at full width.
        cost_name: what the cost counts: "parameters", "macs", or the name of the function.
        maximize: True if more of the measured value is better.
        name: what was measured, such as "CrossEntropyLoss".
        method: how many choices of widths were evaluated, and on which batches the sizes were judged.
        forwards: the number of passes of the search over its batches.
    """

    points: tuple[Size, ...]
    full: Size
    cost_name: str = "cost"
    maximize: bool = False
    name: str = ""
    method: str = ""
    forwards: int = 0

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Size]:
        return iter(self.points)

    def __getitem__(self, at: int) -> Size:
        return self.points[at]

    def choose(self, *, cost: float | None = None, tolerance: float | None = None) -> dict[str, int]:
        """Choose widths, for `prune` or `at_k`.

        Args:
            cost: the most that the network may cost: a share of the cost at full width if it is at most 1, such as 0.4;
                otherwise an absolute cost. Of the sizes within this cost, the one with the best `search_loss` is chosen.
            tolerance: the accepted loss above the best held-out loss, as a fraction of the best. Of the sizes within this
                tolerance, the cheapest is chosen. Default, if `cost` is None: 0.01.

        Returns:
            The width of each layer, by name.

        Raises:
            TypeError: if an argument is not a number.
            ValueError: if both arguments are given, a number is out of range, or every size costs more than `cost`.

        Example:
            >>> small, full = Size({"drop": 2}, 30.0, 1.05, 0.1, 1.0), Size({"drop": 8}, 90.0, 1.0, 0.1, 0.9)
            >>> Frontier((small, full), full).choose(cost=0.4)
            {'drop': 2}
            >>> Frontier((small, full), full).choose(tolerance=0.01)
            {'drop': 8}
        """
        if cost is not None and tolerance is not None:
            raise ValueError("cost and tolerance are both given; give one of them")
        if cost is not None:
            limit = _number("cost", cost) * (self.full.cost if cost <= 1 else 1)
            small = [size for size in self.points if size.cost <= limit * (1 + 1e-9)]
            if not small:
                least = self.points[0].cost
                share = least / self.full.cost
                raise ValueError(f"no size costs {limit:.6g} or less; the smallest costs {least:.6g}, {share:.3g} of the full")
            return dict(min(small, key=lambda size: (self._badness(size.search_loss), size.cost)).widths)
        allowed = _number("tolerance", 0.01 if tolerance is None else tolerance)
        best = min(self._badness(size.loss) for size in self.points)
        enough = [size for size in self.points if self._badness(size.loss) <= best + allowed * abs(best)]
        return dict(min(enough, key=lambda size: size.cost).widths)

    def _badness(self, value: float) -> float:
        return -value if self.maximize else value

    def plot(self, ax: Axes | None = None, *, label: str | None = None, **kwargs: Any) -> Axes:
        """Draw the held-out loss over the cost, with a band of ± one standard error if all standard errors are known.

        Args:
            ax: the axes to draw on, which may hold other lines; new axes if None.
            label: the label of the line in the legend; by default the attribute `name`.
            kwargs: further arguments of matplotlib's `Axes.plot`, such as `color` and `linestyle`.

        Returns:
            The axes drawn on.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        ax = new_axes() if ax is None else ax
        costs, losses = [size.cost for size in self.points], [size.loss for size in self.points]
        style: dict[str, Any] = {"marker": "o", "markersize": 4, "label": label or self.name or "held-out"} | kwargs
        (line,) = ax.plot(costs, losses, **style)
        if not any(math.isnan(size.stderr) for size in self.points):
            low, high = ([size.loss + sign * size.stderr for size in self.points] for sign in (-1, 1))
            ax.fill_between(costs, low, high, color=line.get_color(), alpha=0.25, linewidth=0)
        ax.set_xlabel(self.cost_name)
        ax.set_ylabel(self.name or "loss")
        ax.grid(alpha=0.3)
        ax.legend(frameon=False)
        return ax

    def to_frame(self) -> DataFrame:
        """Return a pandas DataFrame with a row for each size: cost, share (cost / full cost), loss, stderr and all widths.

        Raises:
            ImportError: if pandas is not installed.
        """
        pandas = import_pandas()
        rows = [
            {"cost": size.cost, "share": size.cost / self.full.cost, "loss": size.loss, "stderr": size.stderr} | size.widths
            for size in self.points
        ]
        frame: DataFrame = pandas.DataFrame(rows)
        return frame

    def to_json(self) -> str:
        """Return all attributes as JSON text; non-finite numbers are written as "nan", "inf" and "-inf"."""
        points = [_without_nan(asdict(size)) for size in self.points]
        content = asdict(self) | {"points": points, "full": _without_nan(asdict(self.full))}
        return json.dumps({"format": _FORMAT, "version": _VERSION} | content, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Frontier:
        """Return the frontier that `to_json` wrote.

        Raises:
            ValueError: if the text is not JSON, not written by `to_json`, of another version, or damaged.
        """
        content = read_json(text, _FORMAT, _VERSION)
        try:
            points = tuple(_size(point) for point in content.pop("points"))
            return cls(points, _size(content.pop("full")), **content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this JSON is damaged ({type(error).__name__}: {error}); write it anew") from error

    def __repr__(self) -> str:
        if not self.points:
            return "Frontier(no size)"
        first, last = self.points[0], self.points[-1]
        return (
            f"Frontier({len(self.points)} sizes of {len(first.widths)} layers, {self.cost_name} from {first.cost:.6g} to "
            f"{last.cost:.6g}: {self.name or 'loss'} {_shown(first)} to {_shown(last)}; {self.method})"
        )


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r} has type {type(value).__name__}; give a number, 0 or more")
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name}={value} is out of range; give a number, 0 or more")
    return number


def _shown(size: Size) -> str:
    return f"{size.loss:.4g}{'' if math.isnan(size.stderr) else f' ± {size.stderr:.2g}'}"


def _without_nan(size: dict[str, Any]) -> dict[str, Any]:
    unknown = {name: str(value) for name, value in size.items() if isinstance(value, float) and not math.isfinite(value)}
    return size | unknown


def _size(point: dict[str, Any]) -> Size:
    widths = {str(layer): int(k) for layer, k in point["widths"].items()}
    return Size(widths, *(float(point[name]) for name in ("cost", "loss", "stderr", "search_loss")))
