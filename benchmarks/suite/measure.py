"""Measure a prepared case: time interleaved with others, instructions, bytes, kernel launches."""

import gc
import json
import random
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any

import torch

from .cases import NotAvailable

Run = Callable[[], Any]
Block = Callable[[Run, int], float]  # returns the nanoseconds that a number of calls takes

BLOCK_NS = 300_000  # least duration of a block of calls: reading the clock is negligible
CUDA_BLOCK_NS = 3_000_000  # the same on a GPU, whose wait for the launch of the first call is negligible as well
MIN_ROUNDS, MAX_ROUNDS = 9, 200
FLUSHED_BYTES = 1 << 28  # larger than the last-level cache of any GPU


def interleave(runs: Mapping[str, Run], seconds: float = 1.5, device: str = "cpu", seed: int = 0) -> dict[str, list[float]]:
    """Return the seconds per call of each run, one figure per round; each round calls all runs in random order.

    Rounds go on for `seconds`, but there are 9 to 200 of them.

    Figures of one round have the same index, so they can be paired: a disturbance that lasts longer than a round
    slows all runs alike. The first call of a block finds the caches as another run left them. So all blocks have the same
    number of calls; otherwise a slow run with a call per block would pay for this at every call, and a fast one would not.
    """
    block, least = (on_cuda(), CUDA_BLOCK_NS) if device == "cuda" else (on_cpu, BLOCK_NS)
    calls = max(calls_per_block(run, block, least) for run in runs.values())
    order, shuffle = list(runs), random.Random(seed).shuffle
    figures: dict[str, list[float]] = {name: [] for name in runs}
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = perf_counter() + seconds
        for done in range(MAX_ROUNDS):
            if done >= MIN_ROUNDS and perf_counter() > end:
                break
            shuffle(order)
            for name in order:
                figures[name].append(block(runs[name], calls) * 1e-9 / calls)
    finally:
        if collecting:
            gc.enable()
    return figures


def on_cpu(run: Run, calls: int) -> float:
    """Return the nanoseconds that `calls` calls take on the CPU."""
    start = perf_counter_ns()
    for _ in range(calls):
        run()
    return perf_counter_ns() - start


def on_cuda() -> Block:
    """Return a function that measures the nanoseconds of `calls` calls on the GPU: between two events, with a flushed cache.

    During the flush the host runs ahead, so work that takes the GPU longer than the host is measured as GPU time alone.
    """
    cache = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device="cuda")

    def block(run: Run, calls: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        cache.zero_()
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e6

    return block


def calls_per_block(run: Run, block: Block, least: float = BLOCK_NS) -> int:
    """Return the number of calls for which a block lasts at least `least` nanoseconds."""
    block(run, 2)
    calls = 1
    while (taken := block(run, calls)) < least:
        calls = max(calls + 1, min(calls * 10, int(1.2 * calls * least / max(taken, 1))))
    return calls


def ratios(figures: Mapping[str, list[float]], over: str, of: str = "TailDropout") -> list[float]:
    """Return the paired ratios, time of `of` divided by time of `over`: below 1, `of` is faster."""
    return [a / b for a, b in zip(figures[of], figures[over], strict=True)]


def summary(values: list[float]) -> list[float]:
    """Return the median, the lower and the upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return [middle, low, high]


def instructions(run: Run, repeats: int = 15) -> float:
    """Return the median number of user-mode instructions of one call, on the calling thread."""
    counter = getattr(torch._C, "_instruction_counter", None)
    counts = []
    for _ in range(repeats if counter is not None else 0):
        handle = counter.start()  # type: ignore[union-attr]
        if handle < 0:  # a virtual machine without a hardware counter
            break
        run()
        counts.append(counter.end(handle))  # type: ignore[union-attr]
    if not counts or min(counts) <= 0:
        raise NotAvailable("this kernel counts no instructions")
    return float(statistics.median(counts))


def saved_bytes(run: Run, besides: Iterable[torch.Tensor] = ()) -> int:
    """Return the bytes that autograd keeps from forward to backward. Each storage counts once, and those of `besides` never.

    The input of a case counts only if autograd keeps it: a cost that `nn.Dropout` does not have.
    """
    anyway = {tensor.untyped_storage().data_ptr() for tensor in besides}
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(size for address, size in storages.items() if address not in anyway)


def peak_bytes(run: Run, device: str) -> int:
    """Return the peak of the bytes that one call has allocated and not freed, on "cpu" or "cuda"."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    total = peak = 0
    for event in traced(run, [torch.profiler.ProfilerActivity.CPU], memory=True):
        if event.get("name") == "[memory]":
            total += event["args"]["Bytes"]
            peak = max(peak, total)
    return peak


def launches(run: Run) -> int:
    """Return the number of kernels, copies and fills that one call starts on the GPU. Raises NotAvailable without one."""
    if not torch.cuda.is_available():
        raise NotAvailable("this machine has no CUDA device")
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    events = traced(run, activities)
    return sum(event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset") for event in events)


def traced(run: Run, activities: list[Any], memory: bool = False) -> list[dict[str, Any]]:
    """Return the events of one call's Chrome trace, ordered by time."""
    with torch.profiler.profile(activities=activities, profile_memory=memory) as profiler:
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    return sorted(events, key=lambda event: event.get("ts", 0))
