"""Report findings as GitHub issues with the command `gh`: one open issue per finding, however many nights find it.

    python3 -m benchmarks.nightly.github_issues DEVICE      report that the nightly job on DEVICE ended without a report

An issue is identified by its title. A finding whose issue is open becomes a comment, unless that issue contains the same
report already. This file imports only the standard library, so it works where nothing else could be installed.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LAW_TESTS = "tests/package/test_law.py"
MAX_ISSUES = 1000  # open issues that are searched
GH_TIMEOUT = 120  # seconds per call of gh


class CannotReport(Exception):
    """gh is missing or failed, so no maintainer was notified."""


@dataclass(frozen=True)
class Finding:
    """A problem that maintainers should know. The same title is the same issue; the same title and key is the same report."""

    title: str
    text: str
    key: str

    def body(self) -> str:
        """Return the text of the issue or comment: `text`, a link to the run, and the marker."""
        return "\n\n".join(filter(None, [self.text, run_link(), self.marker()]))

    def marker(self) -> str:
        """Return the HTML comment, invisible to readers, by which this report is recognised."""
        return f"<!-- nightly {self.key} -->"


def slower(case: str, changes: Sequence[str], base: str, head: str) -> Finding:
    """Return the finding that a case is slower at `head` than at `base`; `changes` says by how much."""
    items = "\n".join(f"* {change}" for change in changes)
    text = (
        f"The nightly gate finds `{case}` slower at {head}:\n\n{items}\n\nTo reproduce: "
        f"`python -m benchmarks compare {base[:12]} {head[:12]} --case {case}`. CONTRIBUTING.md says how to find the commit. "
        "Close this issue when the slowdown is fixed or accepted."
    )
    return Finding(f"Slower: {case}", text, f"{base[:12]} {head[:12]}")


def wrong_law(line: str, head: str, seeds: Sequence[int]) -> Finding:
    """Return the finding that K does not follow its law at `head`; `line` is the result of the statistical tests."""
    command = f"TAILDROPOUT_SEED={seeds[0]} python -m pytest {LAW_TESTS}"
    text = f"At {head}: {line}\n\nTo reproduce: `{command}`"
    return Finding("K does not follow its law", text, f"{head[:12]} {seeds[0]}")


def job_failed(device: str, text: str, head: str = "") -> Finding:
    """Return the finding that the nightly job on `device` failed; `text` says how."""
    key = f"{head[:12]} {os.environ.get('GITHUB_RUN_ID', '')}".strip()
    return Finding(f"The nightly job fails ({device})", text, key)


def run_link() -> str:
    """Return a link to the run on GitHub; an empty text outside GitHub Actions."""
    parts = [os.environ.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")]
    return "Run: {}/{}/actions/runs/{}".format(*parts) if all(parts) else ""


def report(findings: Iterable[Finding], root: Path) -> list[str]:
    """Open or update an issue for each finding; return a line per finding that says which. Raises CannotReport."""
    findings = list(findings)
    if not findings:
        return []
    issues = parse_json(gh(root, "issue", "list", "--state", "open", "--limit", str(MAX_ISSUES), "--json", "number,title"))
    numbers = {issue["title"]: str(issue["number"]) for issue in issues}
    lines = []
    for finding in findings:
        number = numbers.get(finding.title)
        if number is None:
            gh(root, "issue", "create", "--title", finding.title, "--body-file", "-", stdin=finding.body())
            lines.append(f"issue opened: {finding.title}")
            continue
        issue = parse_json(gh(root, "issue", "view", number, "--json", "body,comments"))
        if any(finding.marker() in text for text in [issue["body"], *(comment["body"] for comment in issue["comments"])]):
            lines.append(f"issue reports this already: {finding.title}")
        else:
            gh(root, "issue", "comment", number, "--body-file", "-", stdin=finding.body())
            lines.append(f"comment added to issue: {finding.title}")
    return lines


def gh(root: Path, *args: str, stdin: str = "") -> str:
    """Run gh in `root` and return its output. Raises CannotReport."""
    try:
        done = subprocess.run(
            ["gh", *args], cwd=root, input=stdin, capture_output=True, text=True, check=False, timeout=GH_TIMEOUT
        )
    except FileNotFoundError:
        raise CannotReport("the command gh is not installed; install it, or leave out --issues") from None
    except subprocess.TimeoutExpired:
        raise CannotReport(f"gh {args[0]} {args[1]} did not end within {GH_TIMEOUT} s") from None
    if done.returncode:
        error = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise CannotReport(f"gh {args[0]} {args[1]} failed: {error}")
    return done.stdout


def parse_json(text: str) -> Any:
    """Return the value of gh's output. Raises CannotReport if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        raise CannotReport(f"gh printed something other than JSON: {text[:200]!r}") from None


def main(args: Sequence[str]) -> int:
    """Report that the job on a device failed without a report of its own; return 0 if that worked, else 2."""
    if len(args) != 1 or args[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    text = "The nightly job ended without a report: it was killed, or could not be set up. The log of the run says more."
    try:
        print(*report([job_failed(args[0], text)], Path.cwd()), sep="\n")
    except CannotReport as error:
        print(f"Could not report the failure: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
