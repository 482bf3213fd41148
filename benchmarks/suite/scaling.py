"""How does a training step scale with the number of processes? Weak scaling: each process (GPU) has the same number of rows.

Run as a script by torchrun, this file is one of the processes and imports only torch and the given package:
`torchrun --standalone --nproc-per-node 2 benchmarks/suite/scaling.py taildropout`. It measures with 1, 2, 4 … and all
processes; `benchmarks/commands/scaling.py` says how to use several nodes.
"""

import json
import os
import statistics
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn

if TYPE_CHECKING or __package__:
    from .cases import NotAvailable
    from .subject import package

STRATEGIES = ("ddp", "fsdp2", "data_parallel")
LAYERS = ("TailDropout", "copy")
WARM_UP, STEPS = 5, 30
SIZES = {"cpu": (512, 256), "cuda": (8192, 2048)}  # rows per process, features; the hidden features are four times as many

Found = dict[str, Any]


class Scaling:
    """How many times as long does a step take in all processes as in one? 1 is perfect; the inverse is the efficiency.

    `copy` is the block without dropout: the difference between both layers is the cost that TailDropout adds.
    """

    params = (STRATEGIES, LAYERS)
    param_names = ("strategy", "layer")
    version = "1"
    unit = "time over that of one process"

    def track_inverse_efficiency(self, strategy: str, layer: str) -> float:
        for found in measured():
            if (found["strategy"], found["layer"], found["processes"]) == (strategy, layer, processes()):
                return float(found["inverse efficiency"])
        raise NotAvailable(f"{strategy} needs two {'GPUs' if strategy == 'data_parallel' else 'processes'} or more")


def processes() -> int:
    """Return the number of processes to start: one per GPU, or two on a CPU."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 2


_measured: list[Found] = []


def measured() -> list[Found]:
    """Run this file under torchrun at the first call, and return its figures, also at later calls.

    Raises NotAvailable without gloo.
    """
    if not _measured:
        if not (dist.is_available() and dist.is_gloo_available()):
            raise NotAvailable("this torch has no gloo")
        folder = Path(package().__file__ or "").parent
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes()}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*torchrun, __file__, str(folder)], check=True, env=environment, stdout=subprocess.PIPE, text=True
        )
        _measured.extend(json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    return _measured


def work(folder: str) -> list[Found]:
    """Measure as one of the processes of torchrun; return the figures in the process of rank 0, [] in the others.

    `folder` is that of the package, and holds its `__init__.py`.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)  # warnings of torch's parallel modules
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    dist.init_process_group("nccl" if cuda else "gloo")
    world, found = dist.get_world_size(), []
    sys.path.insert(0, str(Path(folder).resolve().parent))
    make_layer = {"TailDropout": import_module("taildropout").TailDropout, "copy": nn.Identity}
    alone: dict[tuple[str, str], float] = {}
    for count in sorted({2**power for power in range(world.bit_length()) if 2**power <= world} | {world}):
        mesh = dist.device_mesh.DeviceMesh(device.type, torch.arange(count))
        for strategy in STRATEGIES:
            takes_part = dist.get_rank() < (1 if strategy == "data_parallel" else count)
            possible = strategy != "data_parallel" or count <= torch.cuda.device_count()
            for layer in LAYERS if possible else ():
                dist.barrier()
                if takes_part:
                    seconds = seconds_of_steps(strategy, make_layer[layer], mesh, device, count)
                    alone.setdefault((strategy, layer), seconds)
                    found.append({"strategy": strategy, "layer": layer, "processes": count, "seconds": seconds})
                    found[-1]["inverse efficiency"] = seconds / alone[strategy, layer]
    dist.barrier()
    first = dist.get_rank() == 0
    dist.destroy_process_group()
    return found if first else []


def seconds_of_steps(strategy: str, make_layer: Any, mesh: Any, device: torch.device, count: int) -> float:
    """Return the median seconds of a training step of this process, with `count` processes (GPUs for data_parallel)."""
    rows, width = SIZES[device.type]
    torch.manual_seed(0)
    tail = make_layer(0.5)
    net = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), tail, nn.Linear(4 * width, width)).to(device)
    model: nn.Module = net
    if strategy == "ddp":
        model = nn.parallel.DistributedDataParallel(net, process_group=mesh.get_group())
    elif strategy == "fsdp2":
        from torch.distributed.fsdp import fully_shard

        fully_shard(net, mesh=mesh)
    else:
        model, rows = nn.DataParallel(net, list(range(count))), rows * count
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
    torch.manual_seed(dist.get_rank() + 1)  # each process has its own rows and its own k
    x = torch.randn(rows, width, device=device)
    times = []
    for _ in range(WARM_UP + STEPS):
        start = perf_counter()
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(perf_counter() - start)
    return statistics.median(times[WARM_UP:])


if __name__ == "__main__":
    for line in work(*sys.argv[1:]):
        print(json.dumps(line), flush=True)
