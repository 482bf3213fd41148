"""The sums of a trace's events: nesting, self time, time on the GPU, the step that is shown, and broken files."""

import io
import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.profiling import table, trace
from benchmarks.profiling.events import OUTSIDE, BrokenTrace, Operator, median_step, nest, operators, read, repair
from benchmarks.suite.cases import CASES


def assert_nested(found: list[dict[str, Any]]) -> None:
    """Slices of a thread lie in each other or apart, to the ns."""
    threads: defaultdict[Any, list[tuple[int, int, str]]] = defaultdict(list)
    for event in found:
        if event["ph"] == "X":
            assert event["dur"] >= 0
            threads[event["pid"], event["tid"]].append((round(event["ts"] * 1000), -round(event["dur"] * 1000), event["name"]))
    for slices in threads.values():
        ends: list[int] = []
        for start, negative, name in sorted(slices):
            while ends and ends[-1] <= start:
                ends.pop()
            assert not ends or start - negative <= ends[-1], f"{name} crosses another slice"
            ends.append(start - negative)


def span(name: str, ts: float, dur: float, cat: str = "cpu_op", number: int = 0, tid: int = 1) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "pid": 1, "tid": tid, "ts": ts, "dur": dur, "args": {"External id": number}}


def memory(ts: float, count: int) -> dict[str, Any]:
    return {"ph": "i", "cat": "cpu_instant_event", "name": "[memory]", "pid": 1, "tid": 1, "ts": ts, "args": {"Bytes": count}}


def test_what_crosses_a_python_call_is_cut() -> None:
    """As torch does it: a step starts in two calls, one in the other, and ends in a third; an operator starts in a call."""
    found = [
        span("step()", 0, 10, "python_function"),
        span("enter", 4, 3, "python_function"),
        span("ProfilerStep#5", 5, 50, "user_annotation"),
        span("step() again", 50, 10, "python_function"),
        span("enter of op", 20, 5, "python_function"),
        span("crossing", 22.25, 10, "cpu_op"),
        span("inside", 26, 1, "cpu_op"),
        span("on another thread", 0, 7, "user_annotation", tid=2),
        span("crossing there", 5, 7, "user_annotation", tid=2),
        span("memory", 3, 1),
    ]
    nest(found)
    times = {event["name"]: (event["ts"], event["dur"]) for event in found}
    assert times["ProfilerStep#5"] == (10, 40)
    assert times["crossing"] == (25, 7.25)
    assert times["crossing there"] == (5, 7)
    assert times["step()"] == (0, 10)
    assert times["step() again"] == (50, 10)
    assert times["inside"] == (26, 1)
    assert_nested([event for event in found if event["tid"] == 1])


@pytest.mark.parametrize("uptime", [0, 2**42, 2**44], ids=["now", "51 days", "204 days"])
def test_a_trace_nests_to_the_nanosecond_however_long_the_clock_has_run(tmp_path: Path, uptime: int) -> None:
    """Slices that touch: of so many µs the floats near them are up to 4 ns apart."""
    chance, spans = random.Random(0), []
    for number in range(500):
        start, size = 50_000 * number + chance.randrange(999), chance.randrange(2, 20_000)  # ns
        inner = chance.randrange(1, size)
        for name, ts, dur in (("outer", start, size), ("first", start, inner), ("second", start + inner, size - inner)):
            spans.append(
                f'{{"ph": "X", "cat": "cpu_op", "name": "{name}", "pid": 1, "tid": 1, "ts": {microseconds(uptime, ts)}'
            )
            spans[-1] += f', "dur": {microseconds(0, dur)}}}'
    text = f'{{"baseTimeNanoseconds": 5, "traceEvents": [{", ".join(spans)}]}}'
    (tmp_path / "worker.pt.trace.json").write_text(text)
    found = repair(tmp_path)
    assert_nested(found)
    assert min(event["ts"] for event in found) == 0
    assert_nested(read(tmp_path)["traceEvents"])
    first = json.loads(spans[0])["ts"]
    assert read(tmp_path)["baseTimeNanoseconds"] == pytest.approx(5 + first * 1000, rel=1e-15)


def microseconds(whole: int, ns: int) -> str:
    return f"{whole + ns // 1000}.{ns % 1000:03}"


EVENTS = [
    span("at once", 10, 2, number=7),
    span("inner", 20, 10, number=3),
    span("ProfilerStep#5", 0, 100, "user_annotation", 1),
    span("python", 5, 60, "python_function"),
    span("outer", 10, 40, number=2),
    span("inner", 30, 5, number=4),
    span("inner", 60, 10, number=5),
    span("elsewhere", 15, 1000, tid=2, number=6),
    {"ph": "M", "name": "process_name", "pid": 1, "tid": 0},
    memory(12, 100),
    memory(22, 7),
    memory(25, -7),
    memory(80, 1),
    memory(200, 9),
]


def test_self_time_is_that_of_an_operator_without_those_it_calls() -> None:
    assert operators(EVENTS) == {
        OUTSIDE: Operator(0, 100 - 40 - 10, 0, 1),
        "outer": Operator(1, 40 - 2 - 10 - 5, 0, 100),
        "at once": Operator(1, 2),
        "inner": Operator(3, 10 + 5 + 10, 0, 7),
        "elsewhere": Operator(1, 1000),
    }


def test_time_on_the_gpu_is_that_of_the_operator_that_started_it() -> None:
    gpu = [
        span("matmul", 40, 300, "kernel", 2, tid=7),
        span("copy", 400, 20, "gpu_memcpy", 3, tid=7),
        span("fill", 500, 30, "gpu_memset", 2, tid=7),
        span("cudaLaunchKernel", 12, 3, "cuda_runtime", 2),
        span("of another step", 600, 40, "kernel", 99, tid=7),
        span("ProfilerStep#5", 40, 500, "gpu_user_annotation", 1, tid=7),
    ]
    found = operators(EVENTS + gpu)
    assert {name: each.device for name, each in found.items() if each.device} == {"outer": 330, "inner": 20}
    assert found["outer"].host == 23
    text = io.StringIO()
    Console(file=text, width=120).print(table.render({"TailDropout": found, "copy": {}}, CASES["cuda-8x16-f32-fwd"]))
    (row,) = [line for line in text.getvalue().splitlines() if "outer" in line]
    assert row.replace(" ", "").split("│")[1:6] == ["outer", "1", "23.0µs", "330µs", "100B"]
    assert text.getvalue().count("on the GPU") == 2


def test_one_step_is_shown_the_one_of_median_duration() -> None:
    steps = []
    for number in range(trace.STEPS):
        dur = 10 + (number * 4) % trace.STEPS
        steps += [
            span(f"ProfilerStep#{number}", 1000 * number, dur, "user_annotation"),
            span(f"op{number}", 1000 * number + 1, 1),
        ]
    kernel = span("kernel", 123456, 1, "kernel")
    median = next(n for n in range(trace.STEPS) if (n * 4) % trace.STEPS == trace.STEPS // 2)
    shown = median_step([{"ph": "M", "name": "process_name", "pid": 1, "tid": 0}, *steps, kernel], trace.STEPS)
    assert [event["name"] for event in shown] == [f"ProfilerStep#{median}", f"op{median}", "kernel"]
    with pytest.raises(BrokenTrace, match=f"holds {trace.STEPS - 1} steps"):
        median_step(steps[2:], trace.STEPS)


@pytest.mark.parametrize("text", ['{"traceEvents": [{"ts": NaN}]}', '{"traceEvents": [', '{"name": "a\nb"}', "{}"])
def test_a_broken_trace_is_noticed(tmp_path: Path, text: str) -> None:
    (tmp_path / "worker.pt.trace.json").write_text(text)
    with pytest.raises(BrokenTrace, match="no complete trace"):
        read(tmp_path)


def test_a_trace_that_was_not_written_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(BrokenTrace, match="no complete trace"):
        read(tmp_path)
