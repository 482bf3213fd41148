"""How long does a call take beside the same call of a pinned version?

Both are measured in one process, so that the machine's drift over months does not show, and a creeping loss does.
`python -m benchmarks run` lays the pinned version beside asv's results; without it the figures are n/a.
"""

from functools import cache
from pathlib import Path
from types import ModuleType

from .cases import CASES, NotAvailable, make, names
from .loading import load
from .measure import interleave
from .subject import package

PINNED = Path(__file__).parents[2] / ".asv" / "pinned"
COMMIT = PINNED / "commit"  # which one it is; another one is another series


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
    """The pinned version."""
    if not COMMIT.exists():
        raise NotAvailable("no pinned version is laid out here; python -m benchmarks run does it")
    return load(PINNED, "taildropout_pinned")
