"""Messages between the gate and its measuring processes: dataclasses that become a line of JSON and come back."""

import json
from dataclasses import asdict, dataclass
from typing import Any

TIME, INSTRUCTIONS, COUNTS = "time", "instructions", "counts"  # signals
BASE, HEAD, BASE_COPY = "base", "head", "base_copy"  # sides; the copy of base differs from base by noise alone
BOTH = "both"  # the side of a message that concerns no single one


@dataclass(frozen=True)
class Task:
    """The work of one measuring process."""

    workload: str  # dotted name of its module
    path: str  # folder from which `workload` can be imported
    signal: str
    cases: list[str]
    sides: list[list[str]]  # [side, folder of its version], in the order in which the versions are loaded
    seconds: float  # of rounds per case
    seed: int
    whole_package: bool = False  # also take the counts that belong to no case
    callgrind: str = ""  # prefix of the files that valgrind writes; empty: the processor counts instructions


@dataclass(frozen=True)
class Environment:
    """The settings and versions of libraries that can change the speed of the process."""

    values: dict[str, Any]


@dataclass(frozen=True)
class NotImportable:
    """A version that cannot be loaded."""

    side: str
    error: str


@dataclass(frozen=True)
class Lacking:
    """A case that a side's version, or this machine, does not support."""

    case: str
    side: str
    error: str


@dataclass(frozen=True)
class Failure:
    """A case that failed; `hangs` is True if the process gave no result in time."""

    case: str
    side: str
    error: str
    hangs: bool = False


@dataclass(frozen=True)
class Times:
    """Seconds per call: side -> one figure per round."""

    case: str
    seconds: dict[str, list[float]]


@dataclass(frozen=True)
class Instructions:
    """User-mode instructions per call: side -> count."""

    case: str
    counts: dict[str, float]


@dataclass(frozen=True)
class Counts:
    """Exact counts: name -> side -> count."""

    case: str
    counts: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Done:
    """The task is finished."""


CaseMessage = Lacking | Failure | Times | Instructions | Counts
Message = Environment | NotImportable | CaseMessage | Done
KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Environment, NotImportable, Lacking, Failure, Times, Instructions, Counts, Done)
}


def encode(message: Message) -> str:
    """Return a message as a line of JSON."""
    return json.dumps({"kind": type(message).__name__, **asdict(message)})


def decode(line: str) -> Message:
    """Return the message that `encode` wrote. Raises ValueError if the line is none."""
    try:
        fields = json.loads(line)
        message: Message = KINDS[fields.pop("kind")](**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{line[:80]!r} is no message of a measuring process ({error!r})") from None
    return message


def encode_task(task: Task) -> str:
    """Return a task as JSON."""
    return json.dumps(asdict(task))


def decode_task(text: str) -> Task:
    """Return the task that `encode_task` wrote."""
    return Task(**json.loads(text))
