"""`python -m benchmarks.gate compare` on a small asv project: two versions in lock step, each in its own environment.

No test needs a quiet machine: thresholds are 40 %, and what is injected takes three times as long. Nor does one need a network.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from gate.foreign_project import make_project, make_wheel
from gate.interrupts import heed_interrupts

ROOT = Path(__file__).parents[3]
MOST = 280  # seconds; each run takes a fraction of it
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Run:
    """A finished run of the command."""

    code: int
    output: str
    error: str
    folder: Path  # with the files that it wrote

    @property
    def stored(self) -> dict[str, Any]:
        """The JSON that it wrote."""
        stored: dict[str, Any] = json.loads((self.folder / "out.json").read_text())
        return stored

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows by benchmark."""
        return {row["case"]: row for row in self.stored["rows"]}


def command(folder: Path, *words: str) -> tuple[list[str], dict[str, str]]:
    """Return the words and the environment of a run whose temporary files lie in `folder`."""
    files = [f"--json={folder / 'out.json'}", f"--junit={folder / 'out.xml'}", f"--markdown={folder / 'out.md'}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    return [sys.executable, "-m", "benchmarks.gate", "compare", *words, *files, "--threshold=0.4"], env


def run(folder: Path, *words: str) -> Run:
    """Run the command to its end."""
    args, env = command(folder, *words)
    done = subprocess.run(args, cwd=ROOT, env=env, capture_output=True, text=True, timeout=MOST, check=False)
    return Run(done.returncode, done.stdout, done.stderr, folder)


def left_running(folder: Path) -> list[str]:
    """Return the command lines of living processes that name a file under `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        if str(folder) in line:
            found.append(line)
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small project's asv.conf.json."""
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def slower(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The version `slower` against `base`, all benchmarks."""
    return run(tmp_path_factory.mktemp("slower"), "base", "slower", f"--project={project}")


@pytest.mark.parametrize(
    ("name", "verdict", "note"),
    [
        ("times.Work.time_work(200, 'a')", "REGRESSED", "second batch"),
        ("times.Work.time_work(400, 'b')", "INCOMPARABLE", "skip"),
        ("times.Numbered.time_numbered", "REGRESSED", "second batch"),
        ("times.time_steady", "PASS", ""),
        ("times.Fresh.time_consuming", "PASS", ""),
        ("times.time_fails", "FAILED", "both: ValueError: as planned"),
        ("times.Unset.time_unset", "FAILED", "both: ValueError: no setup"),
        ("others.track_new", "INCOMPARABLE", "KeyError: 1"),
        ("others.track_lost", "FAILED", "head: KeyError: 2"),
        ("others.track_raises_then_skips", "FAILED", "base: ValueError: in base; head: "),
        ("others.track_raises_then_skips", "FAILED", "skipped in head"),
        ("times.time_hangs", "FAILED", "it hangs: no result after 4 s"),
        ("times.time_dies", "FAILED", "its process died (exit code 7)"),
        ("times.time_exits", "FAILED", "SystemExit: 3"),
        ("times.time_forks", "FAILED", "it forks"),
        ("times.time_prints", "FAILED", "prints to standard output"),
        ("times.time_counts_nothing", "FAILED", "its timer counted 0.0 s"),
        ("times.time_skipped", "INCOMPARABLE", "skip_benchmark"),
        ("times.time_skips_itself", "INCOMPARABLE", "not on this machine"),
        ("others.track_text", "INCOMPARABLE", "no number (type: str)"),
        ("others.Impossible.time_nothing", "FAILED", "RuntimeError: no instance"),
        ("broken", "FAILED", "a_module_that_is_not_there"),
    ],
)
def test_each_benchmark_has_its_verdict_by_name(slower: Run, name: str, verdict: str, note: str) -> None:
    row = slower.rows[name]
    assert (row["verdict"], note in row["note"]) == (verdict, True), row


def test_what_is_measured_is_the_version_and_its_own_dependency(slower: Run) -> None:
    """The package is called `rich`, as is one that the gate itself has imported."""
    for name in ("others.track_version", "others.track_ballast", "others.track_program"):
        row = slower.rows[name]
        assert (row["base"], row["head"], row["verdict"]) == (1, 2, "REGRESSED")
    assert "ballast 1 → 2" in slower.output


def test_each_benchmark_has_one_row(slower: Run) -> None:
    cases = [row["case"] for row in slower.stored["rows"]]
    assert len(cases) == len(set(cases))


def test_the_injected_slowdown_has_its_size(slower: Run) -> None:
    """The loop is three times as long. The longer call meets more interrupts, which a crowded machine adds to it."""
    assert 1.0 < slower.rows["times.Work.time_work(400, 'a')"]["change"] < 5.0


def test_the_files_and_the_exit_code_say_the_same(slower: Run) -> None:
    assert slower.code == 1
    assert slower.stored["verdict"] == "REGRESSED"
    suite = ElementTree.parse(slower.folder / "out.xml").getroot()
    assert suite.get("failures") == str(sum(row["verdict"] == "REGRESSED" for row in slower.stored["rows"]))
    text = (slower.folder / "out.md").read_text()
    assert all(name.replace("|", "\\|") in text for name in slower.rows)


def test_it_says_before_it_measures_how_long_it_takes(slower: Run) -> None:
    said = slower.output.index("It takes about")
    assert slower.output.index("time of ") > said


def test_a_share_of_the_pairs_is_base_against_base(slower: Run) -> None:
    first = slower.stored["pairs"][:9]
    assert sum(pair["against_itself"] for pair in first) == 3
    same = [times for pair in first if pair["against_itself"] for times in pair["times"]]
    assert {tuple(times["seconds"]) for times in same} == {("base", "base_copy")}
    assert "Base against base" in slower.output


def test_rounds_are_long_and_both_sides_have_as_many(slower: Run) -> None:
    for pair in slower.stored["pairs"]:
        for times in pair["times"]:
            base, head = times["seconds"].values()
            assert len(base) == len(head) >= 3
    for name, plan in slower.stored["plans"].items():
        if slower.rows[name]["signal"] == "time" and "Work" in name:
            assert plan["timed"] >= 0.005 or plan["seconds"] >= 0.25


def test_pairs_are_pinned_to_cores_that_there_are(slower: Run) -> None:
    allowed = os.sched_getaffinity(0)
    assert {pair["core"] for pair in slower.stored["pairs"]} <= {*allowed, None}


def test_nothing_is_left_of_a_run(slower: Run) -> None:
    assert not left_running(slower.folder)
    assert {path.name for path in slower.folder.iterdir()} == {"out.json", "out.xml", "out.md"}


def test_equal_versions_pass(project: Path, tmp_path: Path) -> None:
    """`head` differs from `base` in its version and its dependency alone."""
    found = run(tmp_path, "base", "head", f"--project={project}", "--bench=Numbered", "--bench=steady")
    rows = {name: row["verdict"] for name, row in found.rows.items()}
    # A module that cannot be imported is told, but does not match --bench, and decides nothing.
    assert rows == {"broken": "INCOMPARABLE", "times.Numbered.time_numbered": "PASS", "times.time_steady": "PASS"}
    assert found.code == 0


def test_a_revision_that_does_not_build_is_named(project: Path, tmp_path: Path) -> None:
    found = run(tmp_path, "base", "broken", f"--project={project}")
    assert found.code == 2
    assert re.search(r"Could not measure: broken \([0-9a-f]{8}\) cannot be built: python gave exit code 1", found.error)
    assert not list(tmp_path.iterdir())


def wheels_and_suite(folder: Path, source: str) -> tuple[list[str], Path]:
    """Make two wheels, and a suite of one module; return the words of a comparison and where it may write."""
    wheels, suite, out = folder / "wheels", folder / "suite", folder / "out"
    for path in (wheels, suite, out):
        path.mkdir()
    for version in (1, 2):
        make_wheel(wheels, version)
    (suite / "bench.py").write_text(source)
    (suite / "__init__.py").write_text("")
    return [*(str(wheels / f"ballast-{version}-py3-none-any.whl") for version in (1, 2)), f"--suite={suite}"], out


def test_two_wheels_and_a_suite_need_no_project(tmp_path: Path) -> None:
    words, folder = wheels_and_suite(tmp_path, "import ballast\n\ndef track_version():\n    return ballast.VERSION\n")
    found = run(folder, *words)
    assert found.code == 1, found.error
    row = found.rows["bench.track_version"]
    assert (row["base"], row["head"]) == (1, 2)


def test_releases_of_a_dependency_are_compared_with_the_project_beside_them(project: Path, tmp_path: Path) -> None:
    wheels = [str(project / "wheels" / f"ballast-{version}-py3-none-any.whl") for version in (1, 2)]
    result = run(tmp_path, *wheels, f"--project={project}", "--bench=track_ballast", "--bench=track_version")
    assert (result.code, result.error) == (1, "")
    assert "the working tree of small is installed" in result.output
    rows = result.rows
    assert (rows["others.track_ballast"]["base"], rows["others.track_ballast"]["head"]) == (1.0, 2.0)
    assert (rows["others.track_version"]["base"], rows["others.track_version"]["head"]) == (2.0, 2.0)


def test_a_budget_ends_a_call_that_would_go_on(tmp_path: Path) -> None:
    """The call, and its timeout, are longer than this test may take."""
    words, folder = wheels_and_suite(
        tmp_path, "import time\n\ndef time_long():\n    time.sleep(900)\ntime_long.timeout = 900\n"
    )
    found = run(folder, *words, "--budget=30s")
    assert found.code == 3, found.error
    assert found.rows["bench.time_long"]["verdict"] == "UNSTABLE"
    assert "budget" in found.rows["bench.time_long"]["note"]


def test_the_working_tree_is_head_where_none_is_given(project: Path, tmp_path: Path) -> None:
    """With its changes, and the changed suite."""
    package, suite = project.parent / "rich.py", project / "suite" / "others.py"
    former = {file: file.read_text() for file in (package, suite)}
    package.write_text(former[package].replace("VERSION = 2", "VERSION = 5", 1))
    suite.write_text("import rich\n\ndef track_fresh():\n    return rich.VERSION\n")
    try:
        found = run(tmp_path, "base", f"--project={project}", "--bench=track_fresh")
    finally:
        for file, text in former.items():
            file.write_text(text)
    row = found.rows["others.track_fresh"]
    assert (row["base"], row["head"]) == (1, 5)
    assert re.search(r"head working tree \([0-9a-f]{8} with changes\)", found.output)


def test_a_budget_ends_it_with_what_is_known(project: Path, tmp_path: Path) -> None:
    """The pairs that are needed take longer than what building and trying leave of the budget, whatever the machine."""
    found = run(tmp_path, "base", "head", f"--project={project}", "--bench=Work", "--bench=raw", "--cores=1", "--budget=30s")
    assert found.code in (2, 3), found.output  # 2: the broken module ranks above
    assert {row["verdict"] for name, row in found.rows.items() if "200" in name} == {"UNSTABLE"}


@pytest.fixture
def measuring(project: Path, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A run that is measuring."""
    args, env = command(tmp_path, "base", "head", f"--project={project}", "--bench=Work")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(args, cwd=ROOT, env=env, **pipes, preexec_fn=heed_interrupts) as process:
        assert process.stdout is not None
        assert any(line.startswith("time of") for line in process.stdout)
        while len(left_running(tmp_path)) < 2:  # this run, and the processes of a pair
            assert process.poll() is None
            time.sleep(0.05)
        yield process
        process.kill()


def wait_until_none(folder: Path) -> Sequence[str]:
    """Return the processes that are left after a while."""
    for _ in range(100):
        if not left_running(folder):
            break
        time.sleep(0.1)
    return left_running(folder)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_nothing(measuring: "subprocess.Popen[str]", tmp_path: Path, how: signal.Signals) -> None:
    for _ in range(20):  # an impatient user
        measuring.send_signal(how)
        time.sleep(0.02)
    output, _ = measuring.communicate(timeout=60)
    assert measuring.returncode == 130, output
    assert not wait_until_none(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_kill_leaves_no_process_and_no_file(measuring: "subprocess.Popen[str]", tmp_path: Path) -> None:
    measuring.kill()
    measuring.wait(60)
    assert not wait_until_none(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]
