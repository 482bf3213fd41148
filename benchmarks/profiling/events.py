"""Read the Chrome trace of torch.profiler, make its slices nest, and add up its events by operator."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from ..system.errors import CommandError

OUTSIDE = "(outside operators)"
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")


class BrokenTrace(CommandError):
    """A trace that is incomplete."""

    summary = "Could not trace"


@dataclass
class Operator:
    """The sums over an operator's calls: their number, self time in µs on the host and on the GPU, allocated bytes."""

    calls: int = 0
    host: float = 0.0
    device: float = 0.0
    allocated: int = 0


def read(run: Path, number: Callable[[str], Any] = float) -> dict[str, Any]:
    """Return the Chrome trace in the folder `run`; `number` parses numbers with a fraction or exponent.

    Raises BrokenTrace if the trace is incomplete or holds NaN, which TensorBoard and Perfetto could not read either.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        (file,) = run.iterdir()
        content: dict[str, Any] = json.loads(file.read_bytes(), parse_float=number, parse_constant=refuse)
        if not content["traceEvents"]:
            raise ValueError("no event")
    except (OSError, ValueError, KeyError) as error:
        raise BrokenTrace(f"the profiler wrote no complete trace ({error}); is the disk full?") from error
    return content


def repair(run: Path) -> list[dict[str, Any]]:
    """Rewrite a run's trace so that its slices nest and its times begin at 0, and return its events.

    torch's times are µs since a distant origin. JSON readers parse them as float64, whose spacing is 1 ns at 2⁴² µs and more
    above. Raises BrokenTrace.
    """
    content = read(run, Decimal)
    events: list[dict[str, Any]] = content["traceEvents"]
    origin = min((event["ts"] for event in events if "ts" in event), default=0)
    for event in events:
        if "ts" in event:
            event["ts"] = float(event["ts"] - origin)
        if "dur" in event:
            event["dur"] = float(event["dur"])
    if "baseTimeNanoseconds" in content:
        content["baseTimeNanoseconds"] += int(origin * 1000)
    nest(events)
    next(run.iterdir()).write_text(json.dumps(content, allow_nan=False, default=float))
    repaired: list[dict[str, Any]] = read(run)["traceEvents"]
    return repaired


def nest(events: Sequence[dict[str, Any]]) -> None:
    """Shorten slices that cross a Python call, such as a step, so that they begin or end where that call does.

    The slices of a thread have to nest: Perfetto drops a slice that crosses another. But torch enters and leaves a step, and
    some slices of a compiler, inside Python calls that it records as well. Times are compared in whole ns.
    """
    python = {(event["pid"], event["tid"]) for event in events if event.get("cat") == "python_function"}
    threads: defaultdict[tuple[Any, Any], list[tuple[int, int, int]]] = defaultdict(list)
    for number, event in enumerate(events):
        if event["ph"] == "X" and (event["pid"], event["tid"]) in python:
            start = round(event["ts"] * 1000)
            heappush(threads[event["pid"], event["tid"]], (start, -start - round(event["dur"] * 1000), number))
    for slices in threads.values():
        opened: list[tuple[int, int]] = []  # ends and numbers
        while slices:
            start, negative, number = heappop(slices)
            while opened and opened[-1][0] <= start:
                opened.pop()
            if opened and opened[-1][0] < -negative:
                end, other = opened[-1]
                if events[number]["cat"] == "python_function":
                    events[other]["dur"] = (start - round(events[other]["ts"] * 1000)) / 1000
                    opened.pop()
                    heappush(slices, (start, negative, number))
                else:
                    events[number] |= {"ts": end / 1000, "dur": (-negative - end) / 1000}
                    heappush(slices, (end, negative, number))
                continue
            opened.append((-negative, number))


def is_step(event: Mapping[str, Any]) -> bool:
    """Return True if an event is a step of the profiler's schedule, as recorded on the host."""
    return bool(event.get("cat") == "user_annotation" and event["name"].startswith("ProfilerStep#"))


def median_step(events: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return the events of the step of median duration, and all events of the GPU.

    Raises BrokenTrace if there are not `count` steps.
    """
    steps = sorted((event for event in events if is_step(event)), key=lambda event: event["dur"])
    if len(steps) != count:
        raise BrokenTrace(f"the trace holds {len(steps)} steps, not {count}")
    start = steps[count // 2]["ts"]
    end = start + steps[count // 2]["dur"]
    return [event for event in events if event.get("cat") in ON_DEVICE or start <= event.get("ts", end) < end]


def operators(events: Iterable[Mapping[str, Any]]) -> dict[str, Operator]:
    """Return the operators of a Chrome trace by name; the entry `OUTSIDE` is the part of a step outside of operators."""
    sums = OperatorSums()
    timed = [event for event in events if event["ph"] == "X" or event["name"] == "[memory]"]
    for event in sorted(timed, key=lambda event: (event["ts"], -event.get("dur", 0))):
        if event["name"] == "[memory]":
            sums.add_memory(event)
        elif is_step(event) or event["cat"] == "cpu_op":
            sums.add_call(event)
    for event in timed:
        if event.get("cat") in ON_DEVICE:
            sums.add_device(event)
    return dict(sums.operators)


class OperatorSums:
    """The sums of a trace's events by operator. The host's events must be added in the order of their start."""

    def __init__(self) -> None:
        self.operators: defaultdict[str, Operator] = defaultdict(Operator)
        self.names: dict[int | None, str] = {}  # by the id that an operator shares with the kernels it starts
        self.stacks: defaultdict[tuple[Any, Any], list[tuple[float, Operator]]] = defaultdict(list)  # ends and operators

    def stack(self, event: Mapping[str, Any]) -> list[tuple[float, Operator]]:
        """Return the calls that run on an event's thread at its start, the innermost one last."""
        stack = self.stacks[event["pid"], event["tid"]]
        while stack and stack[-1][0] <= event["ts"]:
            stack.pop()
        return stack

    def add_memory(self, event: Mapping[str, Any]) -> None:
        """Add an allocation; freeing is ignored, since it happens in whichever operator runs when a tensor's life ends."""
        stack = self.stack(event)
        if stack and event["args"]["Bytes"] > 0:
            stack[-1][1].allocated += event["args"]["Bytes"]

    def add_call(self, event: Mapping[str, Any]) -> None:
        """Add a call of an operator, or a step, and subtract its time from its caller's self time."""
        stack = self.stack(event)
        name = OUTSIDE if is_step(event) else event["name"]
        operator = self.operators[name]
        if stack:
            stack[-1][1].host -= event["dur"]
        # As in TensorBoard, an overload that calls another one of the same name is one call.
        overload = bool(stack) and stack[-1][1] is operator
        operator.calls += not (is_step(event) or overload)
        operator.host += event["dur"]
        stack.append((event["ts"] + event["dur"], operator))
        self.names[event["args"].get("External id")] = name

    def add_device(self, event: Mapping[str, Any]) -> None:
        """Add a kernel's time on the GPU to the operator that started it."""
        if name := self.names.get(event["args"].get("External id")):
            self.operators[name].device += event["dur"]


def total(operators: Iterable[Operator]) -> Operator:
    """Return the sum of several operators."""
    result = Operator()
    for operator in operators:
        result.calls += operator.calls
        result.host += operator.host
        result.device += operator.device
        result.allocated += operator.allocated
    return result
