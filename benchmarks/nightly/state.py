"""What a night leaves for the next one: the commits that are measured, the one that is judged, what each step found.

No date decides anything: what is newer is what the history of commits says.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ..gate.rule import FAILED, IMPROVED, PASS, REGRESSED, UNSTABLE

VOID, REJECTED, SKIPPED = "VOID", "REJECTED", "SKIPPED"
WORST_FIRST = (VOID, REGRESSED, REJECTED, FAILED, UNSTABLE, IMPROVED, PASS, SKIPPED)
SETTLED = (REGRESSED, REJECTED, IMPROVED, PASS)  # what need not be looked at again


@dataclass(frozen=True)
class Outcome:
    """What a step found. `line` says it in a sentence; `told` once it has been reported."""

    verdict: str
    line: str
    slower: dict[str, str] = field(default_factory=dict)  # case → by how much
    markdown: str = ""
    junit: str = ""
    shown: dict[str, Any] = field(default_factory=dict)  # what the dashboard reads, by file
    told: bool = False


@dataclass
class Series:
    """What one machine has measured with one torch, from its first commit on."""

    first: str
    measured: list[str] = field(default_factory=list)
    tries: dict[str, int] = field(default_factory=dict)  # of commits that could not be measured


@dataclass
class State:
    """All of it, for one device."""

    judged: str = ""  # the newest commit that was compared with the one before it
    head: str = ""  # of the last night, or of the one under way
    seeds: list[int] = field(default_factory=list)
    steps: dict[str, Outcome] = field(default_factory=dict)  # of `head`
    series: dict[str, Series] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    shown: dict[str, Any] = field(default_factory=dict)
    unstable: int = 0  # nights in a row without a verdict

    def text(self) -> str:
        """As it is stored."""
        return json.dumps({"version": 1} | asdict(self), indent=1, ensure_ascii=False) + "\n"


def parse(text: str) -> State:
    """A stored state; ValueError if it is not what `text` writes."""
    stored = json.loads(text)
    try:
        if stored.pop("version") != 1:
            raise ValueError("its version is not 1, which is what can be read")
        state = State(**stored)
        state.steps = {name: Outcome(**outcome) for name, outcome in stored["steps"].items()}
        state.series = {name: Series(**series) for name, series in stored["series"].items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"it is not a stored state ({type(error).__name__}: {error})") from None
    return state
