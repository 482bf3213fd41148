"""The command `compare` for any asv project: build, discover, measure, judge, show."""

import argparse
import os
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event
from typing import Any

from rich.console import Console

from ..system import machine
from ..system.errors import CannotMeasure
from ..system.files import temporary_folder
from ..system.git import git, resolve
from ..system.units import counted
from .against_itself import sentence, with_machine
from .asv_process import Case, Context, copy_runner, discover
from .asv_project import Project, read_project, suite_alone
from .asv_suite import NOT_AVAILABLE
from .environments import Environment, build, is_requirement, name_of, normalised, stands_beside
from .figures import figure_rows
from .guarded import kill_all
from .output import Files, Output, progress, refuse_unwritable, summary, verdict_json, version_json, write_files
from .pairs import FIGURE_PAIRS, SPARE, PairComparison
from .report import Row, exit_code, overall, render
from .rule import FAILED, INCOMPARABLE, UNSTABLE
from .signals import lack_rows, time_rows

SHOWN_DIFFERENCES = 8  # of installed packages


def compare_versions(arguments: argparse.Namespace) -> int:
    """Carry out the command `compare`; return the exit code."""
    console = Output()
    with temporary_folder("gate-") as folder:
        comparison, rows = judge(arguments, folder, console)
        return report(comparison, rows, arguments, console)


def judge(arguments: argparse.Namespace, folder: Path, console: Console) -> tuple[PairComparison, list[Row]]:
    """Build both versions in `folder`, measure them and judge them: all of `compare` but its report."""
    deadline = time.monotonic() + arguments.budget
    refuse_unwritable({"--json": arguments.json, "--junit": arguments.junit, "--markdown": arguments.markdown})
    project = project_of(arguments)
    refuse_two_changes(project, arguments.base, arguments.head)
    say(console, f"Building {arguments.base} and {arguments.head or 'the working tree'} …")
    base, head, repository = build_both(project, arguments, folder, deadline)
    say(console, f"base {base.version}\nhead {head.version}{same(base, head)}")
    if any(stands_beside(project, label) for label in (arguments.base, arguments.head)):
        say(console, f"Beside a release, the working tree of {project.name} is installed.")
    for version in (base.version, head.version):
        if version.note:
            say(console, f"pip installed {version} against the requirements of another package: {version.note}")
    if project.note:
        say(console, project.note)
    suite = suite_of(project, arguments, head, repository)
    say(console, "Finding the benchmarks …")
    shared = Context(folder, copy_runner(folder / "runner"), suite, project.timeout, deadline)
    found = discover(shared, head)
    cases, unfit = select(found, arguments.bench or [""])
    comparison = PairComparison(shared, base, head, cases, cores(arguments.cores), int(time.time()))
    with progress(comparison, console):
        return comparison, unfit + measure(comparison, arguments, console)


def say(console: Console, text: str) -> None:
    """Print a text without wrapping, markup or colours."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def project_of(arguments: argparse.Namespace) -> Project:
    """Return the project that the arguments name; if both versions are requirements, --suite alone is enough.

    Raises CannotMeasure if a folder is missing.
    """
    folder = Path(arguments.project or ".").resolve()
    requirements = [is_requirement(text) for text in (arguments.base, arguments.head) if text is not None]
    if arguments.suite and not Path(arguments.suite).is_dir():
        raise CannotMeasure(f"--suite={arguments.suite} is no folder; give the one that holds the benchmarks")
    if arguments.suite and not arguments.project and all(requirements) and len(requirements) == 2:
        if arguments.set:
            raise CannotMeasure("--set picks from the matrix of an asv.conf.json; name its folder with --project")
        return suite_alone(Path(arguments.suite).resolve())
    if arguments.suite and not arguments.project and requirements == [True] and not (folder / "asv.conf.json").exists():
        raise CannotMeasure(f"HEAD is missing: give a second release beside {arguments.base}, or the folder of a project")
    if not folder.is_dir():
        raise CannotMeasure(f"--project={arguments.project} is no folder; give the one that holds asv.conf.json")
    return read_project(folder, dict(arguments.set))


def refuse_two_changes(project: Project, base: str, head: str | None) -> None:
    """Raise CannotMeasure if the versions differ in two things: in a dependency and the project, or in two dependencies."""
    beside = [label for label in (base, head) if label is not None and stands_beside(project, label)]
    if len(beside) == 1 and head is not None:
        raise CannotMeasure(
            f"{base} and {head} differ in two things, {name_of(beside[0])} and {project.name}; change one at a time"
        )
    if len({name_of(label) for label in beside}) > 1:
        raise CannotMeasure(f"{base} and {head} are releases of two packages; give two of one")


def repository_of(project: Project, folder: Path) -> Path:
    """Return the git repository that `repo` of asv.conf.json names: if it is the URL of another one, a clone in `folder`."""
    here = project.folder / project.repo
    top = git("rev-parse", "--show-toplevel", folder=here if here.is_dir() else project.folder, otherwise="")
    if here.is_dir() or project.repo in git("remote", "-v", folder=project.folder, otherwise="").split():
        return Path(top) if top else here
    clone = folder / "repository"
    git("clone", "--quiet", "--bare", project.repo, str(clone), folder=project.folder)
    return clone


def build_both(
    project: Project, arguments: argparse.Namespace, folder: Path, deadline: float
) -> tuple[Environment, Environment, Path]:
    """Build both versions, at the same time; return them, and the repository of their revisions."""
    labels = arguments.base, arguments.head
    revisions = [label for label in labels if label is None or not is_requirement(label)]
    beside = any(stands_beside(project, label) for label in labels)
    repository = repository_of(project, folder) if revisions or beside else project.folder
    for label in filter(None, revisions):  # a misspelt one is an error at once
        resolve(label, repository)
    refuse_no_suite(project, arguments, repository)
    if (None in revisions or beside) and repository.parent == folder:
        trouble = "no project can be installed beside the release" if beside else "HEAD is missing"
        raise CannotMeasure(f"{trouble}: asv.conf.json names {project.repo}, of which there is no working tree here")
    stopping = Event()
    with ThreadPoolExecutor(2) as pool:
        sides = zip(labels, ("base", "head"), strict=True)
        futures = [pool.submit(build, project, label, folder / side, repository, deadline, stopping) for label, side in sides]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stopping.set()
            kill_all()
            raise
    base, head = (future.result() for future in futures)
    return base, head, repository


def refuse_no_suite(project: Project, arguments: argparse.Namespace, repository: Path) -> None:
    """Raise CannotMeasure if `suite_of` will find no folder, before anything is built."""
    here = (project.folder / project.suite).resolve()
    if arguments.suite or here.is_dir():
        return
    if arguments.head is not None and not is_requirement(arguments.head) and here.is_relative_to(repository.resolve()):
        place = f"{arguments.head}:{here.relative_to(repository.resolve())}"
        if git("cat-file", "-t", place, folder=repository, otherwise="") == "tree":
            return
    raise CannotMeasure(f"benchmark_dir {project.suite!r} is not in head nor in {project.folder}; see asv.conf.json")


def suite_of(project: Project, arguments: argparse.Namespace, head: Environment, repository: Path) -> Path:
    """Return the folder of benchmarks: --suite if given, else that in head's sources, else that in the project's folder."""
    if arguments.suite:
        return Path(arguments.suite).resolve()
    here = (project.folder / project.suite).resolve()
    if head.sources and here.is_relative_to(repository.resolve()):
        there = head.sources / here.relative_to(repository.resolve())
        if there.is_dir():
            return there
    return here


def same(base: Environment, head: Environment) -> str:
    """Return a sentence if both versions have the same sources, else an empty text."""
    return " They are the same source: any difference is noise." if base.version.digest == head.version.digest else ""


def select(found: Mapping[str, Any], patterns: Sequence[str]) -> tuple[dict[str, Case], list[Row]]:
    """Return the benchmarks that match one of `patterns`, and rows for those that cannot be run at all.

    `found` comes from `discover`. Raises CannotMeasure if nothing matches.
    """

    def wanted(name: str) -> bool:
        return any(re.search(pattern, name) for pattern in patterns)

    rows = [Row(name, "all", INCOMPARABLE, note=why) for name, why in found["lacking"].items() if wanted(name)]
    # A module that cannot be imported is reported whatever the pattern, since nobody knows what it holds.
    rows += [
        Row(name, "all", FAILED if wanted(name) else INCOMPARABLE, note=why)
        for name, why in found["failed"].items()
        if wanted(name) or "import" in why
    ]
    cases = {}
    for case in found["cases"]:
        if not wanted(case["name"]):
            continue
        if case["type"] == NOT_AVAILABLE:
            rows.append(Row(case["name"], "all", INCOMPARABLE, note=case["unit"]))
        else:
            cases[case["name"]] = case
    if not cases and not rows:
        raise CannotMeasure(f"no benchmark of the suite matches {' or '.join(patterns)}; leave --bench out to have all")
    return cases, rows


def cores(asked: int | None) -> list[int | None]:
    """Return the cores on which pairs run side by side; [None] is one pair on any core."""
    there = os.cpu_count() or 1
    usable = machine.cores(asked or max(2, there // 2))
    return list(usable) or [None]


def measure(comparison: PairComparison, arguments: argparse.Namespace, console: Console) -> list[Row]:
    """Measure all benchmarks and return their rows; print how the environments differ and how long it takes."""
    comparison.try_all()
    named = [name_of(label) for label in (arguments.base, arguments.head) if label is not None and is_requirement(label)]
    differences = installed_differences(comparison.environment, named)
    if differences:
        say(console, f"Installed beside that, base → head: {differences}")
    ready = comparison.measurable(list(comparison.cases))
    timed = [name for name in ready if comparison.cases[name]["type"] == "time"]
    others = [name for name in ready if name not in timed]
    left = comparison.shared.deadline - time.monotonic()
    duration = comparison.duration(timed, others)
    said = duration.sentence(max(0.0, left))
    if left < SPARE * duration.usual:
        said += " So not every benchmark has a verdict; give more --budget, or fewer benchmarks."
    say(
        console,
        f"{counted(len(timed), 'benchmark')} of time and {counted(len(others), 'figure')}, "
        f"{counted(len(comparison.cores), 'pair')} at a time. {said}",
    )
    comparison.take_figures(others)
    kinds = {name: str(case["type"]) for name, case in comparison.cases.items()}
    unfailed = comparison.measurable(others)
    rows = figure_rows({name: comparison.figures[name] for name in unfailed if name in comparison.figures}, kinds, FIGURE_PAIRS)
    missing = [name for name in unfailed if name not in comparison.figures]
    rows += time_rows(comparison, comparison.measurable(timed), arguments.threshold)
    rows += lack_rows(comparison, list(comparison.cases))
    known = {row.case for row in rows}
    untried = [name for name in comparison.cases if name not in known]
    rows += [Row(name, "all", UNSTABLE, note="the budget left no time for it") for name in dict.fromkeys(missing + untried)]
    return with_machine(rows, comparison.against_itself(), arguments.threshold)


def installed_differences(environment: Mapping[str, Any], compared: Sequence[str] = ()) -> str:
    """Return a text that lists the packages, but not those `compared`, whose installed versions differ between both sides."""
    base, head = (environment.get(side, {}).get("installed", {}) for side in ("base", "head"))
    others = sorted((name for name in {*base, *head} if normalised(name) not in compared), key=str.lower)
    names = [name for name in others if base.get(name) != head.get(name)]
    shown = [f"{name} {base.get(name, 'none')} → {head.get(name, 'none')}" for name in names]
    more = [f"and {len(shown) - SHOWN_DIFFERENCES} more"] if len(shown) > SHOWN_DIFFERENCES else []
    return ", ".join(shown[:SHOWN_DIFFERENCES] + more)


def report(comparison: PairComparison, rows: Sequence[Row], arguments: argparse.Namespace, console: Console) -> int:
    """Show the rows and write the files that were asked for; return the exit code."""
    base, head = comparison.base.version, comparison.head.version
    title, verdict = summary(rows, str(base), str(head))
    console.print(render(rows, title))
    on_itself = sentence(comparison.against_itself())
    if on_itself:
        say(console, on_itself)
    console.print(verdict, style="bold", highlight=False, markup=False, soft_wrap=True)
    if overall(rows) == UNSTABLE:
        say(console, "Run it again with more --budget, with fewer benchmarks (--bench), or on a quieter machine.")
    json, junit, markdown = (Path(name) if name else None for name in (arguments.json, arguments.junit, arguments.markdown))
    stored = verdict_json(rows, version_json(base), version_json(head), arguments.threshold, verdict)
    write_files(Files(None, json, junit, markdown), rows, title, stored, comparison.details())
    return exit_code(rows)
