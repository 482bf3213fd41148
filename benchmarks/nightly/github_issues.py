"""Tells maintainers through GitHub's issues, by its command `gh`: one open issue per finding, however often it is found.

    python3 -m benchmarks.nightly.github_issues DEVICE      the nightly job has failed before it could say so itself

An issue is known by its title. What is found again is a comment, unless the issue has it already. This file needs nothing
but Python, so that it works where nothing could be installed.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OPEN = 1000  # issues that are looked through
PATIENCE = 120  # seconds for a call


class AlarmTrouble(Exception):
    """Nobody could be told."""


@dataclass(frozen=True)
class Alarm:
    """A finding. Two alarms with the same title are one finding, with the same key as well they are one report of it."""

    title: str
    text: str
    key: str

    def body(self) -> str:
        """What the issue says, with where it comes from and a mark by which it is known again."""
        return "\n\n".join(filter(None, [self.text, run_link(), self.mark()]))

    def mark(self) -> str:
        """Not seen by readers."""
        return f"<!-- nightly {self.key} -->"


def slower(case: str, findings: Sequence[str], base: str, head: str) -> Alarm:
    """A case has become slower."""
    listed = "\n".join(f"* {finding}" for finding in findings)
    text = (
        f"The nightly gate finds `{case}` slower at {head}:\n\n{listed}\n\nTo see it: "
        f"`python -m benchmarks compare {base[:12]} {head[:12]} --case {case}`; CONTRIBUTING.md says how to find the commit. "
        "Close this once it is mended, or accepted."
    )
    return Alarm(f"Slower: {case}", text, f"{base[:12]} {head[:12]}")


def unlawful(line: str, head: str, seeds: Sequence[int]) -> Alarm:
    """The draws of K are wrong."""
    seed = f"TAILDROPOUT_SEED={seeds[0]} python -m pytest tests/test_law.py"
    return Alarm("K does not follow its law", f"At {head}: {line}\n\nTo see it: `{seed}`", f"{head[:12]} {seeds[0]}")


def failed(device: str, text: str, head: str = "") -> Alarm:
    """The job itself did not do what it should."""
    return Alarm(f"The nightly job fails ({device})", text, f"{head[:12]} {os.environ.get('GITHUB_RUN_ID', '')}".strip())


def run_link() -> str:
    """Where GitHub shows the run; empty elsewhere."""
    known = [os.environ.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")]
    return "Run: {}/{}/actions/runs/{}".format(*known) if all(known) else ""


def tell(alarms: Iterable[Alarm], root: Path) -> list[str]:
    """Open or update an issue for each; what was done. Raises AlarmTrouble."""
    alarms = list(alarms)
    if not alarms:
        return []
    listed = gh(root, "issue", "list", "--state", "open", "--limit", str(OPEN), "--json", "number,title")
    numbers = {issue["title"]: str(issue["number"]) for issue in parsed(listed)}
    done = []
    for alarm in alarms:
        number = numbers.get(alarm.title)
        if number is None:
            gh(root, "issue", "create", "--title", alarm.title, "--body-file", "-", given=alarm.body())
            done.append(f"opened: {alarm.title}")
            continue
        known = parsed(gh(root, "issue", "view", number, "--json", "body,comments"))
        if any(alarm.mark() in text for text in [known["body"], *(comment["body"] for comment in known["comments"])]):
            done.append(f"known already: {alarm.title}")
        else:
            gh(root, "issue", "comment", number, "--body-file", "-", given=alarm.body())
            done.append(f"added to: {alarm.title}")
    return done


def gh(root: Path, *words: str, given: str = "") -> str:
    """What gh prints; AlarmTrouble where it cannot be run or fails."""
    try:
        done = subprocess.run(
            ["gh", *words], cwd=root, input=given, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
    except FileNotFoundError:
        raise AlarmTrouble("there is no command gh; install it, or leave --issues out") from None
    except subprocess.TimeoutExpired:
        raise AlarmTrouble(f"gh {words[0]} {words[1]} was not done after {PATIENCE} s") from None
    if done.returncode:
        raise AlarmTrouble(f"gh {words[0]} {words[1]} failed: {' '.join(done.stderr.split()) or done.returncode}")
    return done.stdout


def parsed(text: str) -> Any:
    """gh's JSON; AlarmTrouble if it is none."""
    try:
        return json.loads(text)
    except ValueError:
        raise AlarmTrouble(f"gh printed no JSON: {text[:200]!r}") from None


def main(words: Sequence[str]) -> int:
    """Tell that the job has failed without a word of its own; 0 if somebody was told."""
    if len(words) != 1 or words[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    text = "The nightly job ended before it could say what was wrong: it was killed, or could not be set up. Its log says more."
    try:
        print(*tell([failed(words[0], text)], Path.cwd()), sep="\n")
    except AlarmTrouble as error:
        print(f"Nobody was told: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
