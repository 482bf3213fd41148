"""The statistical tests of the law of K at full size, on a fresh seed; what fails is tried once more on a second one.

The tests are one family with a false-alarm rate of 1e-4 (tests/checks.py), so that a test that fails twice is no chance.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

from ..gate.rule import FAILED, PASS
from ..system import process_group as leash
from ..system.errors import CannotMeasure
from .state import REJECTED, Outcome

TESTS = "tests/test_law.py"
DRAWS = 10_000_000  # of the cells at full size
WHOLE_FAMILY = "test_holm"  # judges the cells that ran beside it, and so says nothing alone


@dataclass(frozen=True)
class Run:
    """One run of the tests: how many ran, and those that failed with what they say."""

    ran: int
    failures: dict[str, str]
    junit: str


def check(root: Path, commit: str, seeds: Sequence[int], seconds: float, select: Sequence[str] = ()) -> Outcome:
    """Run the tests of the working tree, which is at `commit`; `select` are further words for pytest. Raises OutOfTime."""
    end = time.monotonic() + seconds
    first = run(root, [TESTS, *select], seeds[0], seconds)
    if not first.ran:
        return Outcome(FAILED, "no statistical test ran")
    line = f"{first.ran} tests with up to {DRAWS:.0e} draws, seed {seeds[0]}"
    rejected: list[str] = []
    if first.failures:
        cells = [name for name in first.failures if name != WHOLE_FAMILY] or [*first.failures]
        again = run(root, [f"{TESTS}::{name}" for name in cells], seeds[1], end - time.monotonic())
        rejected = [name for name in cells if name in again.failures or name == WHOLE_FAMILY]
        line += f"; {len(cells)} failed, and {len(rejected)} of them on seed {seeds[1]} too"
    stored = {
        "version": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seeds[0],
        "draws": DRAWS,
        "checks": first.ran,
        "rejected": rejected,
        "commit": commit,
    }
    text = "\n".join(f"* `{name}`: {first.failures[name]}" for name in rejected)
    return Outcome(REJECTED if rejected else PASS, line, markdown=text, junit=first.junit, shown={"law.json": stored})


def run(root: Path, words: Sequence[str], seed: int, seconds: float) -> Run:
    """Run pytest; CannotMeasure if it could not run the tests at all."""
    with tempfile.TemporaryDirectory(prefix="taildropout-law-") as folder:
        file = Path(folder, "junit.xml")
        options = ["-q", "-p", "no:cacheprovider", "-o", "junit_logging=no", f"--junitxml={file}"]
        command = [sys.executable, "-m", "pytest", *options, *words]
        code, said = leash.run(command, seconds, root, TAILDROPOUT_SEED=str(seed))
        if code not in (0, 1) or not file.exists():
            raise CannotMeasure(f"pytest could not run {TESTS} (exit code {code}): {said or 'its message stands in the log'}")
        return read(file.read_text())


def read(text: str) -> Run:
    """What pytest's JUnit says."""
    failures, ran = {}, 0
    for case in ElementTree.fromstring(text).iter("testcase"):
        problem = next((each for kind in ("failure", "error") if (each := case.find(kind)) is not None), None)
        ran += case.find("skipped") is None
        if problem is not None:
            failures[case.get("name", "")] = (problem.get("message") or "").split("\n")[0]
            problem.text = None  # the traceback is in the log
    return Run(ran, failures, text)
