"""The run of an example: command line, sizes, progress, stored parts, and the files that it writes.

python -m examples.NAME            writes figures/NAME.png, results/NAME.json and, if it makes a table, results/NAME.md;
                                   can be interrupted and run again
python -m examples.NAME --quick    takes seconds, to see that it runs; writes under examples/stored/quick/
python -m examples.NAME --full     takes longer, with more data; writes under examples/stored/full/
"""

import argparse
import hashlib
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

EXAMPLES = Path(__file__).parents[1]
# Okabe & Ito's colours, distinguishable with red-green colour blindness; markers distinguish lines in grey.
BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, GREY, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C8C8C", "#000000",
)  # fmt: skip
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 9})

T = TypeVar("T")


class Study:
    """One run of an example.

    Args:
        script: the example's `__file__`, whose stem is the name of the files written.
        about: the description for `--help`.
        settings: settings by size: "default" holds all of them, among them the seed; "quick" and "full" hold those that differ.
        argv: the arguments of the command line; None for those of this process.
        uses: further files of code that the stored parts depend on.
    """

    def __init__(
        self,
        script: str,
        about: str,
        settings: dict[str, dict[str, Any]],
        argv: Sequence[str] | None = None,
        uses: Sequence[str] = (),
    ) -> None:
        parser = argparse.ArgumentParser(description=about)
        size = parser.add_mutually_exclusive_group()
        size.add_argument(
            "--quick", dest="size", action="store_const", const="quick", help="takes seconds, to see that it runs"
        )
        size.add_argument(
            "--full", dest="size", action="store_const", const="full", help="takes longer, with more data; can be resumed"
        )
        parser.add_argument("--out", type=Path, help="the folder to write to")
        arguments = parser.parse_args(argv)
        self.script, self.uses = Path(script), [Path(file) for file in uses]
        self.name = self.script.stem
        self.size = arguments.size or "default"
        self.out = arguments.out or (EXAMPLES if self.size == "default" else EXAMPLES / "stored" / self.size)
        self.chosen = settings["default"] | settings.get(self.size, {})
        self.settings = SimpleNamespace(**self.chosen)
        self.started, self.processor_started = time.perf_counter(), time.process_time()
        torch.manual_seed(self.settings.seed)
        if "OMP_NUM_THREADS" not in os.environ:
            # On a busy machine, threads that wait for each other lose more than they gain on a quiet one.
            torch.set_num_threads(1)

    def stored(self, part: str, compute: Callable[[], T]) -> T:
        """Return the result of `compute`, from a file if an earlier run stored it; `part` names the file.

        The result consists of numbers, tensors, lists and dicts. A change of the settings, of torch, or of the code of the
        example or the package makes the file invalid. With --quick nothing is stored.
        """
        torch.manual_seed(self.settings.seed)  # the same numbers whether the parts before were computed or loaded
        if self.size == "quick":
            return compute()
        import taildropout

        code = [
            self.script,
            *self.uses,
            EXAMPLES / "common" / "data.py",
            Path(__file__),
            *sorted(Path(taildropout.__file__).parent.rglob("*.py")),
        ]
        text = json.dumps([self.chosen, torch.__version__], default=str) + "".join(path.read_text() for path in code)
        folder = (EXAMPLES / "stored" if self.out == EXAMPLES else self.out) / "parts"
        path = folder / f"{self.name}-{part}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.pt"
        if path.exists():
            print(f"{part}: taken from {path}", flush=True)
            loaded: T = torch.load(path, weights_only=True)
            return loaded
        found = compute()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n")
        torch.save(found, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)  # the file appears complete or not at all
        return found

    def save(self, figure: Figure, results: dict[str, Any], table: str = "") -> dict[str, Any]:
        """Write figures/NAME.png, results/NAME.json and, unless it is empty, the Markdown table; return the JSON's content."""
        whole = {
            "example": self.name,
            "size": self.size,
            "settings": self.chosen,
            "versions": {"python": platform.python_version()}
            | {package: version(package) for package in ("torch", "taildropout", "numpy", "scikit-learn", "matplotlib")},
            "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
            "seconds": round(time.perf_counter() - self.started, 1),
            "seconds_of_processor": round(time.process_time() - self.processor_started, 1),
            "results": rounded(results),
        }
        path = self.path("results", "json")
        text = json.dumps(whole, indent=1, allow_nan=False)
        path.write_text(re.sub(r"\[[^][{}]*\]", lambda numbers: " ".join(numbers[0].split()), text) + "\n")
        if table:
            self.path("results", "md").write_text(table.strip() + "\n")
        picture = self.path("figures", "png")
        figure.savefig(picture, dpi=100, pil_kwargs={"optimize": True})
        plt.close(figure)
        print(
            f"wrote {picture} and {path} after {whole['seconds']:.0f} s "
            f"({whole['seconds_of_processor']:.0f} s of processor time)",
            flush=True,
        )
        return whole

    def path(self, folder: str, suffix: str) -> Path:
        """Return the path FOLDER/NAME.SUFFIX of a file of this example, and create the folder."""
        (self.out / folder).mkdir(parents=True, exist_ok=True)
        return self.out / folder / f"{self.name}.{suffix}"


def one_cycle(optimizer: torch.optim.Optimizer, rate: float, steps: int, rise: float) -> torch.optim.lr_scheduler.OneCycleLR:
    """Return a one-cycle learning rate that rises to `rate` in the share `rise` of the `steps`, of which there may be few."""
    if abs(rise * steps - 1) < 1e-9:  # OneCycleLR divides by zero if the rise ends at step 0
        rise /= 2
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=rise)


def progress(steps: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield the `total` steps and print progress after the name `what`.

    Print one line that is rewritten on a terminal, and a line every fifteen seconds elsewhere.
    """
    started = shown = time.perf_counter()
    terminal = sys.stdout.isatty()
    for done, step in enumerate(steps):
        yield step
        now = time.perf_counter()
        if done + 1 == total or now - shown > (0.2 if terminal else 15):
            shown = now
            line = f"{what}: {done + 1} of {total}, {now - started:.0f} s"
            print(f"\r{line}" if terminal else line, end="" if terminal and done + 1 < total else "\n", flush=True)


def median_times(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the median processor time of each call in seconds, over rounds that run every call once; three more warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 3):
        for name, call in calls.items():
            started = time.process_time()
            call()
            if turn >= 3:  # the first calls warm up
                times[name].append(time.process_time() - started)
    return {name: statistics.median(each) for name, each in times.items()}


def rounded(value: Any, digits: int = 5) -> Any:
    """Return a number, tensor, list or dict as JSON types, floats rounded to `digits` significant digits."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): rounded(each, digits) for key, each in value.items()}
    if isinstance(value, list | tuple | range):
        return [rounded(each, digits) for each in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def width_axis(axes: Axes, widths: Sequence[int]) -> None:
    """Make the x axis logarithmic in the number of features, from 0 to the largest width, with ticks at powers of two."""
    axes.set_xscale("symlog", base=2, linthresh=1, linscale=0.6)
    ticks = [0] + [2**i for i in range(max(widths).bit_length()) if 2**i <= max(widths)]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set(xlim=(0, max(widths) * 1.1), xlabel="features kept, k")
