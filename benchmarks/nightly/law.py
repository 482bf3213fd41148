"""The statistical tests of the law of K at full size, on a fresh seed. A test that fails is repeated once on a second seed.

The tests are one family with a false-alarm rate of 1e-4 (tests/checks.py), so a test that fails on both seeds did not
fail by chance.
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
from ..system import process_group
from ..system.errors import CannotMeasure
from .github_issues import LAW_TESTS
from .state import REJECTED, Outcome

DRAWS = 10_000_000  # in a test at full size
FAMILY_TEST = "test_holm"  # judges the tests that ran in the same process, so it decides nothing when it runs alone


@dataclass(frozen=True)
class PytestRun:
    """One run of pytest: the number of tests that ran, the message of each test that failed, by its name, and JUnit XML."""

    ran: int
    failures: dict[str, str]
    junit: str


def check(root: Path, commit: str, seeds: Sequence[int], seconds: float, select: Sequence[str] = ()) -> Outcome:
    """Run the tests on the working tree, whose commit is `commit`, on seeds[0]; repeat on seeds[1] those that fail.

    A test that fails on both seeds is rejected. `seconds` is the time for both runs; `select` holds more arguments of pytest.
    Raises OutOfTime, or CannotMeasure if pytest cannot run the tests.
    """
    end = time.monotonic() + seconds
    first = run_tests(root, [LAW_TESTS, *select], seeds[0], seconds)
    if not first.ran:
        return Outcome(FAILED, "no statistical test ran")
    line = f"{first.ran} tests with up to {DRAWS:.0e} draws, seed {seeds[0]}"
    rejected: list[str] = []
    if first.failures:
        names = [name for name in first.failures if name != FAMILY_TEST] or [*first.failures]
        second = run_tests(root, [f"{LAW_TESTS}::{name}" for name in names], seeds[1], end - time.monotonic())
        rejected = [name for name in names if name in second.failures or name == FAMILY_TEST]
        line += f"; {len(names)} failed, and {len(rejected)} of them on seed {seeds[1]} too"
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


def run_tests(root: Path, args: Sequence[str], seed: int, seconds: float) -> PytestRun:
    """Run pytest with `args` on a seed. Raises OutOfTime, or CannotMeasure if pytest cannot run the tests."""
    with tempfile.TemporaryDirectory(prefix="taildropout-law-") as folder:
        file = Path(folder, "junit.xml")
        options = ["-q", "-p", "no:cacheprovider", "-o", "junit_logging=no", f"--junitxml={file}"]
        command = [sys.executable, "-m", "pytest", *options, *args]
        code, stderr = process_group.run(command, seconds, root, TAILDROPOUT_SEED=str(seed))
        if code not in (0, 1) or not file.exists():
            raise CannotMeasure(f"pytest could not run {LAW_TESTS} (exit code {code}): {stderr or 'the log says why'}")
        return parse_junit(file.read_text())


def parse_junit(text: str) -> PytestRun:
    """Return the run that pytest's JUnit XML describes."""
    failures, ran = {}, 0
    for case in ElementTree.fromstring(text).iter("testcase"):
        failure = next((element for element in case if element.tag in ("failure", "error")), None)
        ran += case.find("skipped") is None
        if failure is not None:
            failures[case.get("name", "")] = (failure.get("message") or "").split("\n")[0]
            failure.text = None  # the traceback is in the log
    return PytestRun(ran, failures, text)
