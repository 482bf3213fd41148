"""Build the two versions of a foreign project, each in a virtual environment of its own."""

import hashlib
import importlib.util
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

from ..system import machine
from ..system.errors import CannotMeasure
from ..system.git import changed, export, git, resolve
from ..system.process_group import OutOfTime
from .asv_project import Project
from .guarded import run_logged
from .versions import Version

REQUIREMENT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*(\[[^\]]*\])?\s*(===|==|~=|!=|<=|>=|<|>|@\s*\w+:)")
# Names that would make one environment see another, or the gate's own.
FOREIGN = (
    "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "PYTHONUSERBASE", "COVERAGE_PROCESS_START",
    "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER",
)  # fmt: skip
LOG_LINES = 3  # lines of the log that the message of a failed build shows
ERROR = re.compile(r"error\b", re.IGNORECASE)
# What pip says of any failure; the lines of the compiler, or of the project's own code, stand between.
PIP = re.compile(
    r"with status 'error'|exited-with-error|This error originates|failed building wheel|wheels? for .*failed"
    r"|failed-wheel-build|-failed$",
    re.IGNORECASE,
)


class BuildFailed(CannotMeasure):
    """A version that cannot be built or installed."""


@dataclass(frozen=True)
class Release(Version):
    """A version that comes from a package index; its `commit` is the number of the release."""

    def __str__(self) -> str:
        return self.label if self.commit in self.label else f"{self.label} ({self.commit})"


@dataclass(frozen=True)
class Environment:
    """A version of a project, installed in a virtual environment."""

    version: Version  # its folder holds the sources; for a release, it is the virtual environment
    python: Path
    env: Mapping[str, str]  # in which its processes run
    sources: Path | None  # the checkout, for a revision and for what is installed beside a release


def is_requirement(text: str) -> bool:
    """Return True for `name==1.0` and the like, and for the path of a wheel; False for a revision."""
    return bool(REQUIREMENT.match(text)) or (text.endswith(".whl") and Path(text).exists())


def name_of(requirement: str) -> str:
    """Return the normalised name of the package that a requirement, or the path of a wheel, names."""
    wheel = requirement.endswith(".whl")
    return normalised(
        Path(requirement).name.split("-")[0] if wheel else re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
    )


def normalised(name: str) -> str:
    """Return the name of a package as indexes spell it."""
    return re.sub(r"[-_.\s]+", "-", name.strip()).lower()


def stands_beside(project: Project, label: str | None) -> bool:
    """Return True for a release of another package than the project, which then is installed beside it, as its working tree."""
    return label is not None and is_requirement(label) and bool(project.build) and name_of(label) != normalised(project.name)


def environment_of(project: Project) -> dict[str, str]:
    """Return the environment variables of both versions' processes, in building and in measuring."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    fixed = {"LC_ALL": "C.UTF-8", "PYTHONNOUSERSITE": "1", "ASV": "true", "ASV_PROJECT": project.name}
    return {**kept, **machine.ENVIRONMENT, **fixed}


def build(project: Project, label: str | None, folder: Path, repository: Path, deadline: float, stopping: Event) -> Environment:
    """Build a version in `folder`, which must not exist: a revision, the working tree (None), or a requirement.

    `deadline` is on the clock of time.monotonic; after `stopping` no command begins. Raises CannotMeasure, UnknownRevision,
    GitError or OSError.
    """
    folder.mkdir(parents=True)
    builder = Builder(project, folder, deadline, stopping)
    if label is not None and is_requirement(label):
        builder.create(without=name_of(label))
        release = builder.from_index(label)
        if not stands_beside(project, label):
            return release
        builder.from_sources(None, check_out(None, folder / "src", repository), repository)
        release = builder.from_index(label)  # again: the project may have replaced it
        version = replace(release.version, note=builder.conflicts(name_of(label)))
        return replace(release, version=version, sources=folder / "src")
    commit = check_out(label, folder / "src", repository)
    builder.create()
    return builder.from_sources(label, commit, repository)


class Builder:
    """Create the virtual environment of one version and install the version into it."""

    def __init__(self, project: Project, folder: Path, deadline: float, stopping: Event) -> None:
        self.project, self.folder, self.deadline, self.stopping = project, folder, deadline, stopping
        self.env_dir, self.log, self.cache = folder / "env", folder / "build.log", folder / "wheels"
        self.python = self.env_dir / "bin" / "python"
        path = f"{self.env_dir / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
        self.shared = environment_of(project)
        # TMPDIR: a command that is killed leaves no temporary file elsewhere.
        self.env = {**self.shared, "PATH": path, "VIRTUAL_ENV": str(self.env_dir), "TMPDIR": str(folder)}

    def create(self, without: str = "") -> None:
        """Create the virtual environment, and install the requirements of the matrix but the package `without`."""
        tool = ["virtualenv", "--setuptools=bundle", "-p", self.project.python]
        if importlib.util.find_spec("virtualenv") is None:
            self.call([self.project.python, "-m", "venv", str(self.env_dir)], "cannot make a virtual environment")
        else:
            self.call([sys.executable, "-m", *tool, str(self.env_dir)], "cannot make a virtual environment")
        for name, version in self.project.requirements.items():
            from asv.util import ParsedPipDeclaration, construct_pip_call

            if normalised(package := name.removeprefix("pip+")) != without:
                construct_pip_call(self.pip, ParsedPipDeclaration(f"{package} {version}"))()

    def pip(self, words: Sequence[str]) -> None:
        """Run pip in the virtual environment; raises BuildFailed."""
        self.call([str(self.python), "-m", "pip", *words], f"cannot install {words[-1]}")

    def from_index(self, requirement: str) -> Environment:
        """Install a requirement, or a wheel, and return its environment."""
        wheel = Path(requirement).resolve() if requirement.endswith(".whl") else None
        self.call([str(self.python), "-m", "pip", "install", str(wheel or requirement)], f"cannot install {requirement}")
        if wheel:
            label, number, sources = wheel.name, wheel.name.split("-")[1], wheel.read_bytes()
        else:
            name = name_of(requirement)
            label, number = requirement, self.installed(name)
            sources = f"{requirement if '@' in requirement else name} {number}".encode()  # name @ URL: by its text
        digest = hashlib.sha256(sources).hexdigest()
        return self.environment(Release(label, number, False, self.env_dir, digest), None)

    def from_sources(self, label: str | None, commit: str, repository: Path) -> Environment:
        """Build and install the checkout by the project's own commands, and return its environment."""
        sources = self.folder / "src"
        dirty = label is None and changed(["."], repository)
        digest = digest_of(sources) if dirty else git("rev-parse", f"{commit}^{{tree}}", folder=repository)
        version = Version(label or "working tree", commit, dirty, sources, digest)
        self.cache.mkdir()
        if (sources / ".gitmodules").exists():
            update = ["git", "submodule", "update", "--quiet", "--init", "--recursive"]
            self.call(update, f"the submodules of {version} cannot be fetched", sources)
        for command in self.project.build:
            self.run(command, f"{version} cannot be built", commit)
        for command in self.project.install:
            self.run(command, f"{version} cannot be installed", commit)
        return self.environment(version, sources)

    def environment(self, version: Version, sources: Path | None) -> Environment:
        """Return the environment of a version, with the variables for measuring, which are the same for both versions."""
        return Environment(version, self.python, {**self.shared, "PATH": self.env["PATH"], **self.project.env}, sources)

    def conflicts(self, name: str) -> str:
        """Return what pip says of requirements that the installed release of a package breaks, or an empty text."""
        output = self.folder / "conflicts"
        run_logged([str(self.python), "-m", "pip", "check"], 60, self.folder, self.env, output)
        told = [line for line in output.read_text(errors="replace").splitlines() if "requirement" in line]
        return "; ".join(line for line in told if normalised(name) in normalised(line))

    def installed(self, name: str) -> str:
        """Return the version number of a package that is installed in the virtual environment."""
        code = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
        output = self.folder / "version"
        run_logged([str(self.python), "-c", code, name], 60, self.folder, self.env, output)
        return output.read_text().split()[-1]

    def run(self, command: str, trouble: str, commit: str) -> None:
        """Run a command of asv.conf.json; asv's own code resolves its placeholders and prefixes.

        Raises BuildFailed, whose text begins with the `trouble`.
        """
        from asv.util import UserError, interpolate_command

        sources = self.folder / "src"
        variables = {
            "project": self.project.name, "conf_dir": str(self.project.folder), "env_name": "gate", "env_type": "virtualenv",
            "env_dir": str(self.env_dir), "commit": commit, "build_dir": str(sources / self.project.repo_subdir),
            "build_cache_dir": str(self.cache),
        }  # fmt: skip
        wheels = sorted(self.cache.glob("*.whl"))
        if len(wheels) == 1:
            variables["wheel_file"] = str(wheels[0])
        elif "{wheel_file}" in command:
            raise BuildFailed(f"{trouble}: build_command left {len(wheels)} wheels in {{build_cache_dir}}, not one")
        try:
            words, env, codes, cwd = interpolate_command(command, variables)
        except UserError as error:
            raise BuildFailed(f"{trouble}: {error}") from None
        asv = {f"ASV_{key.upper()}": value for key, value in variables.items()}
        where = Path(cwd or variables["build_dir"])
        if not where.is_dir():
            raise BuildFailed(f"{trouble}: it has no folder {self.project.repo_subdir!r}, which repo_subdir names")
        self.call(words, trouble, where, {**asv, **self.project.build_env, **env}, codes)

    def call(
        self, words: Sequence[str], trouble: str, cwd: Path | None = None,
        env: Mapping[str, str] | None = None, codes: set[int] | None = frozenset({0}),  # type: ignore[assignment]
    ) -> None:  # fmt: skip
        """Run a command in the time that is left.

        Raises BuildFailed, whose text begins with `trouble`, if the time ends or the exit code is not in `codes` (None: any).
        """
        program = shutil.which(words[0], path=self.env["PATH"]) or words[0]
        if self.stopping.is_set():
            raise BuildFailed("building was stopped, since the other version failed")
        left = self.deadline - time.monotonic()
        seconds = min(self.project.install_timeout, left)
        spent = BuildFailed(f"{trouble}: the budget was spent before both versions were built; give more --budget")
        if seconds <= 0:
            raise spent
        try:
            code = run_logged([program, *words[1:]], seconds, cwd or self.folder, {**self.env, **(env or {})}, self.log)
        except OutOfTime as error:
            raise (spent if seconds == left else BuildFailed(f"{trouble}: {error}, the install_timeout")) from None
        if codes is not None and code not in codes:
            told = telling_lines(self.log.read_text(errors="replace").rpartition("\n$ ")[2])
            raise BuildFailed(f"{trouble}: {Path(words[0]).name} gave exit code {code}: {' | '.join(told)}")


def telling_lines(output: str) -> list[str]:
    """Return the lines of a failed command that say why: the first that name an error, else the last."""
    inner = re.findall(r"\[\d+ lines? of output\]\n(.*?)\[end of output\]", output, re.DOTALL)  # of what pip called
    lines = [line.strip() for line in (inner[-1] if inner else output).splitlines() if line.strip()]
    errors = [line for line in lines[0 if inner else 1 :] if ERROR.search(line) and not PIP.search(line)]
    return errors[:LOG_LINES] or lines[-LOG_LINES:]


def check_out(revision: str | None, target: Path, repository: Path) -> str:
    """Copy a revision, or the working tree (None), to `target`; return the full hash of its commit.

    The copy is a clone with the history, because some build tools ask git for the version.
    """
    history = target.with_name("history") if revision is None else target
    commit = export(None, target, [], repository) if revision is None else resolve(revision, repository)
    git("clone", "--quiet", "--shared", "--no-checkout", str(repository), str(history), folder=repository)
    if revision is None:
        shutil.move(history / ".git", target / ".git")
        git("reset", "--quiet", commit, folder=target)
    else:
        git("checkout", "--quiet", "--detach", commit, folder=target)
    return commit


def digest_of(folder: Path) -> str:
    """Return a hash over names and contents of all files in `folder` but those of git."""
    sources = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts):
        sources.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes() + b"\0")
    return sources.hexdigest()
