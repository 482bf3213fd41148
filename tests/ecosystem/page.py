"""The page of recipes, docs/libraries.md: its blocks of code and its tables."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "libraries.md"


def recipes() -> dict[str, str]:
    """Return the code of each section, by its title. Empty lines stand for the text, so that line numbers are the page's."""
    code: dict[str, list[str]] = {}
    title, inside = "", False
    for number, line in enumerate(PAGE.read_text("utf-8").splitlines(), 1):
        if not inside and line.startswith("## "):
            title = line.removeprefix("## ")
        elif line.startswith("```"):
            inside = line == "```python"
        elif inside:
            lines = code.setdefault(title, [])
            lines += [""] * (number - 1 - len(lines)) + [line]
    return {name: "\n".join(lines) for name, lines in code.items()}


def run(code: str) -> dict[str, Any]:
    """Run the code of a section in a namespace of its own, and return that; skip the test if a library is missing."""
    tree = ast.parse(code, str(PAGE))
    for module in _imported(tree):
        require(module)
    namespace: dict[str, Any] = {"__name__": "recipe"}
    exec(compile(tree, str(PAGE), "exec"), namespace)
    return namespace


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)


def require(module: str) -> None:
    """Skip the test if a library is missing, or was built for another torch; the reason says which."""
    name = module.partition(".")[0]
    try:
        importlib.import_module(name)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision built for another torch
        if name == "taildropout":
            raise
        pytest.skip(f"{name} cannot be imported ({error}): make ecosystem installs it")


def placements(library: str) -> dict[str, dict[str, Any]]:
    """Return the arguments of `insert_dropout` by model, as in the table of this library's models."""
    table = PAGE.read_text("utf-8").split(f"| model of {library} |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (`.+?) \| `(.+)` \|$", table, re.MULTILINE)
    return {model.replace("`", ""): eval(f"dict({arguments})") for model, arguments in rows}
