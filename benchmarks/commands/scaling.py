"""Measure how a training step with TailDropout scales over GPUs, or over two processes on a CPU, under torchrun.

    torchrun --standalone --nproc-per-node=gpu -m benchmarks.commands.scaling          all GPUs of this machine
    torchrun --standalone --nproc-per-node=2 -m benchmarks.commands.scaling            two processes, on a CPU
    torchrun --nnodes=2 --nproc-per-node=gpu --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 -m benchmarks.commands.scaling
                                                                              the same command on each of two nodes

Prints a line per strategy, layer and number of processes: the median time of a step, and the efficiency. The efficiency is the
time with one process over the time with all processes; the number of rows per process is the same. DataParallel is measured on
the first node only. The layer `copy` is the block without dropout.
"""

from importlib.util import find_spec
from pathlib import Path

from ..suite import scaling


def main() -> None:
    """Measure as one of torchrun's processes; the first process prints the table."""
    spec = find_spec("taildropout")
    if spec is None or spec.origin is None:
        raise SystemExit("Could not measure: taildropout is not installed; run 'make test' or pip install it first")
    results = scaling.work(str(Path(spec.origin).parent))
    if results:
        print(f"{'strategy':14}{'layer':13}{'processes':>9}{'step':>12}{'efficiency':>12}")
    for result in results:
        efficiency = 1 / result["inverse efficiency"]
        milliseconds = 1e3 * result["seconds"]
        print(
            f"{result['strategy']:14}{result['layer']:13}{result['processes']:9}{milliseconds:9.2f} ms{efficiency:12.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
