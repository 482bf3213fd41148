"""Run asv's suite on commits: measure the figures that a commit lacks, and show asv's output only where a benchmark fails."""

import atexit
import fcntl
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .. import ROOT
from ..system import machine
from ..system.errors import CannotMeasure
from ..system.git import git
from . import pinned, stored
from .choice import has_cuda
from .progress import ProgressLine
from .stored import Entry, Figure

CHUNK = 24  # processes: asv stores their figures together at the end, so an interruption costs this many at most
MAX_NAMED = 20  # failures that are listed; if more benchmarks fail, they usually share one cause
QUICK_MODULES = "counts", "process", "quality"  # in the quick profile, beside speed and history
QUICK_COUNTS = "8x16-f32-train", "1024x512-f32-train", "0.5"  # parameters of the counts in the quick profile
ENVIRONMENTS = ROOT / ".asv" / "env"
PERCENT = re.compile(r"\[ *([\d.]+)%\] ··· (\w+\.[\w.]+) ")  # asv's line after a benchmark


@dataclass(frozen=True)
class Choice:
    """What to measure: the cases `names` and, unless `only_cases`, the other benchmarks of a profile ("quick" or "full")."""

    names: Sequence[str]
    profile: str = "quick"
    device: str | None = None
    only_cases: bool = False

    def wants(self, entry: Entry) -> bool:
        """Return True if an entry of the suite is to be measured: never one for a GPU if torch finds none."""
        from ..suite.cases import CASES

        params = [param.strip("'") for param in entry.params]
        case = CASES.get(params[0]) if params else None
        if case is not None and case.device == "cuda" and not has_cuda():
            return False
        module = entry.benchmark.partition(".")[0]
        if self.only_cases or module in ("speed", "history"):
            return bool(params) and params[0] in self.names
        if self.device == "cuda":
            return case is not None and case.device == "cuda"
        return self.profile == "full" or (module in QUICK_MODULES and (not params or params[0] in QUICK_COUNTS))


@dataclass
class SuiteRun:
    """A run of the suite on some commits. `asked` and `versions` are known once `prepare` has looked at the suite."""

    choice: Choice
    progress: ProgressLine
    verbose: bool = False
    again: bool = False
    machine: str = field(default_factory=lambda: machine.name())
    asked: list[Entry] = field(default_factory=list)
    versions: dict[Entry, str] = field(default_factory=dict)

    def prepare(self, revisions: str) -> list[str]:
        """Set up asv, discover the suite, and return the commits that can be measured, newest first. Raises CannotMeasure."""
        if importlib.util.find_spec("asv") is None:
            raise CannotMeasure("asv is not installed: pip install -e '.[bench]' (`record` measures without it)")
        commits = resolve(revisions)
        lock_suite()
        if git("status", "--porcelain", "--untracked-files=no", "--", "taildropout", "pyproject.toml", otherwise=""):
            self.progress.note("Uncommitted changes of the package are not measured, since asv measures commits; "
                               "`record` measures them.")  # fmt: skip
        here = machine.describe()
        described = {"machine": "name", "os": "os", "cpu": "cpu", "num_cpu": "cores", "ram": "memory"}
        self.asv("machine", "--yes", *(f"--{option}={here[key]}" for option, key in described.items()))
        with_package = [commit for commit in commits if git("ls-tree", commit, "--", "pyproject.toml", otherwise="")]
        if lacking := len(commits) - len(with_package):
            self.progress.note(f"n/a: {lacking} of {len(commits)} commits have no package yet")
        if not with_package:
            raise CannotMeasure("none of these commits has a package yet")
        if warning := pinned.lay_out():
            self.progress.note(warning)
        self.progress.stage("Preparing an environment with torch (a minute the first time)")
        self.versions = self.discover(with_package)
        self.asked = [entry for entry in self.versions if self.choice.wants(entry)]
        if not self.asked:
            raise CannotMeasure("no benchmark measures these cases on this machine")
        return with_package

    def discover(self, commits: Iterable[str]) -> dict[Entry, str]:
        """Return the suite's entries with their benchmarks' versions.

        asv imports the suite with the package of a commit installed. Raises CannotMeasure if it can build none of `commits`.
        """
        output = ""
        for commit in commits:
            code, output = self.asv("run", "--bench", "just-discover", f"--machine={self.machine}", f"{commit}^!")
            if code == 0:
                return stored.entries()
        print(output, file=sys.stderr)
        raise CannotMeasure(
            "asv could not build a commit and read the suite; its message is printed above. If its environment is incomplete, "
            f"delete {ENVIRONMENTS.relative_to(ROOT)} and run this again"
        )

    def measure(self, commit: str, title: str) -> dict[Entry, Figure]:
        """Measure the figures that a commit lacks, chunk by chunk, and return all of its figures."""
        before = {} if self.again else stored.read(commit, self.machine, self.versions)
        missing = [entry for entry in self.asked if entry not in before]
        self.progress.begin(title, len(missing), len(self.asked) - len(missing))
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            self.progress.show(start)
            patterns = [f"--bench=^{re.escape(str(entry))}$" for entry in chunk]
            args = ["run", "--show-stderr", f"--machine={self.machine}", *patterns, f"{commit}^!"]
            _, output = self.asv(*args, start=start, figures=len(chunk))
            present = stored.read(commit, self.machine, self.versions)
            if not self.verbose and any(entry not in present for entry in chunk):
                print(failed_output(output), file=sys.stderr)
        self.progress.show(len(missing))
        return stored.read(commit, self.machine, self.versions)

    def asv(self, *args: str, start: int = 0, figures: int = 0) -> tuple[int, str]:
        """Run asv and return its exit code and output; the exit code does not tell whether a benchmark failed.

        If `figures` is not 0, asv measures so many, and progress is shown from `start` on.
        """
        command = [sys.executable, "-u", "-m", "asv", *args]
        lines = []
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                for line in process.stdout or ():
                    if line.rstrip().endswith("n/a"):  # asv's tables list every case
                        continue
                    lines.append(line)
                    if self.verbose:
                        print(line, end="", flush=True, file=sys.stderr)
                    if figures and (percent := PERCENT.match(line)):
                        self.progress.show(start + figures * float(percent[1]) / 100, percent[2])
            except KeyboardInterrupt:  # Ctrl-C reaches asv as well: let it end in order
                process.communicate()
                raise
        return process.returncode, "".join(lines)


def failed_output(output: str) -> str:
    """Return the parts of asv's output about benchmarks that failed; all of it if no benchmark is reported."""
    parts: list[list[str]] = []
    for line in output.splitlines():
        if PERCENT.match(line):
            parts.append([])
        if parts:
            parts[-1].append(line)
    failed = ["\n".join(part) for part in parts if any("failed" in line for line in part)]
    return "\n".join(failed) or output


def lock_suite() -> None:
    """Lock asv's environments until this process ends, since two runs would break them, and remove incomplete ones.

    Raises CannotMeasure if another run holds the lock.
    """
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    lock = open(ENVIRONMENTS.parent / "lock", "w")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise CannotMeasure("another run of the suite is active here; wait for it to end") from None
    atexit.register(lock.close)
    discard_incomplete()


def discard_incomplete() -> None:
    """Remove environments that lack a package: asv takes an environment for complete if its installation was interrupted."""
    for python in ENVIRONMENTS.glob("*/bin/python"):
        probe = [str(python), "-c", "import torch, numpy, setuptools, wheel, asv_runner"]
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            print(f"The environment {python.parents[1].name} is incomplete and is made again.", file=sys.stderr)
            shutil.rmtree(python.parents[1])


def judge(commit: str, asked: Iterable[Entry], figures: dict[Entry, Figure]) -> tuple[int, str]:
    """Return the exit code for a commit and a message: 1 if a figure failed or is missing, 2 if all are n/a, else 0."""
    asked = list(asked)
    failed = [str(entry) for entry in asked if entry not in figures]
    if failed:
        more = [f"… and {len(failed) - MAX_NAMED} more"] if len(failed) > MAX_NAMED else []
        message = f"{len(failed)} of {len(asked)} benchmarks failed on {commit[:8]}:"
        return 1, "\n  ".join((message, *failed[:MAX_NAMED], *more))
    if not any(figures[entry].measured for entry in asked):
        return 2, f"Nothing was measured on {commit[:8]}: every figure is n/a."
    return 0, ""


def resolve(commits: str) -> list[str]:
    """Return the full names of a commit or a range of commits, newest first. Raises CannotMeasure."""
    args = ["rev-list", commits] if ".." in commits else ["rev-parse", "--verify", "--quiet", f"{commits}^{{commit}}"]
    names = git(*args, otherwise="").split()
    if not names:
        raise CannotMeasure(f"{commits!r} names no commit here; give a commit or a range BASE..HEAD")
    return names
