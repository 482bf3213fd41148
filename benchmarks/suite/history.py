"""How long does a call take, compared with the same call of a pinned version?

Both are measured in one process: the machine's drift over months cancels, and a gradual slowdown shows.
`python -m benchmarks run` puts the pinned version beside asv's results; without that version the figures are n/a.
"""

from functools import cache
from pathlib import Path
from types import ModuleType

from .cases import CASES, NotAvailable, make, names
from .loading import load
from .measure import interleave
from .subject import package

PINNED = Path(__file__).parents[2] / ".asv" / "pinned"
COMMIT = PINNED / "commit"  # the pinned commit; another commit is another series


class Pinned:
    """How many times as long as in the pinned version does a call take?"""

    params = (tuple(names(quick=True)),)
    param_names = ("case",)
    version = f"1 {COMMIT.read_text().strip() if COMMIT.exists() else 'none'}"
    unit = "ratio"

    def track_over_pinned(self, case: str) -> dict[str, object]:
        situation = CASES[case]
        runs = {"now": make(situation, package()), "pinned": make(situation, pinned())}
        figures = interleave(runs, device=situation.device)
        ratios = [now / then for now, then in zip(figures["now"], figures["pinned"], strict=True)]
        return {"samples": ratios, "number": 1}


@cache
def pinned() -> ModuleType:
    """Return the pinned version of the package. Raises NotAvailable if it is not in .asv/pinned."""
    if not COMMIT.exists():
        raise NotAvailable("there is no pinned version in .asv/pinned; python -m benchmarks run puts it there")
    return load(PINNED, "taildropout_pinned")
