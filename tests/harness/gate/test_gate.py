"""The gate on real processes: it finds what is planted, says what cannot be measured, and leaves nothing behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from benchmarks.gate.revisions import PACKAGE, UnknownRevision, extract, load

from benchmarks import ROOT
from benchmarks.__main__ import main
from benchmarks.commands import compare
from benchmarks.gate import processes as gate_process
from benchmarks.gate import report as gate_report
from benchmarks.gate import signals
from benchmarks.gate.injection import plant, solved
from benchmarks.gate.measuring import Gate, counter
from benchmarks.gate.processes import Broken
from benchmarks.gate.report import Row
from benchmarks.gate.rule import FAILED, IMPROVED, INCOMPARABLE, PASS, REGRESSED, UNSTABLE, decide

SMALL = "8x16-f32-fwd"

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="versions come from git, and this is a copy without it")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return extract(None, tmp_path_factory.mktemp("gate") / "base")


def edited(version, folder, file="layer.py", old="", new=""):
    """A copy of a version with one piece of text replaced, or some appended."""
    shutil.copytree(version.folder, folder)
    path = folder / PACKAGE / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1) if old else text + new)
    return replace(version, folder=folder)


def test_a_version_is_taken_out_as_it_was_and_loaded_beside_others(tmp_path, base):
    head = extract("HEAD", tmp_path / "head")
    tracked = subprocess.run(
        ["git", "show", "HEAD:taildropout/__init__.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (head.folder / PACKAGE / "__init__.py").read_text() == tracked.stdout
    assert (base.folder / PACKAGE / "layer.py").read_text() == (ROOT / PACKAGE / "layer.py").read_text()
    module = load(head.folder, "taildropout_seen_by_a_test")
    assert module.TailDropout.__module__ == "taildropout_seen_by_a_test.layer"
    with pytest.raises(ImportError, match="cannot be loaded as"):
        load(head.folder, "taildropout_seen_by_a_test")
    for name in [name for name in sys.modules if name.startswith("taildropout_seen_by_a_test")]:
        del sys.modules[name]


@pytest.mark.parametrize("revision", ["no-such-branch", "HEAD:README.md", "--help", ""])
def test_an_unknown_revision_is_named(tmp_path, revision):
    if revision == "":
        revision = " "
    with pytest.raises(UnknownRevision, match="names no commit"):
        extract(revision, tmp_path / "version")


def test_a_commit_without_the_package_is_named(tmp_path):
    first = subprocess.run(["git", "rev-list", "--max-parents=0", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    if (
        subprocess.run(["git", "cat-file", "-e", f"{first.stdout.split()[0]}:taildropout"], cwd=ROOT, check=False).returncode
        == 0
    ):
        pytest.skip("the first commit holds the package")
    with pytest.raises(UnknownRevision, match="holds no package"):
        extract(first.stdout.split()[0], tmp_path / "version")


def test_operators_under_a_fixed_name_are_refused(tmp_path, base):
    source = (
        "\nimport torch\n@torch.library.custom_op('taildropout::planted', mutates_args=())\n"
        "def planted(x: torch.Tensor) -> torch.Tensor:\n    return x.clone()\n"
    )
    head = edited(base, tmp_path / "head", "__init__.py", new=source)
    with pytest.raises(Broken, match=r"head.* cannot be imported: ImportError: .*not under its import name"):
        Gate(base, head, tmp_path).draw([SMALL], 1)


def test_a_head_that_cannot_be_imported_is_named(tmp_path, base):
    head = edited(base, tmp_path / "head", "__init__.py", new="\nraise RuntimeError('planted')\n")
    with pytest.raises(Broken, match="cannot be imported: RuntimeError: planted"):
        Gate(base, head, tmp_path).draw([SMALL], 1)


def test_a_process_that_dies_is_named(tmp_path, base):
    head = edited(base, tmp_path / "head", "__init__.py", new="\nimport os, sys; sys.stderr.write('so it ends'); os._exit(9)\n")
    with pytest.raises(Broken, match=r"died at 8x16-f32-fwd \(exit code 9\): so it ends"):
        Gate(base, head, tmp_path).draw([SMALL], 1)


def test_what_the_package_prints_is_no_finding(tmp_path, base):
    head = edited(base, tmp_path / "head", "__init__.py", new="\nprint('{\"end\": true}')\n")
    assert len(Gate(base, head, tmp_path).draw([SMALL], 2)[SMALL]) == 2


def forward_line(version):
    """The line of the layer's source behind which something can be planted."""
    text = (version.folder / PACKAGE / "layer.py").read_text()
    start = text.index("    def forward(")
    return text[start : text.index("\n", start) + 1]


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        ("        raise RuntimeError('planted')\n", "head: RuntimeError: planted"),
        ("        return input.clone()\n", "head: WrongResult"),
        ("        import time; time.sleep(60)\n", "both: it hangs: no result after 12 s"),
    ],
)
def test_a_case_that_raises_is_wrong_or_hangs_fails_and_the_others_are_measured(tmp_path, base, monkeypatch, planted, expected):
    line = forward_line(base)
    monkeypatch.setattr(gate_process, "SILENCE", 12.0)
    only = "        if input.numel() == 128 and input.requires_grad:\n    " + planted
    gate = Gate(base, edited(base, tmp_path / "head", old=line, new=line + only), tmp_path)
    rows = gate.process("time", ["8x16-f32-train", SMALL], 0)
    assert expected in gate.failures["8x16-f32-train"]
    assert [row["case"] for row in rows if "head" in row] == [SMALL]
    assert signals.lack_rows(gate, ["8x16-f32-train", SMALL]) == [
        Row("8x16-f32-train", "all", FAILED, note=gate.failures["8x16-f32-train"])
    ]


def test_what_one_side_lacks_cannot_be_compared(tmp_path, base):
    older = edited(base, tmp_path / "older", "__init__.py", new="\ndel TailDropout\n")
    gate = Gate(older, base, tmp_path)
    assert gate.draw([SMALL], 1) == {SMALL: []}
    assert [row.verdict for row in signals.lack_rows(gate, [SMALL])] == [INCOMPARABLE]
    gate = Gate(base, older, tmp_path)
    gate.draw([SMALL], 1)
    rows = signals.lack_rows(gate, [SMALL])
    assert [row.verdict for row in rows] == [FAILED]
    assert "missing in head" in rows[0].note
    assert gate_report.exit_code(rows) == 2


def test_more_bytes_saved_and_more_graphs_are_regressions(tmp_path, base):
    head = edited(base, tmp_path / "head", "selection/dispatch.py", "SAVE_ONLY_K_FROM = 2**14", "SAVE_ONLY_K_FROM = 2**30")
    rows = signals.count_rows(Gate(base, head, tmp_path), ["1024x512-f32-train"])
    found = {(row.case, row.signal): row for row in rows}
    bytes_saved = found["1024x512-f32-train", "bytes saved"]
    assert (bytes_saved.verdict, bytes_saved.base, bytes_saved.head) == (REGRESSED, 4096, 524288)
    assert found["compiler", "graphs"].verdict == PASS
    line = forward_line(base)
    head = edited(base, tmp_path / "breaks", old=line, new=line + "        torch._dynamo.graph_break()\n")
    rows = signals.count_rows(Gate(base, head, tmp_path), [])
    assert {row.signal: row.verdict for row in rows}["breaks"] == REGRESSED


@pytest.mark.slow  # valgrind
@pytest.mark.skipif(counter() is None, reason="neither a hardware counter nor valgrind counts instructions here")
def test_one_percent_more_instructions_is_found(tmp_path, base):
    case = "1024x512-f32-fwd"
    head = plant(base, tmp_path / "head", {case: ("python", 1500)})
    row = signals.instruction_rows(Gate(base, head, tmp_path), [case])[0]
    assert row.verdict == REGRESSED
    assert row.change > 0.01


def test_what_the_budget_leaves_no_time_for_is_not_known(tmp_path, base, monkeypatch):
    monkeypatch.setattr(signals, "counter", lambda: "callgrind")
    gate = Gate(base, base, tmp_path, deadline=time.monotonic() - 1)
    rows = signals.instruction_rows(gate, [SMALL]) + signals.time_rows(gate, [SMALL], 0.025)
    assert [(row.signal, row.verdict) for row in rows] == [("instructions", UNSTABLE), ("time", UNSTABLE)]
    assert gate.raw == []


@pytest.mark.slow
def test_twice_the_time_is_found_at_the_first_look(tmp_path, base):
    head = plant(base, tmp_path / "head", {SMALL: ("python", 2000)})
    gate = Gate(base, head, tmp_path)
    decision = decide([SMALL], gate.draw)[SMALL]
    assert decision.verdict == REGRESSED
    assert decision.estimate.change > 0.5
    assert {each["first"] for each in gate.raw} == {"base", "head"}
    assert len(gate.raw) == 12


def test_the_amount_to_plant_is_on_the_line_through_what_was_measured():
    assert solved([(100, 0.10)], 0.05) == pytest.approx(50)
    assert solved([(100, 0.11), (50, 0.06)], 0.05) == pytest.approx(40)
    assert solved([(100, 0.05), (50, 0.06)], 0.05) == 50  # noise alone: it stays where it is


def test_the_margin_is_the_largest_that_noise_explains():
    assert signals.margin([0.0]) == signals.LEAST_MARGIN
    assert signals.margin([0.001, -0.001, 0.0]) == pytest.approx(0.006)
    assert signals.margin([0.01]) == pytest.approx(0.03)


ROWS = [
    Row("quick", "time", PASS, 1e-5, 1.001e-5, 0.001, -0.01, 0.012, 0.8, 6),
    Row("slow", "time", REGRESSED, 1e-3, 1.06e-3, 0.06, 0.05, 0.07, 1e-9, 6, "second batch +6.1%"),
    Row("slower", "instructions", REGRESSED, 1000, 1100, 0.1),
    Row("noisy", "time", UNSTABLE, 1e-3, 1e-3, 0.0, -0.2, 0.2, 0.9, 24, "not settled after 24 processes"),
    Row("new", "all", INCOMPARABLE, note="missing in base: NotAvailable"),
]


def test_the_report_is_worst_first_and_marks_what_is_not_shown():
    text = gate_report.markdown(ROWS, "head against base", gate_report.line(ROWS, "base", "head"))
    order = [text.index(f"| {name} |") for name in ("slower", "slow", "noisy", "new", "quick", "geometric mean")]
    assert order == sorted(order)
    assert "+0.10% ~" in text
    assert "REGRESSED: head is slower: slower instructions +10.0%, slow time +6.0%" in text
    assert gate_report.geometric_mean(ROWS, "time") == pytest.approx((1.001 * 1.06) ** (1 / 3) - 1)


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([PASS, IMPROVED], 0),
        ([PASS, INCOMPARABLE], 0),
        ([INCOMPARABLE], 2),
        ([], 2),
        ([PASS, UNSTABLE], 3),
        ([UNSTABLE, FAILED], 2),
        ([FAILED, REGRESSED, UNSTABLE], 1),
    ],
)
def test_the_exit_code_is_that_of_the_worst(verdicts, code):
    assert gate_report.exit_code([Row("case", "time", verdict) for verdict in verdicts]) == code


def test_junit_holds_failures_and_errors():
    suite = ElementTree.fromstring(gate_report.junit(ROWS, "title"))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("5", "2", "1")
    assert [case.get("name") for case in suite if case.find("failure") is not None] == ["slower", "slow"]


def test_the_command_stores_rounds_and_verdict(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "VERDICT", tmp_path / "verdict.json")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setattr(signals, "counter", lambda: None)
    files = {name: tmp_path / name for name in ("json", "junit")}
    code = main(["compare", "HEAD", "--case", SMALL, *[f"--{name}={file}" for name, file in files.items()]])
    stored = json.loads(files["json"].read_text())
    assert code == gate_report.EXIT[stored["verdict"]]
    assert json.loads((tmp_path / "verdict.json").read_text())["line"] == stored["line"]
    times = [each for each in stored["processes"] if each["what"] == "time"]
    assert all(len(each["found"][0]["head"]) >= 9 for each in times)
    assert stored["environment"]["OMP_NUM_THREADS"] == "1"
    assert {stored["base"]["commit"], stored["head"]["commit"]} == {stored["base"]["commit"]}
    assert stored["line"] in capsys.readouterr().out.replace("\n", " ")
    assert stored["line"] in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such-commit"], "names no commit here"),
        (["HEAD", "--case", "8x16-f32-fwdd"], "near it are 8x16-f32-fwd"),
        (["HEAD", "--threshold", "5"], "no fraction of a time"),
        (["HEAD", "--device", "cpu", "--case", "cuda-8x16-f32-fwd"], "none of these cases runs on cpu"),
        (["HEAD", "--case", SMALL, "--json", "/dev/null/x"], "Could not measure"),
    ],
)
def test_what_cannot_be_measured_says_why(words, message, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(compare, "VERDICT", tmp_path / "verdict.json")
    monkeypatch.setattr(compare, "compare", lambda *_: ROWS)
    assert main(["compare", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["10", "0m", "m", "1d"])
def test_a_budget_that_is_no_time_is_refused(text, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["compare", "HEAD", "--budget", text])
    assert "write 90s, 10m or 1h" in capsys.readouterr().err


def test_an_interrupted_comparison_ends_its_processes_and_leaves_no_folder(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "compare", "HEAD", "--case", SMALL]
    surroundings = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("exact counts"):
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted" in errors
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 20  # a killed process may take a moment to go
    while measuring(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert measuring(tmp_path) == []


def measuring(folder):
    """The gate's processes that work for a comparison in `folder`."""
    there = Path("/proc").glob("[0-9]*/cmdline")
    return [file for file in there if b"gate_worker" in read(file) and str(folder).encode() in read(file.with_name("environ"))]


def read(file):
    """What a file of a process says; empty once it is gone."""
    try:
        return file.read_bytes()
    except OSError:
        return b""
