"""A repository with a synthetic history of measurements in asv's form; one case becomes slower."""

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy

CASES = ("8x16-f32-fwd", "8x16-f32-train", "1024x512-f32-train", "1024x512-bf16-train", "8192x768-f32-train")
ABSENT = "cuda-8x16-f32-fwd"  # n/a on every commit
SLOWER = "1024x512-f32-train"
COMMITS, STEP, FACTOR, NOISE = 30, 20, 1.3, 0.01
MACHINE, TORCH = "some-cpu-2-cores", "2.13.0"
LAYERS = {"TailDropout": 1.0, "nn.Dropout": 5.0, "copy": 0.8}
RATIOS = {
    "speed.Ratio.track_over_nn_dropout": 0.07,
    "speed.Ratio.track_over_copy": 1.9,
    "history.Pinned.track_over_pinned": 1.0,
}
COLUMNS = (
    "result",
    "params",
    "version",
    "started_at",
    "duration",
    "stats_ci_99_a",
    "stats_ci_99_b",
    "stats_q_25",
    "stats_q_75",
)
START = 1_750_000_000  # seconds; a commit an hour from then on


def repository(folder: Path, commits: int = COMMITS) -> list[str]:
    """Make a git repository with asv's configuration and return its commits, oldest first."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", str(folder)], check=True)
    stream = "".join(
        f"commit refs/heads/main\ncommitter A <a@example.org> {START + 3600 * number} +0000\ndata 1\n{number % 10}\n"
        for number in range(commits)
    )
    subprocess.run(["git", "fast-import", "--quiet"], cwd=folder, input=stream, text=True, check=True)
    configuration = {"version": 1, "project": "taildropout", "repo": ".", "branches": ["main"], "dvcs": "git"}
    configuration |= {"results_dir": ".asv/results", "html_dir": ".asv/html", "benchmark_dir": "benchmarks"}
    (folder / "asv.conf.json").write_text(json.dumps(configuration))
    command = ["git", "rev-list", "--reverse", "main"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.split()


def measure(folder: Path, commits: list[str], machine: str = MACHINE, torch: str = TORCH) -> list[Path]:
    """Store figures for every commit and return the files; `SLOWER` is slower by `FACTOR` from commit number `STEP` on."""
    results = folder / ".asv" / "results"
    (results / machine).mkdir(parents=True, exist_ok=True)
    (results / machine / "machine.json").write_text(
        json.dumps({"machine": machine, "os": "Linux", "ram": "8 GiB", "version": 1})
    )
    cases = [f"'{case}'" for case in (*CASES, ABSENT)]
    described = {name: benchmark(name, "track", "ratio", case=cases) for name in RATIOS}
    layers = [f"'{layer}'" for layer in LAYERS]
    described["speed.Small.time_step"] = benchmark("speed.Small.time_step", "time", "seconds", case=cases, layer=layers)
    (results / "benchmarks.json").write_text(json.dumps(described | {"version": 2}))
    random = numpy.random.default_rng(0)
    files = []
    for number, commit in enumerate(commits):
        factors = [
            math.nan if case == ABSENT else (FACTOR if case == SLOWER and number >= STEP else 1) * random.normal(1, NOISE)
            for case in (*CASES, ABSENT)
        ]
        values = {name: [level * factor for factor in factors] for name, level in RATIOS.items()}
        values["speed.Small.time_step"] = [
            1e-4 * level * (factor if layer == "TailDropout" or math.isnan(factor) else 1)
            for factor in factors
            for layer, level in LAYERS.items()
        ]
        files.append(store(results / machine / f"{commit[:8]}-env.json", commit, machine, torch, described, values, number))
    return files


def benchmark(name: str, kind: str, unit: str, **params: list[str]) -> dict[str, Any]:
    """Return asv's description of a benchmark."""
    about = {"name": name, "type": kind, "unit": unit, "version": "1", "code": "pass", "timeout": 60}
    return about | {"param_names": list(params), "params": list(params.values())}


def store(file: Path, commit: str, machine: str, torch: str, described: Any, values: Any, number: int) -> Path:
    """Write one of asv's result files; the quartiles are 2 % on both sides."""
    results = {}
    for name, figures in values.items():
        columns = [[share * value for value in figures] for share in (1, 0.99, 1.01, 0.98, 1.02)]
        results[name] = [columns[0], described[name]["params"], "1", 1000 * (START + 3600 * number), 1.0, *columns[1:]]
    stored = {
        "commit_hash": commit,
        "env_name": f"virtualenv-py3.11-torch{torch}",
        "date": 1000 * (START + 3600 * number),
        "params": {"machine": machine, "os": "Linux", "ram": "8 GiB", "python": "3.11", "torch": torch},
        "python": "3.11",
        "requirements": {"torch": torch},
        "env_vars": {},
        "result_columns": COLUMNS,
        "results": results,
        "durations": {},
        "version": 2,
    }
    file.write_text(json.dumps(stored))
    return file


VERDICT: dict[str, Any] = {
    "version": 1,
    "verdict": "REGRESSED",
    "date": "2026-11-21T05:55:47+00:00",
    "line": "REGRESSED: head is slower. working tree (aaaaaaaa with changes) against main (aaaaaaaa), 1 figure compared.",
    "rows": [{"case": SLOWER, "signal": "time", "change": 0.3, "low": 0.27, "high": 0.33, "verdict": "REGRESSED"}],
}
LAW: dict[str, Any] = {
    "version": 1,
    "date": "2026-11-21T03:00:00+00:00",
    "seed": 7,
    "draws": 10_000_000,
    "checks": 150,
    "rejected": [],
    "commit": "b" * 40,
}
