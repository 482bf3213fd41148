"""A ratio over commits as the lines of a small picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

WIDTH, HEIGHT, EDGE = 132, 36, 3  # in pixels
APART = 12  # at most, two points
FLAT = 0.1  # of the value: the least range that is shown, so that noise does not look like a mountain


@dataclass(frozen=True)
class Trend:
    """The points are commit, median, lower and upper quartile, oldest first; there is at least one."""

    name: str
    points: Sequence[tuple[str, float, float, float]]
    goal: float | None = None

    def __str__(self) -> str:
        """The picture in words."""
        medians = [median for _, median, _, _ in self.points]
        (first, *_), (last, *_) = self.points[0], self.points[-1]
        if len(self.points) == 1:
            return f"{self.name}: {medians[0]:.3g} at the one commit measured, {first[:8]}"
        return (
            f"{self.name} at {len(self.points)} commits: {medians[0]:.3g} at {first[:8]}, {medians[-1]:.3g} at {last[:8]}, "
            f"least {min(medians):.3g}, most {max(medians):.3g}"
        )

    @cached_property
    def limits(self) -> tuple[float, float]:
        """What the lower and upper edge of the picture stand for."""
        drawn = [value for _, *values in self.points for value in values]
        low, high = min(drawn), max(drawn)
        slack = max(0.0, (FLAT * high - (high - low)) / 2)
        return low - slack, high + slack

    def y(self, value: float) -> float:
        """The height at which a ratio is drawn, counted from above."""
        low, high = self.limits
        share = (value - low) / (high - low) if high > low else 0.5
        return round(HEIGHT - EDGE - share * (HEIGHT - 2 * EDGE), 1)

    def x(self, number: int) -> float:
        """Where point `number` is drawn: evenly apart, the oldest at the left edge."""
        return round(EDGE + number * min(APART, (WIDTH - 2 * EDGE) / max(1, len(self.points) - 1)), 1)

    def line(self) -> str:
        """The medians, as an SVG polyline has them."""
        return " ".join(f"{self.x(number)},{self.y(point[1])}" for number, point in enumerate(self.points))

    def band(self) -> str:
        """The quartiles, as an SVG polygon has them."""
        upper = [f"{self.x(number)},{self.y(point[3])}" for number, point in enumerate(self.points)]
        lower = [f"{self.x(number)},{self.y(point[2])}" for number, point in enumerate(self.points)]
        return " ".join([*upper, *reversed(lower)])

    def marks(self) -> list[tuple[str, float]]:
        """Heights of the lines that the picture reaches: where both take equally long, and the goal."""
        low, high = self.limits
        wanted = [("equal", 1.0)] + ([("goal", self.goal)] if self.goal is not None else [])
        return [(kind, self.y(value)) for kind, value in wanted if low <= value <= high]
