"""The pages are complete, and the names, files, commands and targets in them exist. `make docs` builds the pages."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import taildropout
from benchmarks import ROOT
from benchmarks import __main__ as commands

DOCS = ROOT / "docs"
GITHUB = sorted(file for end in ("yml", "md") for file in (ROOT / ".github").rglob(f"*.{end}"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
PUBLIC = [*taildropout.__all__, *taildropout.baselines.__all__]
# Names in the text that a clone does not have: folders that a command creates, patterns, and files of the reader.
MADE = ("docs/_build", ".asv/", ".venv", "dist/", "docs/compatibility.md")


def sections() -> dict[str, str]:
    """Return each object on the API page with the text up to the next object."""
    parts = re.split(
        r"^\.\. auto(?:class|function|exception|module):: (\S+)$", (DOCS / "api.rst").read_text("utf-8"), flags=re.M
    )
    return {name.removeprefix("taildropout."): text for name, text in zip(parts[1::2], parts[2::2], strict=True)}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_on_the_api_page_with_an_example(name: str) -> None:
    assert name in sections(), f"add it to docs/api.rst: .. autofunction:: {name}"
    named = getattr(taildropout, name, None) or getattr(taildropout.baselines, name)
    if not inspect.ismodule(named):
        assert ">>> " in sections()[name] or ">>> " in (inspect.getdoc(named) or ""), (
            "give an example there or in its docstring"
        )


def test_the_api_page_has_nothing_else() -> None:
    assert set(sections()) - set(PUBLIC) <= {
        "baselines.marginal",
        "widths.sizes.Size",
    }  # a module's text; what `Frontier.points` holds


def test_every_page_is_in_a_list_of_contents() -> None:
    listed = {
        line
        for part in (DOCS / "index.md").read_text("utf-8").split("```{toctree}")[1:]
        for line in part.split("```")[0].split("\n")
    }
    assert {page.stem for page in DOCS.iterdir() if page.suffix in (".md", ".rst")} - {"index"} <= listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_files_that_exist(page: Path) -> None:
    examples = {file.name for file in (ROOT / "examples").rglob("*.py")}
    examples |= {file.name for file in Path(taildropout.__file__).parent.glob("*.py")}
    for path in re.findall(
        r"`((?:taildropout|benchmarks|tests|examples|docs|\.ci|\.github)/[^`\s{}]*|\w+\.py)`", page.read_text("utf-8")
    ):
        if path.startswith(MADE):
            continue
        home = Path(taildropout.__file__).parents[1] if path.startswith("taildropout/") else ROOT  # which may be a wheel
        assert path in examples or (home / path).exists(), f"{page.name} names {path}"


@pytest.mark.parametrize("page", [*PAGES, *GITHUB], ids=lambda page: page.name)
def test_a_page_names_commands_that_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    assert set(re.findall(r"(?:`|^|run: )make (\w+)", text, re.M)) <= targets
    assert set(re.findall(r"-m benchmarks ([a-z]+)", text)) <= set(commands.COMMANDS)
    for module in re.findall(r"-m (benchmarks(?:\.\w+)+)", text):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), f"{page.name} runs {module}"


@pytest.mark.history
def test_the_map_has_each_folder_and_each_file_at_the_top() -> None:
    tracked = [Path(name) for name in held()]
    the_map = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## The map")[1].split("\n## ")[0]
    named = {
        name.rstrip("/") for line in the_map.splitlines() if line.startswith("| `") for name in re.findall(r"`([^`]+)`", line)
    }
    files = {str(path) for path in tracked if len(path.parts) == 1}
    assert files <= named, f"not on CONTRIBUTING's map: {', '.join(sorted(files - named))}"
    folders = {path.parts[0] for path in tracked if len(path.parts) > 1}
    folders |= {
        "/".join(path.parts[:2]) for path in tracked if len(path.parts) > 2 and path.parts[0] in ("taildropout", "benchmarks")
    }
    assert folders <= named, f"not on CONTRIBUTING's map: {', '.join(sorted(folders - named))}"
    rows = {line.split("`")[1] for line in the_map.splitlines() if line.startswith("| `") and line.split("`")[1].endswith("/")}
    tests = {f"tests/{name}" for name in ("package", "harness", "examples", "docs")}
    gone = [name for name in sorted(files | rows | tests) if not (ROOT / name).exists()]
    assert not gone, f"on CONTRIBUTING's map and not there: {', '.join(gone)}"
    assert len(the_map.splitlines()) <= 50, "the map fits one screen"


def held() -> list[str]:
    """Return the files that git tracks, or would track: untracked files that it does not ignore."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).exists()]


def test_links_that_lead_nowhere_and_what_comes_from_elsewhere_are_found(tmp_path: Path) -> None:
    words = [sys.executable, str(DOCS / "links.py"), str(tmp_path)]
    (tmp_path / "other.html").write_text('<h1 id="here">x</h1>')
    page = tmp_path / "index.html"
    page.write_text('<a href="other.html#here">x</a><a href="#top" id="top">x</a><a href="https://example.org">x</a>')
    right = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (right.returncode, right.stdout) == (0, "every internal link leads somewhere\n")
    lost = ["other.html#there", "absent.html", "#absent"]
    links = "".join(f'<a href="{address}">x</a>' for address in lost)
    page.write_text(f'{links}<script src="https://cdn.example/x.js"></script><img src="absent.png">')
    wrong = subprocess.run(words, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert set(wrong.stdout.splitlines()) == {
        *(f"index.html: {address}" for address in [*lost, "absent.png"]),
        "index.html: https://cdn.example/x.js is loaded from another site",
    }
