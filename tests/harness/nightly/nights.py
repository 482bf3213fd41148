"""Nights on a small repository with a remote, in which only the expensive steps are made up.

As a script, `python nights.py ROOT HALT`, a night that stops at the step HALT and waits to be killed (`disk`: that has no room
left from the step `law` on).
"""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import synthetic

from benchmarks.commands import nightly
from benchmarks.gate.rule import PASS
from benchmarks.nightly.state import Outcome, State, parse
from benchmarks.nightly.steps import Steps

CASE = synthetic.CASES[0]
SUITE = '<testsuite name="gate" tests="1"><testcase name="one" /></testsuite>'


def git(place: Path, *words: str, **environment: str) -> str:
    """What git says there."""
    people = {f"GIT_{role}_{key}": "a@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", *words], cwd=place, env={**os.environ, **people, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


class World:
    """A clone in `root`, its remote, and what the made-up steps find: set an attribute to have them find something else."""

    def __init__(self, root: Path) -> None:
        self.root, self.remote = root, root.parent / "remote.git"
        self.machine, self.torch = synthetic.MACHINE, "2.13.0"
        self.canary = Outcome(PASS, "seen")
        self.law = Outcome(PASS, "lawful", junit=f"<testsuites>{SUITE}</testsuites>", shown={"law.json": {"checks": 1}})
        self.gate: Callable[[str], Outcome] = lambda base: Outcome(PASS, f"against {base[:8]}", junit=SUITE)
        self.before: Callable[[str], None] = lambda step: None

    @classmethod
    def new(cls, folder: Path) -> "World":
        """A repository with one commit, pushed to a bare one."""
        world = cls(folder / "clone")
        git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(world.remote))
        git(folder, "init", "--quiet", "--initial-branch=main", str(world.root))
        git(world.root, "remote", "add", "origin", str(world.remote))
        (world.root / ".gitignore").write_text("/.asv/\n/calls\n")
        world.commit()
        return world

    def commit(self, **environment: str) -> str:
        """Change the package; the new commit."""
        file = self.root / "taildropout" / "__init__.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{file.read_text() if file.exists() else ''}# changed\n")
        git(self.root, "add", "--all")
        git(self.root, "commit", "--quiet", "-m", "change", **environment)
        return git(self.root, "rev-parse", "HEAD")

    def step(self, name: str, *words: str) -> None:
        """What every made-up step does first."""
        with open(self.root / "calls", "a") as calls:
            calls.write(" ".join([name, *(word[:8] for word in words)]) + "\n")
        self.before(name)

    def measure(self, commit: str, _: float) -> Outcome:
        """As asv stores it."""
        self.step("measure", commit)
        synthetic.measure(self.root, [commit], self.machine, self.torch)
        return Outcome(PASS, "measured")

    def steps(self) -> Steps:
        """The made-up steps."""

        def found(name: str, outcome: Callable[..., Outcome]) -> Callable[..., Outcome]:
            def step(*words: Any) -> Outcome:
                self.step(name, *(word for word in words if isinstance(word, str)))
                return outcome(*words)

            return step

        return Steps(
            environment=lambda: {"machine": self.machine, "torch": self.torch},
            measure=self.measure,
            canary=found("canary", lambda *_: self.canary),
            gate=found("gate", lambda base, *_: self.gate(base)),
            law=found("law", lambda *_: self.law),
            publish=found("publish", lambda *_: Outcome(PASS, "published")),
        )

    def night(self, issues: bool = False) -> tuple[int, list[str]]:
        """A night in this process; its exit code and the steps that were taken."""
        calls = self.root / "calls"
        calls.unlink(missing_ok=True)
        code = nightly.work(self.root, None, "cpu", 1000.0, self.steps(), issues)
        return code, calls.read_text().splitlines() if calls.exists() else []

    def state(self, commit: str = "refs/heads/asv-results") -> State:
        """The state, as the remote has it."""
        return parse(git(self.remote, "show", f"{commit}:cpu/state.json"))

    def results(self) -> set[str]:
        """The commits of which the remote has figures."""
        names = git(self.remote, "ls-tree", "-r", "--name-only", "asv-results").split()
        return {Path(name).name[:8] for name in names if name.endswith("-env.json")}

    def summary(self) -> str:
        """What the last night said."""
        return (self.root / ".asv" / "nightly.md").read_text()

    @property
    def branch(self) -> Path:
        """The worktree of the results."""
        return self.root / ".asv" / "asv-results"


def stop(world: World, at: str) -> None:
    """Have a world's night wait for its end at a step, or have no room from then on."""

    def before(step: str) -> None:
        if at == "disk" and step == "law":
            # No file may grow beyond what a result takes: what is written then fails as on a full disk.
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
        elif step == at:
            (world.root / ".asv" / "waiting").touch()
            time.sleep(600)

    world.before = before


if __name__ == "__main__":
    here = World(Path(sys.argv[1]))
    stop(here, sys.argv[2])
    sys.exit(nightly.work(here.root, None, "cpu", 1000.0, here.steps(), issues=False))
