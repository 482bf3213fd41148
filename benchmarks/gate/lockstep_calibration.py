"""Calibrate the gate in lock step: whole comparisons of two versions of a project whose difference is known.

A trial is `compare` for any asv project, from building both versions to the verdict, on the project of known_project.py. So
base against base within the trial can make its verdicts UNSTABLE, as in any comparison.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from .__main__ import parser
from .calibration import Cases, Say, case_results, kinds_for, repeat
from .foreign import judge
from .known_project import EFFECT, NAMES, count_work, make_project
from .pairs import PairComparison
from .processes import Broken

LOCKSTEP = "lockstep "  # begins the names of these kinds of trial, after "busy "
WANTED = {"lockstep same": 300, "lockstep slower": 60, "busy lockstep same": 300, "busy lockstep slower": 60}
OUTSIDE = 0.01  # most work of a call outside of its loop, which no version changes, relative to the loop's


def accumulate_pairs(
    record: dict[str, Any], file: Path, end: float, commit: str, say: Say, machine_is: str | None = None
) -> None:
    """Run trials in lock step until `end` on the clock of time.monotonic; add each to `record` and store that in `file`.

    `commit` is that of the gate; `say` gets a line per trial. For `machine_is` see `calibration.kinds_for`.
    """
    with tempfile.TemporaryDirectory(prefix="gate-lockstep-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        measure = partial(pair_trial, make_project(folder / "project"))
        repeat(measure, kinds_for(WANTED, machine_is), commit, record, file, end, say)


def pair_trial(project: Path, kind: str, number: int) -> tuple[Cases, float]:
    """Compare two versions of `project`; return the results by benchmark, and the processor time of the measuring processes.

    The system does not add that time to our own, because these processes are killed together with their parents. `number` is
    not used: a comparison in lock step takes its seed from the clock. Raises Broken if a measurement failed, or if a version
    has not the amount of work that it should have.
    """
    head = kind.removeprefix(LOCKSTEP)
    arguments = parser().parse_args(["compare", "base", head, f"--project={project}"])
    with tempfile.TemporaryDirectory(prefix="trial-", dir=project.parent, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        comparison, rows = judge(arguments, folder, Console(quiet=True))
        work = more_work(comparison, folder, EFFECT if head == "slower" else 0.0)
    if comparison.failures or comparison.lacking:
        raise Broken(f"a trial failed: {comparison.failures or comparison.lacking}")
    itself = comparison.against_itself()
    verdicts = {row.case: row.verdict for row in rows}
    cases: Cases = {}
    for case in NAMES:
        cases[case] = case_results(verdicts[case], comparison.times_of(case))
        cases[case] |= {"itself": [round(log, 5) for log in itself[case]], "work": work[case]}
    return cases, sum(comparison.shared.processor.values())


def more_work(comparison: PairComparison, folder: Path, wanted: float) -> dict[str, float]:
    """Return by how much head's work exceeds base's in each benchmark, as a fraction of base's, by count.

    Raises Broken if that is not `wanted`.
    """
    base, head = (count_work(environment, folder) for environment in (comparison.base, comparison.head))
    more = {case: round(head[case] / base[case] - 1, 5) for case in NAMES}
    if any(abs(found - wanted) > OUTSIDE * wanted for found in more.values()):
        raise Broken(f"the work of head should differ from base's by {wanted:+.1%}, but does so by {more}")
    return more
