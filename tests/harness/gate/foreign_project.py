"""A small project with an asv suite, in a git repository of its own: tags `base`, `head`, `slower` and `broken`."""

import json
import subprocess
import zipfile
from pathlib import Path

# The package is called `rich`: the gate imports one of that name itself, and must not measure that one.
PACKAGE = '''
"""A package whose work is a loop."""
import ballast

VERSION = {version}
BALLAST = ballast.VERSION
LOOP = {loop}

def work(n):
    total = 0
    for i in range(n * LOOP // 100):
        total += i
    return total
'''

SUITE = {
    "__init__.py": "",
    "times.py": """
import os
import time
from asv_runner.benchmarks.mark import SkipNotImplemented, skip_benchmark, skip_params_if
import rich

class Work:
    params = [[200, 400], ["a", "b"]]
    param_names = ["n", "letter"]

    def setup_cache(self):
        with open("made", "w") as file:
            file.write("by setup_cache")
        return {"version": rich.VERSION}

    def setup(self, cache, n, letter):
        assert open("made").read() == "by setup_cache"
        assert cache["version"] == rich.VERSION
        if letter == "b" and n == 400:
            raise NotImplementedError("no b of 400")
        self.n = n

    def time_work(self, cache, n, letter):
        rich.work(self.n)

    def teardown(self, cache, n, letter):
        assert self.n == n

class Unset:
    def setup(self):
        raise ValueError("no setup")

    def time_unset(self):
        pass

    def teardown(self):
        self.never_made.close()

def time_steady():
    sum(range(500))

def time_fails():
    raise ValueError("as planned")

def time_hangs():
    time.sleep(1000)
time_hangs.timeout = 4

def time_dies():
    os._exit(7)

def time_exits():
    raise SystemExit(3)

def time_forks():
    os.fork()

def time_prints():
    print("hello")

@skip_benchmark
def time_skipped():
    rich.work(10)

def time_skips_itself():
    raise SkipNotImplemented("not on this machine")

def time_counts_nothing():
    rich.work(10)
time_counts_nothing.timer = lambda: 1.0

class Numbered:
    number = 3

    def time_numbered(self):
        rich.work(100)

class Fresh:
    def setup(self):
        self.items = list(range(300))

    def time_consuming(self):
        while self.items:
            self.items.pop()
        assert not self.items
""",
    "others.py": """
import os
import subprocess
import sys
import rich

def timeraw_loop():
    return "for i in range(300000): pass", "import rich"

def track_version():
    return rich.VERSION

def track_ballast():
    return rich.BALLAST

def track_text():
    return "a text"

def track_new():
    return {2: 1.0}[rich.VERSION]

def track_lost():
    return {1: 1.0}[rich.VERSION]

def track_raises_then_skips():
    raise {1: ValueError("in base"), 2: NotImplementedError("skipped in head")}[rich.VERSION]

def track_starts_a_daemon():
    sleep = [sys.executable, "-c", "import time; time.sleep(600)", os.getcwd()]
    subprocess.Popen(sleep, start_new_session=True, stdout=subprocess.DEVNULL)
    return 1

def track_program():
    return int(subprocess.check_output(["python", "-c", "import rich; print(rich.VERSION)"]))

def peakmem_list():
    return [0] * 100_000

class Impossible:
    def __init__(self):
        raise RuntimeError("no instance")

    def time_nothing(self):
        pass
""",
    "broken.py": "import a_module_that_is_not_there\n\ndef time_unreachable():\n    pass\n",
}

CONFIG = {
    "version": 1,
    "project": "small",
    "repo": "..",
    "environment_type": "virtualenv",
    "benchmark_dir": "suite",
    "build_command": ["python -m pip wheel --no-deps --no-index --no-build-isolation -q -w {build_cache_dir} {build_dir}"],
    "install_command": ["in-dir={env_dir} python -m pip install -q --no-index --find-links {conf_dir}/wheels {wheel_file}"],
    "matrix": {"env_nobuild": {"LETTER": ["x", "y"]}},
    "default_benchmark_timeout": 30,
}

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "small"
version = "{version}"
dependencies = ["ballast=={version}"]

[tool.setuptools]
py-modules = ["rich"]
"""


def make_project(folder: Path) -> Path:
    """Make the repository; return the folder of its asv.conf.json."""
    project = folder / "benchmarking"
    (project / "suite").mkdir(parents=True)
    (project / "wheels").mkdir()
    for version in (1, 2):
        make_wheel(project / "wheels", version)
    text = json.dumps(CONFIG, indent=1).replace('"version": 1', '// a comment, as asv allows\n "version": 1', 1)
    (project / "asv.conf.json").write_text(text)
    (folder / ".gitignore").write_text("wheels/\n")
    git(folder, "init", "--quiet", "--initial-branch=main")
    for name, version, loop in (("base", 1, 100), ("head", 2, 100), ("slower", 2, 300)):
        for file, source in SUITE.items():
            (project / "suite" / file).write_text(source if name != "base" else "")
        (folder / "rich.py").write_text(PACKAGE.format(version=version, loop=loop))
        (folder / "pyproject.toml").write_text(PYPROJECT.format(version=version))
        commit(folder, name)
    (folder / "pyproject.toml").write_text("[build-system]\nrequires = ['nothing like it']\nbuild-backend = 'nothing'\n")
    commit(folder, "broken")
    git(folder, "checkout", "--quiet", "--detach", "head")
    return project


def make_wheel(folder: Path, version: int) -> None:
    """Make a wheel of the dependency, without building."""
    name = f"ballast-{version}"
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("ballast.py", f"VERSION = {version}\n")
        wheel.writestr(f"{name}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: ballast\nVersion: {version}\n")
        wheel.writestr(
            f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{name}.dist-info/RECORD", "")


def commit(folder: Path, tag: str) -> None:
    """Commit everything under a tag."""
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "--allow-empty", "-m", tag)
    git(folder, "tag", tag)


def git(folder: Path, *words: str) -> None:
    """Run git."""
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)
