"""Describe the machine by properties that decide its speed and do not change from boot to boot, and measure how busy it is."""

import os
import platform
import re
import shutil
from pathlib import Path

# The same variables as in asv.conf.json, which gives the reasons. The C library reads its own when a process starts.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "67108864",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}


def cpu() -> str:
    """Return the model name of the processor, or its architecture if the system does not tell the model."""
    try:
        match = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return " ".join((match.group(1) if match else platform.processor() or platform.machine()).split())


def memory() -> str:
    """Return the size of the main memory as text, in whole GiB because it varies by some pages from boot to boot."""
    try:
        return f"{round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30)} GiB"
    except (AttributeError, ValueError, OSError):
        return "unknown"


def name(device: str = "cpu") -> str:
    """Return a name of this machine that can be part of a file name: processor and number of cores, or for "cuda" the GPU."""
    if device == "cuda":
        import torch

        model = torch.cuda.get_device_name()
    else:
        model = f"{cpu()} {os.cpu_count()} cores"
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")


def describe(device: str = "cpu") -> dict[str, str]:
    """Return name, processor, cores, memory, operating system and for "cuda" the GPU, as a record stores them."""
    described = {"name": name(device), "cpu": cpu(), "cores": str(os.cpu_count()), "memory": memory()}
    described["os"] = platform.system()
    if device == "cuda":
        import torch

        described["gpu"] = torch.cuda.get_device_name()
    return described


def governor() -> str:
    """Return the frequency governor of the first core, such as "performance", or "unknown"."""
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return "unknown"


def stolen_ticks() -> int:
    """Return the steal time since boot, in clock ticks: the host gave it to other guests. 0 if the system does not tell."""
    try:
        return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])
    except (OSError, IndexError, ValueError):
        return 0


def busy_seconds() -> float:
    """Return the seconds that all cores together were busy since boot, steal time included; 0 if the system does not tell."""
    try:
        user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def cores(most: int) -> list[int]:
    """Return the numbers of at most `most` cores to which this process can pin others; [] if pinning is impossible."""
    if shutil.which("taskset") is None or not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))[:most]
