"""The results of a night whose steps are done: the dashboard's files, and the findings to report as GitHub issues."""

import json
from collections.abc import Mapping
from pathlib import Path

from ..gate.rule import FAILED, IMPROVED, PASS
from ..system.files import write_atomically
from .bases import Base
from .github_issues import Finding, job_failed, slower, wrong_law
from .report import Report, slower_cases
from .state import REJECTED, VOID, State

NOISY_NIGHTS = 3  # consecutive nights without a verdict before an issue is opened


def write_dashboard_files(root: Path, report: Report, state: State) -> None:
    """Write the newest verdict and the newest test of the law to .asv, for the dashboard. Of two comparisons, write the worse.

    If no step has a new result, write the stored ones to the files that do not exist.
    """
    outcomes = report.outcomes
    for name in ("release", "last", "law"):
        state.shown |= outcomes[name].shown
    if outcomes["last"].verdict in (PASS, IMPROVED) and outcomes["release"].verdict not in (PASS, IMPROVED):
        state.shown |= outcomes["release"].shown
    new = any(outcome.shown for outcome in outcomes.values())
    for name, stored in state.shown.items():
        file = root / ".asv" / name
        if new or not file.exists():
            write_atomically(file, json.dumps(stored, indent=1) + "\n")


def collect_findings(report: Report, state: State, bases: Mapping[str, Base]) -> list[Finding]:
    """Return a finding per slower case, one if the law is rejected, and one if the job itself has problems.

    `bases` are the commits that the steps "last" and "release" compared HEAD with.
    """
    outcomes, findings = report.outcomes, []
    for case, changes in sorted(slower_cases(outcomes).items()):
        base = bases["last" if case in outcomes["last"].slower else "release"]
        findings.append(slower(case, changes, base.commit, report.head))
    if outcomes["law"].verdict == REJECTED:
        findings.append(wrong_law(outcomes["law"].line, report.head, state.seeds))
    problems = [f"{name}: {outcome.line}" for name, outcome in outcomes.items() if outcome.verdict in (VOID, FAILED)]
    if state.unstable >= NOISY_NIGHTS:
        problems.append(f"{state.unstable} consecutive nights were too noisy for a verdict")
    if problems:
        findings.append(job_failed(report.device, "\n\n".join(problems), report.head))
    return findings
