"""`python -m taildropout`: print the installed versions and the code in use, for a bug report."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

from . import __version__
from .selection import dispatch

SHAPE = (1024, 512)


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> list[str]:
    found = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def _triton_kernel() -> str:
    if not torch.cuda.is_available():
        return "not in use: torch finds no CUDA device"
    if find_spec("triton") is None:
        return "not in use: Triton is not installed"
    if not dispatch.kernel_works(torch.device("cuda", torch.cuda.current_device())):
        return "not in use: Triton does not work here; the warning above says why"
    return f"in use on GPUs from {dispatch.FUSED_FROM} elements on"


def report() -> str:
    """Return a table as text: versions, devices, and the code chosen for a tensor of shape `SHAPE` on the CPU and on a GPU."""
    lines = {
        "taildropout": __version__,
        "torch": torch.__version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "Triton": _version_of("triton"),
        "torch-pruning": _version_of("torch-pruning"),
        "rows in C": dispatch.why_no_rows or "in use on CPUs",
        "Triton kernel": _triton_kernel(),
        "threads": f"{torch.get_num_threads()}, vectors {torch.backends.cpu.get_cpu_capability()}",
        "devices": ", ".join(["cpu", *_devices()]),
    }
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        k = torch.zeros(SHAPE[0], 1, device=device)
        lines[f"{SHAPE} on {device}"] = dispatch.code_for(torch.empty(SHAPE, device=device), k, 1)
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


if __name__ == "__main__":
    print(report())
