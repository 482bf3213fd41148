"""Prepare and check the cases that train on several devices or in several processes.

Run as a script, this file is one process of the DistributedDataParallel case and imports only torch:
`python distributed.py RANK STORE NAME P PACKAGE ROWS WIDTH`. It trains one step per line that it reads.
"""

import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING or __package__:
    from . import layer, model
    from .building import build_layer
    from .case import Case, NotAvailable

PROCESSES = 2


def make_data_parallel(case: "Case", package: ModuleType | None) -> Callable[[], torch.Tensor]:
    """Prepare and check a step under `nn.DataParallel` over all GPUs; see `prepare.make`."""
    if torch.cuda.device_count() < 2:
        raise NotAvailable("DataParallel needs two GPUs")
    network = model.build(case, package).to(case.device)
    x = torch.randn(case.shape, device=case.device)
    run = model.training_step(network, nn.DataParallel(network), x)
    for _ in range(3):
        loss = run()
    layer.require(bool(torch.isfinite(loss)), case, f"the loss is {loss.item()}")
    model.check_inside(case, network, x)
    return run


def make_ddp(case: "Case", package: ModuleType | None) -> Callable[[], list[float]]:
    """Prepare and check a step of two gloo processes; return a callable that returns each process's sum of the weights.

    The processes live as long as the callable. See `prepare.make`.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        raise NotAvailable("this torch has no gloo")
    if case.layer == "TailDropout":
        build_layer(case, package)  # a version without the layer is n/a here, instead of a broken pipe
    folder = tempfile.TemporaryDirectory()
    where = str(Path(package.__file__).parent) if package is not None and package.__file__ else ""
    words = [f"{folder.name}/store", case.layer, str(case.p), where, *map(str, case.shape)]
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for rank in range(PROCESSES)
    ]

    def run() -> list[float]:
        for worker in workers:
            pipe(worker.stdin).write("step\n")
            pipe(worker.stdin).flush()
        answers = [pipe(worker.stdout).readline() for worker in workers]
        if not all(answers):
            raise RuntimeError("a process of the DDP case ended; its error stands above")
        return [float(answer) for answer in answers]

    weakref.finalize(run, stop, workers, folder)
    for _ in range(3):
        weights = run()
    layer.require(len(set(weights)) == 1, case, f"the weights of the processes differ after three steps: {weights}")
    return run


def pipe(stream: IO[str] | None) -> IO[str]:
    """Return `stream`, which is not None; the assertion tells the type checker."""
    assert stream is not None
    return stream


def stop(workers: list[subprocess.Popen[str]], folder: "tempfile.TemporaryDirectory[str]") -> None:
    """Close the processes' standard input, at which they exit; kill those that live 10 s later. Remove the folder."""
    for worker in workers:
        pipe(worker.stdin).close()
    for worker in workers:
        try:
            worker.wait(10)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        pipe(worker.stdout).close()
    folder.cleanup()


def work(rank: str, store: str, name: str, p: str, folder: str, rows: str, width: str) -> None:
    """Run one process: for each line of input train a step and print a sum of the weights."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=int(rank), world_size=PROCESSES)
    sys.path.insert(0, str(Path(folder).resolve().parent))
    make_layer = {"nn.Dropout": nn.Dropout, "copy": nn.Identity}.get(name) or import_module("taildropout").TailDropout
    torch.manual_seed(0)
    size = int(width)
    net = nn.Sequential(nn.Linear(size, size), nn.ReLU(), make_layer(float(p)), nn.Linear(size, 10))
    parallel = nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=1e-3)
    torch.manual_seed(int(rank) + 1)
    x = torch.randn(int(rows), size)
    for _ in sys.stdin:
        optimizer.zero_grad()
        parallel(x).square().mean().backward()
        optimizer.step()
        print(sum(weight.detach().double().sum().item() for weight in net.parameters()), flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    work(*sys.argv[1:])
