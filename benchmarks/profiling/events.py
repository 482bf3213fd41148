"""The events of a Chrome trace that torch.profiler wrote: read, made to nest, and added up by operator."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

OUTSIDE = "(outside operators)"
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")


class BrokenTrace(Exception):
    """A trace that does not hold what it should."""


@dataclass
class Operator:
    """What the calls of one operator add up to: their number, self time in µs on the host and on the GPU, bytes allocated."""

    calls: int = 0
    host: float = 0.0
    device: float = 0.0
    allocated: int = 0


def read(run: Path, number: Callable[[str], Any] = float) -> dict[str, Any]:
    """A run's trace; it is what the plugin and Perfetto read, so a broken file is noticed here. `number` reads fractions."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        (file,) = run.iterdir()
        content: dict[str, Any] = json.loads(file.read_bytes(), parse_float=number, parse_constant=refuse)
        if not content["traceEvents"]:
            raise ValueError("no event")
    except (OSError, ValueError, KeyError) as error:
        raise BrokenTrace(f"the profiler wrote no whole trace ({error}); is the disk full?") from error
    return content


def mend(run: Path) -> list[dict[str, Any]]:
    """The events of a run's trace, which from now on nest and begin at 0 in its file as well.

    torch counts µs from some time long ago: of 2⁴² and more the floats that JSON's readers make miss whole ns.
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
    mended: list[dict[str, Any]] = read(run)["traceEvents"]
    return mended


def nest(events: Sequence[dict[str, Any]]) -> None:
    """Cut what begins or ends inside a Python call that it crosses, such as a step, at the end of that call.

    The slices of a thread have to nest: Perfetto drops one that crosses another. But torch enters and leaves a step, and some
    of what a compiler names, inside Python calls that it records as well. Times are whole ns.
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
    """Whether an event is a step of the profiler's schedule, as the host saw it."""
    return bool(event.get("cat") == "user_annotation" and event["name"].startswith("ProfilerStep#"))


def median_step(events: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The events of the step of median duration out of `count`, and all of the GPU."""
    steps = sorted((event for event in events if is_step(event)), key=lambda event: event["dur"])
    if len(steps) != count:
        raise BrokenTrace(f"the trace holds {len(steps)} steps, not {count}")
    start = steps[count // 2]["ts"]
    end = start + steps[count // 2]["dur"]
    return [event for event in events if event.get("cat") in ON_DEVICE or start <= event.get("ts", end) < end]


def operators(events: Iterable[Mapping[str, Any]]) -> dict[str, Operator]:
    """The operators of a Chrome trace by name; what a step does outside of them is `OUTSIDE`."""
    found: defaultdict[str, Operator] = defaultdict(Operator)
    names: dict[int | None, str] = {}  # by the number that also stands at the kernels that the operator starts
    running: defaultdict[tuple[Any, Any], list[tuple[float, Operator]]] = defaultdict(list)  # per thread, with their ends
    timed = [event for event in events if event["ph"] == "X" or event["name"] == "[memory]"]
    for event in sorted(timed, key=lambda event: (event["ts"], -event.get("dur", 0))):
        thread = running[event["pid"], event["tid"]]
        while thread and thread[-1][0] <= event["ts"]:
            thread.pop()
        if event["name"] == "[memory]":
            # Freeing is left out: a tensor goes at the end of its life, in whichever operator that may be.
            if thread and event["args"]["Bytes"] > 0:
                thread[-1][1].allocated += event["args"]["Bytes"]
        elif is_step(event) or event["cat"] == "cpu_op":
            name = OUTSIDE if is_step(event) else event["name"]
            operator = found[name]
            if thread:
                thread[-1][1].host -= event["dur"]
            # As in TensorBoard, an overload that calls another of the same name is one call.
            operator.calls += not (is_step(event) or (thread and thread[-1][1] is operator))
            operator.host += event["dur"]
            thread.append((event["ts"] + event["dur"], operator))
            names[event["args"].get("External id")] = name
    for event in timed:
        if event.get("cat") in ON_DEVICE and (starter := names.get(event["args"].get("External id"))):
            found[starter].device += event["dur"]
    return dict(found)


def total(operators: Iterable[Operator]) -> Operator:
    """Several operators as one."""
    result = Operator()
    for each in operators:
        result.calls += each.calls
        result.host += each.host
        result.device += each.device
        result.allocated += each.allocated
    return result
