"""Read a project's asv.conf.json by asv's own code."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..system.errors import CannotMeasure

VIRTUAL = (None, "", "virtualenv", "venv", "uv")  # types of environment for which a virtual environment is the same thing
BUILD = ["python -m pip wheel --no-deps -w {build_cache_dir} {build_dir}"]  # where the project has no build_command
INSTALL = ["in-dir={env_dir} python -m pip install --force-reinstall {wheel_file}"]  # asv's own


@dataclass(frozen=True)
class Project:
    """How the versions of a project are built and measured, with one combination of its matrix."""

    folder: Path  # holds asv.conf.json; the parent of the suite if there is no such file
    name: str
    suite: str  # relative to the folder, or absolute
    repo: str  # path, relative to the folder, or URL of the repository of the versions
    repo_subdir: str
    build: Sequence[str]  # commands; none if there are no sources
    install: Sequence[str]
    requirements: Mapping[str, str]  # of the matrix: package -> version, or an empty text for any
    build_env: Mapping[str, str]  # variables of building: the matrix's env
    env: Mapping[str, str]  # variables of measuring: the matrix's env and env_nobuild
    python: str  # path of the interpreter
    timeout: float  # seconds of a benchmark that sets none
    install_timeout: float  # seconds of a command that builds or installs
    note: str = ""


def read_project(folder: Path, chosen: Mapping[str, str]) -> Project:
    """Read the asv.conf.json, or asv.conf.jsonc, in `folder`, with the first combination of its matrix that fits `chosen`.

    `chosen` maps keys of the matrix to values. Raises CannotMeasure if the file, asv, the combination or its Python is missing.
    """
    files = [folder / f"asv.conf.{suffix}" for suffix in ("json", "jsonc") if (folder / f"asv.conf.{suffix}").exists()]
    if len(files) != 1:
        found = "holds no" if not files else "holds more than one"
        raise CannotMeasure(f"{folder} {found} asv.conf.json; give the folder that holds one with --project, or use --suite")
    try:
        from asv.config import Config
        from asv.util import UserError
    except ImportError as error:
        raise CannotMeasure(f"asv reads {files[0].name}, but cannot be imported ({error}); pip install asv") from None
    try:
        config = Config.load(str(files[0]))
        check_types(config)
        return from_config(config, folder, chosen)
    except (UserError, ValueError, AttributeError, TypeError) as error:  # json5 raises ValueError
        raise CannotMeasure(f"{files[0]} is no configuration of asv: {error}") from None


def check_types(config: Any) -> None:
    """Raise ValueError for a value of asv.conf.json whose type asv itself does not check."""
    texts = {key: getattr(config, key) for key in ("project", "benchmark_dir", "repo", "repo_subdir")}
    if wrong := next((key for key, value in texts.items() if not isinstance(value, str)), None):
        raise ValueError(f"{wrong} is {texts[wrong]!r}, but must be a text")
    if not isinstance(config.pythons, list):
        raise ValueError(f'pythons is {config.pythons!r}, but must be a list of texts, such as ["3.12"]')
    parts = {"matrix": config.matrix}
    if isinstance(config.matrix, dict):
        parts |= {key: config.matrix[key] for key in ("req", "env", "env_nobuild") if key in config.matrix}
    if wrong := next((key for key, value in parts.items() if not isinstance(value, dict)), None):
        raise ValueError(f"{wrong} is {parts[wrong]!r}, but must map names to lists of values")


def suite_alone(suite: Path) -> Project:
    """Return the project of a suite that has no asv.conf.json: for versions that come from a package index."""
    return Project(suite.parent, suite.name, str(suite), ".", "", [], [], {}, {}, {}, sys.executable, 60.0, 600.0)


def from_config(config: Any, folder: Path, chosen: Mapping[str, str]) -> Project:
    """Return the project that an asv.config.Config describes; see `read_project`."""
    combination = first_combination(config, chosen)
    env, build_env, requirements = (
        {str(key): str(value) for (kind, key), value in combination.items() if kind in kinds}
        for kinds in (("env", "env_nobuild"), ("env",), ("req",))
    )
    kind = config.environment_type
    return Project(
        folder=folder,
        name=config.project,
        suite=config.benchmark_dir,
        repo=config.repo,
        repo_subdir=config.repo_subdir,
        build=as_list(config.build_command, BUILD),
        install=as_list(config.install_command, INSTALL),
        requirements=requirements,
        build_env=build_env,
        env=env,
        python=find_python(str(combination["python", None]), config.pythons),
        timeout=float(config.default_benchmark_timeout),
        install_timeout=float(config.install_timeout),
        note="" if kind in VIRTUAL else f"The project asks for environments of {kind}; these are virtual environments.",
    )


def as_list(commands: Any, default: Sequence[str]) -> list[str]:
    """Return a list of commands: `default` for None, one item for a text, which asv accepts as well."""
    if commands is None:
        return list(default)
    return [commands] if isinstance(commands, str) else list(commands)


def first_combination(config: Any, chosen: Mapping[str, str]) -> dict[tuple[str, str | None], Any]:
    """Return the first combination of the matrix that has the chosen values: (kind, key) -> value.

    Raises CannotMeasure if there is none.
    """
    from asv.environment import iter_matrix

    combinations: list[dict[tuple[str, str | None], Any]] = list(iter_matrix("virtualenv", config.pythons, config))
    known = {key or kind for combination in combinations for kind, key in combination}
    for combination in combinations:
        values = {key or kind: "null" if value is None else str(value) for (kind, key), value in combination.items()}
        if all(key in known and values.get(key, "null") == value for key, value in chosen.items()):
            return combination
    asked = ", ".join(f"{key}={value}" for key, value in chosen.items())
    wanted = f"none of the {len(combinations)} combinations of the matrix has {asked}" if asked else "the matrix is empty"
    raise CannotMeasure(f"{wanted}; see matrix, include and exclude in asv.conf.json")


def find_python(version: str, others: Sequence[str] = ()) -> str:
    """Return the path of the interpreter for a version such as 3.11, a command such as python3.11, or a path.

    Raises CannotMeasure if there is no such interpreter; the message names the first of the `others` that there is.
    """
    found = interpreter(version)
    if found is None:
        there = next((other for other in map(str, others) if interpreter(other)), None)
        instead = f", or pick --set python={there}" if there else ""
        raise CannotMeasure(f"there is no Python {version} here, which asv.conf.json asks for; install it{instead}")
    return found


def interpreter(version: str) -> str | None:
    """Return the path of the interpreter for a version, a command or a path; None if there is none."""
    if version in ("same", f"{sys.version_info.major}.{sys.version_info.minor}", str(sys.version_info.major)):
        return sys.executable
    return shutil.which(version if "/" in version or version.startswith("python") else f"python{version}")
