"""Nights on a small repository with a remote, with fake steps instead of the expensive ones."""

import io
import multiprocessing
import os
import resource
import subprocess
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import synthetic

from benchmarks.commands import nightly
from benchmarks.gate.rule import PASS, REGRESSED
from benchmarks.nightly.job import Job
from benchmarks.nightly.state import Outcome, State, parse
from benchmarks.nightly.steps import Steps

CASE = synthetic.CASES[0]
SUITE = '<testsuite name="gate" tests="1"><testcase name="one" /></testsuite>'
PROCESSES = multiprocessing.get_context("spawn")
PATIENCE = 120  # seconds for a process to come as far as it should; a test that passes needs far less
PEOPLE = {f"GIT_{role}_{key}": "a@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}


def git(folder: Path, *args: str, **environment: str) -> str:
    """Run git in a folder and return its output."""
    env = {**os.environ, **PEOPLE, **environment}
    return subprocess.run(["git", *args], cwd=folder, env=env, capture_output=True, text=True, check=True).stdout.strip()


def slower_outcome(line: str = "slower") -> Outcome:
    """Return the gate's outcome for a slower case."""
    return Outcome(REGRESSED, line, {CASE: "time +9.0%"}, markdown="the table", junit=SUITE)


class World:
    """A clone in `root`, its remote, and the outcomes of the fake steps, which a test may replace.

    `before` is called with the name of each step before the step returns.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.remote = root, root.parent / "remote.git"
        self.machine, self.torch = synthetic.MACHINE, "2.13.0"
        self.canary = Outcome(PASS, "seen")
        self.law = Outcome(PASS, "lawful", junit=f"<testsuites>{SUITE}</testsuites>", shown={"law.json": {"checks": 1}})
        self.gate: Callable[[str], Outcome] = lambda base: Outcome(PASS, f"against {base[:8]}", junit=SUITE)
        self.before: Callable[[str], None] = lambda step: None
        self.seeds: list[list[int]] = []  # that each test of the law was given

    @classmethod
    def new(cls, folder: Path) -> "World":
        """Make a repository with one commit and an empty remote."""
        world = cls(folder / "clone")
        git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(world.remote))
        git(folder, "init", "--quiet", "--initial-branch=main", str(world.root))
        git(world.root, "remote", "add", "origin", str(world.remote))
        (world.root / ".gitignore").write_text("/.asv/\n/calls\n")
        world.commit()
        return world

    @property
    def head(self) -> str:
        """The commit that a night would work on."""
        return git(self.root, "rev-parse", "HEAD")

    @property
    def branch(self) -> Path:
        """The worktree of the results."""
        return self.root / ".asv" / "asv-results"

    def commit(self, **environment: str) -> str:
        """Commit a change of the package and return the commit."""
        file = self.root / "taildropout" / "__init__.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{file.read_text() if file.exists() else ''}# changed\n")
        git(self.root, "add", "--all")
        git(self.root, "commit", "--quiet", "-m", "change", **environment)
        return self.head

    def called(self, step: str, *args: Any) -> None:
        """Store that a step was called, with the commits it was given."""
        with open(self.root / "calls", "a") as calls:
            calls.write(" ".join([step, *(arg[:8] for arg in args if isinstance(arg, str))]) + "\n")
        self.before(step)

    def measure(self, commit: str, seconds: float) -> Outcome:
        """Store figures of a commit as asv does."""
        self.called("measure", commit)
        synthetic.measure(self.root, [commit], self.machine, self.torch)
        return Outcome(PASS, "measured")

    def check_law(self, commit: str, seeds: Any, seconds: float) -> Outcome:
        """Return the outcome of the law and store the seeds."""
        self.called("law", commit)
        self.seeds.append([*seeds])
        return self.law

    def steps(self) -> Steps:
        """Return the fake steps."""

        def fake(name: str, outcome: Callable[..., Outcome]) -> Callable[..., Outcome]:
            def step(*args: Any) -> Outcome:
                self.called(name, *args)
                return outcome(*args)

            return step

        return Steps(
            environment=lambda: {"machine": self.machine, "torch": self.torch},
            measure=lambda commit, seconds: self.measure(commit, seconds),  # looked up late, so that a test may replace it
            canary=fake("canary", lambda *_: self.canary),
            gate=fake("gate", lambda base, *_: self.gate(base)),
            law=self.check_law,
            publish=fake("publish", lambda *_: Outcome(PASS, "published")),
        )

    def job(self, issues: bool = False) -> Job:
        """Return the nightly job with the fake steps."""
        return Job(self.root, "cpu", 1000.0, self.steps(), issues)

    def night(self, issues: bool = False) -> tuple[int, list[str]]:
        """Run a night in this process; return its exit code and the calls of its steps."""
        calls = self.root / "calls"
        calls.unlink(missing_ok=True)
        code = nightly.run(self.job(issues))
        return code, calls.read_text().splitlines() if calls.exists() else []

    def state(self, commit: str = "refs/heads/asv-results") -> State:
        """Return the state that the remote has."""
        return parse(git(self.remote, "show", f"{commit}:cpu/state.json"))

    def results(self) -> set[str]:
        """Return the commits of which the remote has figures."""
        names = git(self.remote, "ls-tree", "-r", "--name-only", "asv-results").split()
        return {Path(name).name[:8] for name in names if name.endswith("-env.json")}

    def summary(self) -> str:
        """Return the summary of the last night."""
        return (self.root / ".asv" / "nightly.md").read_text()


def fail_at(step: str, error: Exception) -> Callable[[str], None]:
    """Return a `World.before` that raises an error at a step."""

    def before(name: str) -> None:
        if name == step:
            raise error

    return before


def kill_night_at(world: World, step: str) -> None:
    """Run a night in a process of its own and kill the process while it is at a step."""
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_wait_at, args=(world.root, step, sender))
    process.start()
    sender.close()
    assert receiver.poll(PATIENCE), f"the night did not come to the step {step}"
    assert receiver.recv() == step  # EOFError if the night ended before
    process.kill()
    process.join()


def _wait_at(root: Path, step: str, sender: Connection) -> None:
    """Run a night that sends the name of a step when it comes to the step, and then waits to be killed."""

    def before(name: str) -> None:
        if name == step:
            sender.send(step)
            time.sleep(PATIENCE)

    world = World(root)
    world.before = before
    nightly.run(world.job())
    sender.close()


def night_on_full_disk(world: World) -> tuple[int, str]:
    """Run a night in a process of its own that cannot write from the step `law` on; return its exit code and output."""
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_fill_disk, args=(world.root, sender))
    process.start()
    sender.close()
    assert receiver.poll(PATIENCE), "the night did not end"
    code, output = receiver.recv()
    process.join()
    return int(code), str(output)


def _fill_disk(root: Path, sender: Connection) -> None:
    """Run a night in which no file may grow beyond 64 bytes from the step `law` on, as on a full disk."""

    def before(name: str) -> None:
        if name == "law":
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))

    world = World(root)
    world.before = before
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        code = nightly.run(world.job())
    sender.send((code, output.getvalue()))
