"""The state that one night stores for the next: the measured commits, the judged commit, and the outcome of each step.

Which commit is newer follows from the history of commits, never from dates.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ..gate.rule import FAILED, IMPROVED, PASS, REGRESSED, UNSTABLE

VOID, REJECTED, SKIPPED = "VOID", "REJECTED", "SKIPPED"
WORST_FIRST = (VOID, REGRESSED, REJECTED, FAILED, UNSTABLE, IMPROVED, PASS, SKIPPED)
SETTLED = (REGRESSED, REJECTED, IMPROVED, PASS)  # verdicts after which a step is not repeated for the same commit


@dataclass(frozen=True)
class Outcome:
    """The verdict of a step. `line` explains the verdict in one sentence."""

    verdict: str
    line: str
    slower: dict[str, str] = field(default_factory=dict)  # slower cases, each with its change
    markdown: str = ""
    junit: str = ""
    shown: dict[str, Any] = field(default_factory=dict)  # JSON files for the dashboard, by name
    reported: bool = False  # a finished night has put this outcome into its summary and issues


@dataclass
class Series:
    """The measurements of one machine with one version of torch."""

    first: str  # the commit at which the series begins
    measured: list[str] = field(default_factory=list)
    tries: dict[str, int] = field(default_factory=dict)  # failed attempts to measure a commit


@dataclass
class State:
    """The whole state, for one device."""

    judged: str = ""  # the newest commit that the gate has compared with an earlier one
    head: str = ""  # the commit of the last night, or of the one that is running
    seeds: list[int] = field(default_factory=list)  # two, for the statistical tests at `head`
    steps: dict[str, Outcome] = field(default_factory=dict)  # of `head`
    series: dict[str, Series] = field(default_factory=dict)  # by machine, processor and torch
    environment: dict[str, str] = field(default_factory=dict)  # of the last night, or of the one that is running
    shown: dict[str, Any] = field(default_factory=dict)  # the newest JSON files for the dashboard, by name
    unstable: int = 0  # consecutive nights without a verdict

    def text(self) -> str:
        """Return the JSON that `parse` reads."""
        return json.dumps({"version": 1} | asdict(self), indent=1, ensure_ascii=False) + "\n"


def parse(text: str) -> State:
    """Return the stored state. Raises ValueError if `text` is not such a state."""
    stored = json.loads(text)
    try:
        version = stored.pop("version")
        if version != 1:
            raise ValueError(f"the state has version {version!r}, but only version 1 can be read")
        state = State(**stored)
        state.steps = {name: parse_outcome(outcome) for name, outcome in stored["steps"].items()}
        state.series = {name: Series(**series) for name, series in stored["series"].items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"this is not a stored state ({type(error).__name__}: {error})") from None
    return state


def parse_outcome(stored: dict[str, Any]) -> Outcome:
    """Return a stored outcome; older versions of this code stored `reported` under the key "told"."""
    fields = dict(stored)
    if "told" in fields:
        fields["reported"] = fields.pop("told")
    return Outcome(**fields)
