"""Does TailMLP choose the faster of its two strategies: to compute all features, or to skip the dropped ones?

31 blocks are timed for each number of threads and dtype, but none of which a step takes longer than SLOW: few are left in
bfloat16 where the processor has no instructions for it.
"""

import math
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .cases import DTYPES, NotAvailable, feature
from .feedforward import step
from .measure import interleave
from .subject import package

SLOW = 0.3  # seconds of processor time: a block is called about 50 times
SKIP = (0, 4e7, 50, 120, 380, 2, -math.inf)  # costs with which TailMLP always skips: the least gain is -inf
# Rows, features and p. The hidden features are four times as many as the features, or as many from 2048 features on.
BLOCKS = (
    *((rows, 64, p) for rows in (512, 4096, 16384) for p in (0.1, 0.5, 0.9)),
    *((rows, 256, p) for rows in (32, 256, 1024) for p in (0.01, 0.3, 0.5, 0.7)),
    *((rows, 1024, p) for rows in (32, 128) for p in (0.1, 0.5, 0.9)),
    *((32, features, p) for features in (2048, 4096) for p in (0.3, 0.6)),
)


class Choice:
    """How many times as long as the faster strategy does TailMLP take? 1 if every choice is right."""

    params = ((1, 2), ("f32", "bf16"))
    param_names = ("threads", "dtype")
    version = "1"
    unit = "ratio"
    timeout = 600

    def setup_cache(self) -> dict[tuple[int, str], list[float]]:
        return {(threads, dtype): ratios(threads, dtype) for threads in self.params[0] for dtype in self.params[1]}

    def track_mean_over_the_better(self, found: dict[tuple[int, str], list[float]], threads: int, dtype: str) -> float:
        return statistics.fmean(found[threads, dtype] or [math.nan])

    def track_worst_over_the_better(self, found: dict[tuple[int, str], list[float]], threads: int, dtype: str) -> float:
        return max(found[threads, dtype], default=math.nan)


def ratios(threads: int, dtype: str, seconds: float = 0.3) -> list[float]:
    """Return, for each of `BLOCKS` that is not slow, TailMLP's time over that of the strategy with the lower median.

    It is the median over rounds.
    """
    torch.set_num_threads(threads)
    tail_mlp = feature(package(), "TailMLP")
    found = []
    for rows, width, p in BLOCKS:
        torch.manual_seed(0)
        model = tail_mlp(width, 4 * width if width < 2048 else width, width, activation=nn.GELU(), p=p).to(DTYPES[dtype])
        x = torch.randn(rows, width, dtype=DTYPES[dtype])
        own, everything = step(model, x), step(nn.Sequential(*model), x)

        def skip() -> None:
            with always_skipping():
                own()  # noqa: B023

        everything()
        started = time.process_time()
        everything()
        if time.process_time() - started > SLOW:
            continue
        own()  # the first call measures the costs of this machine
        figures = interleave({"own": own, "everything": everything, "skip": skip}, seconds)
        better = min(("everything", "skip"), key=lambda name: statistics.median(figures[name]))
        found.append(statistics.median(a / b for a, b in zip(figures["own"], figures[better], strict=True)))
    return found


@contextmanager
def always_skipping() -> Iterator[None]:
    """Make TailMLP skip whatever that saves, also in small blocks, of which it otherwise computes all features."""
    costs = sys.modules.get(f"{package().__name__}.mlp.cost")
    if costs is None:
        raise NotAvailable("this taildropout has no costs of TailMLP")
    before = costs._SMALL, costs.costs_of
    costs._SMALL, costs.costs_of = 0, lambda device, dtype: costs.Costs(*SKIP)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        costs._SMALL, costs.costs_of = before  # type: ignore[attr-defined]
