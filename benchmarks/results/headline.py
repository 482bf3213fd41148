"""The README's table of speeds: six cases, TailDropout beside `nn.Dropout`, a column for each machine that has a record."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# The cases shown, in order, and what the table calls them.
CASES = {
    "1024x512-f32-train": "the layer, forward and backward, 1024 × 512, float32",
    "8192x768-bf16-train": "the layer, forward and backward, 8192 × 768, bfloat16",
    "8192x768-f32-fwd-compiled": "the layer under `torch.compile`, forward, 8192 × 768, float32",
    "8x16-f32-train": "the layer, forward and backward, 8 × 16, float32",
    "transformer-f32-step": "a training step of a small transformer",
    "feedforward-4096x1024-f32-train": "`TailMLP`, forward and backward, a batch of 4096 with 4096 hidden features",
}
RIVAL = "nn.Dropout"
MISSING = "not measured"


def markdown(records: Sequence[Mapping[str, Any]], duration: Callable[[float], str]) -> str:
    """Render the table: the ratio of the two times, and both times as `duration` writes them, for each case and record."""
    heads = ["time of TailDropout / time of `nn.Dropout`", *map(_machine, records)]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(records)]
    lines += ["| " + " | ".join([label, *(_cell(record, case, duration) for record in records)]) + " |" for case, label in CASES.items()]
    versions = "; ".join(f"{_machine(record)}: torch {record['versions']['torch']}, {record['date'][:10]}" for record in records)
    cuda = "" if any(record["machine"].get("gpu") for record in records) else " CUDA: not measured yet."
    return "\n".join([*lines, "", f"Medians; below 1 TailDropout is faster. {versions}.{cuda}"])


def _machine(record: Mapping[str, Any]) -> str:
    """Name the GPU, or the processor and its cores."""
    machine = record["machine"]
    return str(machine.get("gpu") or f"{machine['cpu']}, {machine['cores']} cores")


def _cell(record: Mapping[str, Any], case: str, duration: Callable[[float], str]) -> str:
    """Show the ratio and both times of a case; on a GPU, of its case for CUDA."""
    stored = record["cases"].get(f"cuda-{case}" if record["machine"].get("gpu") else case, {})
    if RIVAL not in stored.get("ratio", {}):
        return MISSING
    seconds = stored["seconds"]
    return f"**{stored['ratio'][RIVAL][0]:.2g}** ({duration(seconds['TailDropout'])} / {duration(seconds[RIVAL])})"
