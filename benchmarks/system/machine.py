"""The machine as results name it: what decides their speed, and nothing that changes from boot to boot."""

import os
import platform
import re
from pathlib import Path

# As in asv.conf.json, which says why. The C library reads them when a process starts.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "67108864",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}


def cpu() -> str:
    """The processor's model, as far as the system tells it."""
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return " ".join((found.group(1) if found else platform.processor() or platform.machine()).split())


def memory() -> str:
    """Memory in whole GiB: what is reported varies by some pages from boot to boot."""
    try:
        return f"{round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30)} GiB"
    except (AttributeError, ValueError, OSError):
        return "unknown"


def name(device: str = "cpu") -> str:
    """A file name for this machine: its processor and number of cores, or its GPU."""
    if device == "cuda":
        import torch

        model = torch.cuda.get_device_name()
    else:
        model = f"{cpu()} {os.cpu_count()} cores"
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")


def describe(device: str = "cpu") -> dict[str, str]:
    """What a record says about this machine."""
    described = {"name": name(device), "cpu": cpu(), "cores": str(os.cpu_count()), "memory": memory()}
    described["os"] = platform.system()
    if device == "cuda":
        import torch

        described["gpu"] = torch.cuda.get_device_name()
    return described
