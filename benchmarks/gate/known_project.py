"""Make a small asv project, in pure Python, whose versions differ by a known amount of work.

Its package has a function per kind of work, each of which passes through a loop `PASSES` times. The versions are the tags of
VERSIONS in a git repository; they differ in `PASSES` and in nothing else. How much more work one version does than another is
found by counting the instructions of Python's virtual machine, not by a clock.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from ..system.git import git
from .environments import Environment
from .guarded import run_logged

VERSIONS = {"base": 200, "same": 200, "slower": 210}  # tag -> PASSES
EFFECT = 0.05  # of slower against base
KINDS = ("interpreter", "allocation", "memory")
NAMES = {f"work.time_{kind}": kind for kind in KINDS}  # benchmark -> kind of its work
PATIENCE = 60.0  # seconds to count

PACKAGE = '''
"""A function for each kind of work; its duration is proportional to PASSES."""
PASSES = {passes}
BLOCK, BLOCKS = 65_536, 16  # source and target together: 2 MiB, more than most second-level caches hold
SOURCE, TARGET = (memoryview(bytearray(b"x" * BLOCK * BLOCKS)) for _ in range(2))


def interpreter():
    total = 0
    for _ in range(PASSES):
        for number in range(40):
            total += number & 3
    return total


def allocation():
    kept = None
    for _ in range(PASSES):
        kept = [dict(number=number) for number in range(12)]
    return kept


def memory():
    for number in range(PASSES):
        start = number % BLOCKS * BLOCK
        TARGET[start : start + BLOCK] = SOURCE[start : start + BLOCK]
'''

COUNTING = f"""
import json, sys
import known

def by_monitoring(function, note):  # Python 3.12 and newer, where the other way sees nothing in some releases
    monitoring = sys.monitoring
    tool, instruction = monitoring.PROFILER_ID, monitoring.events.INSTRUCTION
    monitoring.use_tool_id(tool, "count")
    monitoring.register_callback(tool, instruction, note)
    monitoring.set_events(tool, instruction)
    try:
        function()
    finally:
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)

def by_tracing(function, note):
    def trace(frame, event, argument):
        frame.f_trace_opcodes = True
        if event == "opcode":
            note()
        return trace
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(None)

def count(function):
    instructions = 0
    def note(*place):
        nonlocal instructions
        instructions += 1
    (by_monitoring if hasattr(sys, "monitoring") else by_tracing)(function, note)
    return instructions

print(json.dumps({{kind: count(getattr(known, kind)) for kind in {KINDS!r}}}))
"""

CONFIG = {
    "version": 1,
    "project": "known",
    "repo": ".",
    "environment_type": "virtualenv",
    "benchmark_dir": "suite",
    "build_command": [],
    # One file is copied, so that nothing is needed of a package index and a version is built within a second.
    "install_command": ["""python -c "import shutil, sysconfig; shutil.copy('known.py', sysconfig.get_path('purelib'))" """],
}
AUTHOR = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in
          (("NAME", "gate"), ("EMAIL", "gate@localhost"), ("DATE", "2026-01-01T00:00:00+00:00"))}  # fmt: skip


def make_project(folder: Path) -> Path:
    """Make the repository in `folder`, which must not exist; return the folder, which holds asv.conf.json."""
    (folder / "suite").mkdir(parents=True)
    (folder / "asv.conf.json").write_text(json.dumps(CONFIG))
    (folder / "suite" / "__init__.py").write_text("")
    functions = "".join(f"\n\ndef time_{kind}():\n    known.{kind}()\n" for kind in KINDS)
    (folder / "suite" / "work.py").write_text(f"import known\n{functions}")
    git("init", "--quiet", folder=folder)
    for tag, passes in VERSIONS.items():
        (folder / "known.py").write_text(PACKAGE.format(passes=passes))
        git("add", "--all", folder=folder)
        git("commit", "--quiet", "--allow-empty", "--message", tag, folder=folder, env=AUTHOR)
        git("tag", tag, folder=folder)
    return folder


def count_work(environment: Environment, folder: Path) -> Mapping[str, int]:
    """Return the number of Python's instructions in each benchmark of an installed version: benchmark -> number."""
    output = folder / "work.log"
    output.unlink(missing_ok=True)
    run_logged([str(environment.python), "-c", COUNTING], PATIENCE, folder, environment.env, output)
    counted = json.loads(output.read_text().splitlines()[-1])
    return {name: counted[kind] for name, kind in NAMES.items()}
