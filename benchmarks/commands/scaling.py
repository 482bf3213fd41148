"""How a training step with TailDropout scales over GPUs, or over two processes on a CPU, under torchrun.

    torchrun --standalone --nproc-per-node=gpu -m benchmarks.commands.scaling          all GPUs of this machine
    torchrun --standalone --nproc-per-node=2 -m benchmarks.commands.scaling            two processes, on a CPU
    torchrun --nnodes=2 --nproc-per-node=gpu --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 -m benchmarks.commands.scaling
                                                                              the same command on each of two nodes

It prints a line per strategy, layer and number of processes: the median step and the efficiency, which is the time of one
process over that of all, each having the same number of rows. DataParallel is measured within the first node. `copy` is the
block without dropout.
"""

from importlib.util import find_spec
from pathlib import Path

from ..suite import scaling


def main() -> None:
    """Measure as one of torchrun's processes; the first prints."""
    spec = find_spec("taildropout")
    if spec is None or spec.origin is None:
        raise SystemExit("taildropout is not installed: run 'make test' or pip install it first")
    found = scaling.work(str(Path(spec.origin).parent))
    if found:
        print(f"{'strategy':14}{'layer':13}{'processes':>9}{'step':>12}{'efficiency':>12}")
    for each in found:
        efficiency = 1 / each["inverse efficiency"]
        row = f"{each['strategy']:14}{each['layer']:13}{each['processes']:9}{each['seconds'] * 1e3:9.2f} ms{efficiency:12.2f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
