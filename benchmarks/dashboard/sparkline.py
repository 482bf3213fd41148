"""A ratio over commits as a sparkline: a small picture without axes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

WIDTH, HEIGHT, EDGE = 132, 36, 3  # in pixels
SPACING = 12  # pixels between two points, at most
FLAT = 0.1  # least range of the vertical axis, relative to the value, so that noise looks flat


@dataclass(frozen=True)
class Sparkline:
    """A sparkline of at least one point (commit, median, lower quartile, upper quartile), oldest first."""

    name: str
    points: Sequence[tuple[str, float, float, float]]

    def __str__(self) -> str:
        """Describe the picture in words."""
        medians = [median for _, median, _, _ in self.points]
        (first, *_), (last, *_) = self.points[0], self.points[-1]
        if len(self.points) == 1:
            return f"{self.name}: {medians[0]:.3g} at the only commit measured, {first[:8]}"
        return (
            f"{self.name} at {len(self.points)} commits: {medians[0]:.3g} at {first[:8]}, {medians[-1]:.3g} at {last[:8]}, "
            f"least {min(medians):.3g}, most {max(medians):.3g}"
        )

    @cached_property
    def limits(self) -> tuple[float, float]:
        """The ratios at the lower and the upper edge of the picture."""
        drawn = [value for _, *values in self.points for value in values]
        low, high = min(drawn), max(drawn)
        slack = max(0.0, (FLAT * high - (high - low)) / 2)
        return low - slack, high + slack

    def y(self, value: float) -> float:
        """Return the vertical place of a ratio, in pixels from the top."""
        low, high = self.limits
        share = (value - low) / (high - low) if high > low else 0.5
        return round(HEIGHT - EDGE - share * (HEIGHT - 2 * EDGE), 1)

    def x(self, number: int) -> float:
        """Return the horizontal place of point `number`, in pixels from the left; points are evenly spaced."""
        return round(EDGE + number * min(SPACING, (WIDTH - 2 * EDGE) / max(1, len(self.points) - 1)), 1)

    def line(self) -> str:
        """Return the medians as the points of an SVG polyline."""
        return " ".join(f"{self.x(number)},{self.y(point[1])}" for number, point in enumerate(self.points))

    def band(self) -> str:
        """Return the quartiles as the points of an SVG polygon."""
        upper = [f"{self.x(number)},{self.y(point[3])}" for number, point in enumerate(self.points)]
        lower = [f"{self.x(number)},{self.y(point[2])}" for number, point in enumerate(self.points)]
        return " ".join([*upper, *reversed(lower)])

    def equal(self) -> float | None:
        """Return the vertical place of the ratio 1 in pixels, or None if 1 lies outside the limits."""
        low, high = self.limits
        return self.y(1.0) if low <= 1 <= high else None
