"""A folder of asv's results, for the tests of those who read them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

COMMIT = "714501d2a203547112bb501dc75c137b230bfb05"
CASE = "8x16-f32-train"
TIME, RATIO = "speed.Small.time_step", "speed.Ratio.track_over_copy"
COLUMNS = ["result", "params", "version", "started_at", "duration", "ci_a", "ci_b", "stats_q_25", "stats_q_75"]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder of asv results: a case measured, one that is n/a, one that failed."""
    cases = [f"'{CASE}'", "'cuda-8x16-f32-fwd'", "'8x16-f32-eval'"]
    params: dict[str, list[list[str]]] = {
        TIME: [cases, ["'TailDropout'", "'copy'"]],
        RATIO: [cases],
        "process.Peak.peakmem_step": [],
    }
    benchmarks = {name: {"params": values, "version": "1"} for name, values in params.items()}
    nan = math.nan
    values: dict[str, list[Any]] = {
        TIME: [[2e-6, 1e-6, nan, nan, None, 1e-6], params[TIME], "1"],
        RATIO: [[2.0, nan, None], [cases], "1", 0, 0, None, None, [1.9, None, None], [2.1, None, None]],
        "process.Peak.peakmem_step": [[600e6], [], "1"],
    }
    (tmp_path / "benchmarks.json").write_text(json.dumps(benchmarks | {"version": 2}))
    (tmp_path / "here").mkdir()
    file = {"commit_hash": COMMIT, "params": {"torch": "2.13.0"}, "result_columns": COLUMNS, "results": values}
    (tmp_path / "here" / f"{COMMIT[:8]}-env.json").write_text(json.dumps(file))
    return tmp_path
