"""Run the tests on the oldest, the pinned and the newest torch, and on each installed Python with the pinned torch.

    python .ci/matrix.py                           all versions, all of `make test`: what `make matrix` calls
    python .ci/matrix.py --only oldest newest --package     two versions, only the package's tests: what CI calls
    python .ci/matrix.py --write docs/compatibility.md      the first, with the table written to a file; with --only the
                                                            other versions have the results of their last runs

Each version has its own environment (2 to 6 GB) in `--home`, which is kept. Versions whose tests passed with the same source
are skipped, so an interrupted run continues where it stopped.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = "docs/compatibility.md"
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
PACKAGE_TESTS = "tests/package"


@dataclass
class Result:
    """The result of the tests with one version. `skips` counts reasons."""

    name: str
    python: str
    torch: str
    package_only: bool
    source: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    skips: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def row(self) -> list[str]:
        """Return the cells of this version's row in the table."""
        why = "; ".join(f"{count} × {reason}" for reason, count in sorted(self.skips.items(), key=lambda item: -item[1]))
        counts = [str(count) for count in (self.passed, self.failed, self.skipped)]
        return [self.name, self.python, self.torch, *counts, self.source[:8], why.replace("|", "\\|")]


def oldest() -> str:
    """Return the oldest torch version that the package declares, with three numbers, as pip installs exactly: 2.8.0."""
    found = re.search(r'dependencies = \["torch>=([\d.]+)"\]', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit('pyproject.toml does not declare dependencies = ["torch>=X.Y"], from which the oldest torch is read')
    return found[1] + ".0" * (2 - found[1].count("."))


def pythons() -> dict[str, str]:
    """Return version and program of each working Python, on the path or under pyenv."""
    found = {}
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in PYTHONS:
        kept = sorted(str(path) for path in home.glob(f"{version}.*/bin/python{version}"))
        for program in [shutil.which(f"python{version}"), *reversed(kept)]:
            if program and subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode == 0:
                found[version] = program
                break
    return found


def versions(programs: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Return name, Python and torch of each row of the table."""
    base = f"{sys.version_info.major}.{sys.version_info.minor}"
    programs.setdefault(base, sys.executable)
    yield "oldest", programs[base], oldest()
    yield "pinned", programs[base], "pinned"
    yield "newest", programs[base], "newest"
    for version, program in programs.items():
        if version != base:
            yield f"python{version}", program, "pinned"


def source() -> str:
    """Return a hash of all source files but the table of results; without git the time, so that every run is new."""
    listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False)
    names = sorted(name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file())
    if listed.returncode or not names:
        return datetime.now(UTC).isoformat()  # without git every run is new
    digest = hashlib.sha256()
    for name in names:
        if name != TABLE:  # the results are written into this file
            digest.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    return digest.hexdigest()[:16]


def make(*words: str) -> int:
    """Run `make`; return its exit code."""
    return subprocess.run(["make", "--no-print-directory", *words], cwd=ROOT, check=False).returncode


def run(name: str, program: str, torch: str, home: Path, package_only: bool) -> Result:
    """Return the result of one version: the stored one if its tests passed with the same source, else that of a new run."""
    kind = "-package" if package_only else ""
    stored, report, venv = home / f"{name}{kind}.json", home / f"{name}{kind}.xml", home / name
    here = source()
    result = last(name, home, package_only)
    if result and result.source == here and not result.failed:
        print(f"==> {name}: ran on this source already", flush=True)
        return result
    print(f"==> {name}: {program}, torch {torch}", flush=True)
    if make("environment", f"VENV={venv}", f"BASE={program}", f"TORCH={torch}"):
        raise SystemExit(f"{name}: the environment could not be made, as pip says above; run the same command again")
    python = str(venv / "bin" / "python")
    ask = "import platform, torch; print(platform.python_version(), torch.__version__)"
    asked = subprocess.run([python, "-W", "ignore", "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    report.unlink(missing_ok=True)
    chosen = PACKAGE_TESTS if package_only else ""
    code = make("test", f"PYTHON={python}", f"REPORT={report}", f"ARGS={chosen}")
    if not report.exists():
        raise SystemExit(f"{name}: the tests ended with exit code {code} and without a report")
    result = read(report, Result(name, asked[0], asked[1], package_only, here))
    stored.write_text(json.dumps(asdict(result)), encoding="utf-8")
    return result


def last(name: str, home: Path, package_only: bool) -> Result | None:
    """Return the result of a version's last run, or None if it has not run yet."""
    stored = home / f"{name}{'-package' if package_only else ''}.json"
    return Result(**json.loads(stored.read_text(encoding="utf-8"))) if stored.exists() else None


def read(report: Path, result: Result) -> Result:
    """Fill in the counts, the failed tests and the reasons for skips from pytest's JUnit report."""
    skips: Counter[str] = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            result.failures.append(f"{case.get('classname')}::{case.get('name')}")
        elif skip is not None:
            skips[" ".join(str(skip.get("message")).split())] += 1
        else:
            result.passed += 1
    result.skips, result.skipped, result.failed = dict(skips), skips.total(), len(result.failures)
    return result


HEAD = ["", "Python", "torch", "passed", "failed", "skipped", "sources", "why skipped"]


def table(results: list[Result], missing: list[str]) -> str:
    """Return the results as Markdown, with the versions that were not tested."""
    what = "the package's own tests" if results[0].package_only else "`make test`"
    rows = [HEAD, ["---"] * len(HEAD), *(result.row() for result in results)]
    lines = [f"{what}, {datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}:", ""]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    tried = ", ".join(missing)
    lines += ["", "Versions with the same sources, a hash of all files, were tested on the same files."]
    lines += ["", f"Not tried: {f'Python {tried} (not installed), ' if missing else ''}macOS, Windows, musl, a GPU."]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the versions that the arguments name; return 1 if a test failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="oldest, pinned, newest, python3.12 …; default: all")
    parser.add_argument("--package", action="store_true", help="the tests of the package alone, without harness and examples")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table into a file, under a title")
    parser.add_argument("--home", type=Path, default=Path.home() / ".cache" / "taildropout-matrix", help="default: %(default)s")
    asked = parser.parse_args()
    programs = pythons()
    chosen = list(versions(programs))
    unknown = set(asked.only or ()) - {name for name, _, _ in chosen}
    if unknown:
        parser.error(f"--only {', '.join(sorted(unknown))}: there are {', '.join(name for name, _, _ in chosen)}")
    asked.home.mkdir(parents=True, exist_ok=True)
    wanted = [each for each in chosen if not asked.only or each[0] in asked.only]
    known = {each[0]: last(each[0], asked.home, asked.package) for each in chosen if asked.write}
    known |= {each[0]: run(*each, asked.home, asked.package) for each in wanted}
    results = [result for name, _, _ in chosen if (result := known.get(name)) is not None]
    text = table(results, [version for version in PYTHONS if version not in programs])
    print(f"\n{text}")
    for result in results:
        print("\n".join(f"failed on {result.name}: {test}" for test in result.failures))
    if asked.write:
        head = "# Compatibility\n\nWritten by `python .ci/matrix.py --write docs/compatibility.md`, which `make matrix` runs: "
        asked.write.parent.mkdir(exist_ok=True)
        asked.write.write_text(head + text, encoding="utf-8")
    return int(any(result.failed for result in results))


if __name__ == "__main__":
    sys.exit(main())
