"""Measure commits with asv and print how TailDropout compares with nn.Dropout and with a copy.

    python -m benchmarks run                     the quick cases on HEAD
    python -m benchmarks run BASE..HEAD          on every commit of a range, newest first
    python -m benchmarks run --case 8x16-f32-fwd --again
    python -m benchmarks run --record            this working tree, in one process, without asv

The quick profile takes at most 5 minutes a commit on two cores, the full one at most 60. What a commit has is not
measured again without --again, so that an interrupted run goes on where it was. The suite is that of the working
tree; the package is that of the commit. Exit code: 0 measured, 1 a benchmark failed, 2 could not measure.
"""

import argparse
import atexit
import difflib
import fcntl
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from .. import ROOT
from ..results import pinned
from ..results import stored as results
from ..results.stored import Entry, Figure
from ..results.tables import RECORDS, Row, markdown, record_rows, record_title, render
from ..system import machine
from ..system.errors import CannotMeasure
from ..system.files import write

if TYPE_CHECKING:
    from ..suite.cases import Case

CHUNK = 24  # asv stores what it measured when it ends, so this many processes are what an interruption can cost
MAX_NAMED = 20  # of failures; where all fail, the reason is one
QUICK_MODULES = "counts", "process", "quality"  # beside speed and history
QUICK_COUNTS = "8x16-f32-train", "1024x512-f32-train", "0.5"  # parameters of the counts that are taken in quick
ENVIRONMENTS = ROOT / ".asv" / "env"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("commits", nargs="?", default="HEAD", metavar="COMMITS", help="a commit, or a range BASE..HEAD")
    parser.add_argument("--profile", choices=("quick", "full"), default="quick")
    parser.add_argument("--case", action="append", metavar="NAME", help="only this case; may be given again")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="only this device's cases; else those of all there are")
    parser.add_argument("--again", action="store_true", help="measure also what the commit has already")
    parser.add_argument("--markdown", metavar="FILE", help="write the table there as well; - is standard output")
    parser.add_argument(
        "--record", action="store_true", help="in one process; all cases of a profile are stored in benchmarks/records"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of --record: time per case (default %(default)s)")


def main(arguments: argparse.Namespace) -> int:
    """Measure and print the table."""
    console = Console(stderr=arguments.markdown == "-", width=None if sys.stdout.isatty() else 140)
    try:
        names = select(arguments)
        return run_record(arguments, names, console) if arguments.record else run_asv(arguments, names, console)
    except (CannotMeasure, results.BrokenResult) as error:
        print(f"Could not measure: {error}", file=sys.stderr)
        return 2


def select(arguments: argparse.Namespace) -> list[str]:
    """The names of the cases that are asked for."""
    from ..suite import cases

    for name in arguments.case or ():
        known_case(name)
    known = arguments.case or cases.names(quick=arguments.profile == "quick")
    return [name for name in known if arguments.device in (None, cases.CASES[name].device)]


def known_case(name: str) -> "Case":
    """The case of this name; CannotMeasure that names those near it if there is none."""
    from ..suite.cases import CASES

    if name not in CASES:
        near = difflib.get_close_matches(name, CASES, 5, 0.4)
        hint = f"near it are {', '.join(near)}" if near else "README.md's table of speeds lists them; one is 1024x512-f32-train"
        raise CannotMeasure(f"there is no case {name!r}; {hint}")
    return CASES[name]


def run_record(arguments: argparse.Namespace, names: Sequence[str], console: Console) -> int:
    """Measure this tree's package in one process and store the record."""
    from ..results import record

    if not 0 < arguments.seconds < float("inf"):
        raise CannotMeasure(f"--seconds={arguments.seconds} is no time to measure for; give a number above 0")
    if arguments.commits != "HEAD":
        raise CannotMeasure("--record measures the working tree; leave the commits out, or leave out --record")
    record.with_environment()
    device = arguments.device or "cpu"
    if device == "cuda" and not has_cuda():
        raise CannotMeasure("torch finds no CUDA device")
    if importlib.util.find_spec("taildropout") is None:
        raise CannotMeasure("there is no package `taildropout`; run this in the project's folder")
    from ..suite.cases import CASES

    chosen = [name for name in names if CASES[name].device == device]
    found = record.record(chosen, device, arguments.seconds, console)
    rows = record_rows(found)
    show(rows, record_title(found), arguments, console)
    failures = [f"{name}: {stored['error']}" for name, stored in found["cases"].items() if "error" in stored]
    if not any(row.ratio for row in rows) or failures:
        print("\n".join(["Nothing is stored, since not all was measured.", *failures]), file=sys.stderr)
        return 1
    if arguments.case:
        console.print("Nothing is stored: a record holds all cases of a profile, measured together.")
    else:
        stored = record.store(found, RECORDS).relative_to(ROOT)
        console.print(f"Stored in {stored}. Next: python -m benchmarks table", soft_wrap=True)
    return 0


def run_asv(arguments: argparse.Namespace, names: Sequence[str], console: Console) -> int:
    """Measure commits with asv; the newest one's table is printed, and each one's failures are."""
    if importlib.util.find_spec("asv") is None:
        raise CannotMeasure("asv is not installed: pip install -e '.[bench]' (or use --record, which needs none)")
    commits = resolve(arguments.commits)
    alone()
    if git("status", "--porcelain", "--untracked-files=no", "--", "taildropout", "pyproject.toml"):
        console.print("[yellow]The working tree has uncommitted changes of the package: asv measures commits, so they "
                      "are not measured (--record does).[/]")  # fmt: skip
    here = machine.describe()
    described = [f"--{key}={here[value]}" for key, value in (("machine", "name"), ("os", "os"), ("cpu", "cpu"))]
    asv("machine", "--yes", *described, "--num_cpu", here["cores"], f"--ram={here['memory']}")
    commits = [commit for commit in commits if has_package(commit, console)]
    if not commits:
        raise CannotMeasure("none of these commits has a package yet")
    if complaint := pinned.lay_out():
        console.print(complaint, soft_wrap=True)
    versions = discover(commits, here["name"])
    asked = [entry for entry in versions if wanted(entry, arguments, names)]
    if not asked:
        raise CannotMeasure("no benchmark measures these cases on this machine")
    worst = 0
    for number, commit in enumerate(commits, 1):
        console.print(f"[bold]Commit {commit[:8]}[/] ({number} of {len(commits)})")
        found = measure(commit, here["name"], asked, versions, arguments.again, console)
        if number == 1:
            show(results.rows(found, names, asked), f"{here['name']}, commit {commit[:8]}", arguments, console)
        worst = max(worst, judge(commit, asked, found))
    console.print("The history as a web page: python -m benchmarks dashboard --serve")
    return worst


def alone() -> None:
    """Hold a lock until this process ends: two runs would make, and so break, one environment."""
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    lock = open(ENVIRONMENTS.parent / "lock", "w")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise CannotMeasure("another run of the suite is under way here; wait for it to end") from None
    atexit.register(lock.close)
    discard_half_made()


def discard_half_made() -> None:
    """Remove environments that an interrupted run left without what asv installs last; asv takes them for whole."""
    for python in ENVIRONMENTS.glob("*/bin/python"):
        probe = [str(python), "-c", "import torch, numpy, setuptools, wheel, asv_runner"]
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            print(f"{python.parents[1].name} was left half made; it is made anew.", file=sys.stderr)
            shutil.rmtree(python.parents[1])


def has_package(commit: str, console: Console) -> bool:
    """Whether a commit can be built; what it lacks is n/a, no failure."""
    present = bool(git("ls-tree", commit, "--", "pyproject.toml"))
    if not present:
        console.print(f"n/a: commit {commit[:8]} has no package yet")
    return present


def discover(commits: Iterable[str], where: str) -> dict[Entry, str]:
    """What the suite holds, with versions. asv looks at it beside an installed package, so one commit must build."""
    for commit in commits:
        if asv("run", "--bench", "just-discover", f"--machine={where}", f"{commit}^!") == 0:
            return results.entries()
    raise CannotMeasure(
        "asv could not build a commit and look at the suite; its message stands above. If its environment was left half made, "
        f"delete {ENVIRONMENTS.relative_to(ROOT)} and run this again"
    )


def measure(
    commit: str, where: str, asked: Sequence[Entry], versions: dict[Entry, str], again: bool, console: Console
) -> dict[Entry, Figure]:
    """Have asv measure what a commit lacks, chunk by chunk, and read what is stored."""
    before = {} if again else results.read(commit, where, versions)
    missing = [entry for entry in asked if entry not in before]
    console.print(f"{len(asked)} figures, {len(asked) - len(missing)} of them measured before", highlight=False)
    for start in range(0, len(missing), CHUNK):
        chunk = missing[start : start + CHUNK]
        patterns = [f"--bench=^{re.escape(str(entry))}$" for entry in chunk]
        console.print(f"Figures {start + 1} to {start + len(chunk)} of {len(missing)}", highlight=False)
        asv("run", "--show-stderr", f"--machine={where}", *patterns, f"{commit}^!")
    return results.read(commit, where, versions)


def wanted(entry: Entry, arguments: argparse.Namespace, names: Sequence[str]) -> bool:
    """Whether an entry of the suite is asked for; those of a device that is not there stay n/a without being started."""
    from ..suite.cases import CASES

    words = [word.strip("'") for word in entry.params]
    case = CASES.get(words[0]) if words else None
    if case is not None and case.device == "cuda" and not has_cuda():
        return False
    module = entry.benchmark.partition(".")[0]
    if arguments.case or module in ("speed", "history"):
        return bool(words) and words[0] in names
    if arguments.device == "cuda":
        return case is not None and case.device == "cuda"
    return arguments.profile == "full" or (module in QUICK_MODULES and (not words or words[0] in QUICK_COUNTS))


def judge(commit: str, asked: Iterable[Entry], found: dict[Entry, Figure]) -> int:
    """The exit code, with a message where a benchmark failed or none gave a number."""
    asked = list(asked)
    failed = [str(entry) for entry in asked if entry not in found]
    if failed:
        more = [f"… and {len(failed) - MAX_NAMED} more"] if len(failed) > MAX_NAMED else []
        message = f"{len(failed)} of {len(asked)} benchmarks failed on {commit[:8]}:"
        print(message, *failed[:MAX_NAMED], *more, sep="\n  ", file=sys.stderr)
        return 1
    if not any(found[entry].measured for entry in asked):
        print(f"Nothing was measured on {commit[:8]}: all of it is n/a.", file=sys.stderr)
        return 2
    return 0


def show(rows: Sequence[Row], title: str, arguments: argparse.Namespace, console: Console) -> None:
    """Print the table, and write it where --markdown says."""
    console.print(render(rows, title))
    if arguments.markdown == "-":
        print(markdown(rows, title))
    elif arguments.markdown:
        write(Path(arguments.markdown), markdown(rows, title) + "\n")


def resolve(commits: str) -> list[str]:
    """The full names of the commits, newest first."""
    words = ["rev-list", commits] if ".." in commits else ["rev-parse", "--verify", "--quiet", f"{commits}^{{commit}}"]
    found = git(*words).split()
    if not found:
        raise CannotMeasure(f"{commits!r} names no commit here; give a commit or a range BASE..HEAD")
    return found


def git(*words: str) -> str:
    """What git prints; empty where it fails."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def asv(*words: str) -> int:
    """Run asv and show its progress as it comes. Its exit code is no verdict: read the results.

    Its tables list every case there is; the lines of what was not asked for are left out.
    """
    command = [sys.executable, "-u", "-m", "asv", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout or ():
                if not line.rstrip().endswith("n/a"):
                    print(line, end="", flush=True, file=sys.stderr)
        except KeyboardInterrupt:  # Ctrl-C reaches asv as well: let it end in order
            process.communicate()
            raise
    return process.returncode


def has_cuda() -> bool:
    """Whether torch finds a GPU."""
    import torch

    return bool(torch.cuda.is_available())
