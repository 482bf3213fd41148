"""Count user-mode instructions: by the processor where the kernel allows it, else by valgrind's callgrind.

Both are called through private names of torch, which may be missing. Without torch, nothing counts.
"""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from .workload import Run

CALLS = 10  # per count
HARDWARE, CALLGRIND = "hardware counter", "callgrind"


@cache
def available() -> str | None:
    """Return what counts instructions on this machine, HARDWARE or CALLGRIND; None if nothing does."""
    code = "import torch; c = torch._C._instruction_counter; h = c.start(); raise SystemExit(h < 0 or c.end(h) <= 0)"
    if subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0:
        return HARDWARE
    code = "import torch; torch._C._valgrind_toggle_and_dump_stats"
    tools = shutil.which("valgrind") and shutil.which("callgrind_control")
    usable = tools and subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    return CALLGRIND if usable else None


def valgrind(folder: Path) -> tuple[list[str], str]:
    """Return the words that put before a command run it under callgrind, and the prefix of the files that it will write.

    The files lie in a new folder under `folder`, so that the file of an earlier process is never read.
    """
    own = mkdtemp(prefix="callgrind-", dir=folder)
    output = f"{own}/counts"
    words = ["valgrind", f"--vgdb-prefix={own}/vgdb", "--quiet", "--tool=callgrind"]
    return [*words, "--instr-atstart=no", "--collect-atstart=no", f"--callgrind-out-file={output}"], output


def hardware(run: Run) -> float:
    """Return the instructions per call that the processor counts on this thread.

    Raises NotImplementedError if the kernel does not let it count.
    """
    import torch

    counter = torch._C._instruction_counter
    handle = counter.start()
    if handle < 0:
        raise NotImplementedError("this kernel counts no instructions")
    for _ in range(CALLS):
        run()
    count = counter.end(handle)
    if count <= 0:
        raise NotImplementedError("this kernel counts no instructions")
    return float(count) / CALLS


@cache  # once per process, since callgrind numbers its files
def callgrind(output: str) -> Callable[[Run], float]:
    """Return a function that counts the instructions per call, in a process that was started by the words of `valgrind`.

    callgrind writes its Nth count to the file `output`.N. Instrumentation starts here and not with the process, because
    importing torch under it takes a minute.
    """
    import torch

    switch = ["callgrind_control", f"--vgdb-prefix={Path(output).parent}/vgdb", "--instr=on", str(os.getpid())]
    subprocess.run(switch, check=True, stdout=subprocess.DEVNULL)
    numbers = itertools.count(1)

    def count(run: Run) -> float:
        torch._C._valgrind_toggle()
        for _ in range(CALLS):
            run()
        torch._C._valgrind_toggle_and_dump_stats()
        lines = Path(f"{output}.{next(numbers)}").read_text().splitlines()
        return float(next(line for line in lines if line.startswith("totals:")).split()[1]) / CALLS

    return count
