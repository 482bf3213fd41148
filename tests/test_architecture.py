"""Imports point one way and make no circle, as CONTRIBUTING says."""

import ast
import importlib.util
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import torch

import taildropout

ROOT = Path(__file__).parents[1]
PACKAGE = Path(taildropout.__file__).parent
# A module imports only what stands in a group before its own, or in its own folder. A folder stands for all its modules.
GROUPS = [
    ["_trees"],
    ["_torch"],
    ["distribution", "dims", "names", "tracing", "trees"],
    ["selection"],
    ["dropping"],
    ["functional"],
    ["compiled", "fixed_k"],
    ["layer"],
    ["models", "insert"],
    ["mlp", "pruning", "baselines"],
    ["widths"],
    ["__init__"],
    ["__main__"],
]
# Folders of which other folders and modules import only the names in `__all__` of their `__init__.py`.
FACES = {"selection", "mlp", "baselines"}
# What a module imports of an extra, inside the function that needs it; `triton_kernel` as a whole is imported so.
EXTRAS = {
    "graph": {"torch_pruning"},
    "progress": {"rich", "tqdm"},
    "result": {"matplotlib", "pandas"},
    "sizes": {"matplotlib", "pandas"},
    "triton_kernel": {"triton"},
}
# What the modules of `baselines` import of the package.
FOR_BASELINES = {"_torch", "distribution", "dims", "functional", "tracing"}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Return level (0: absolute) and full name of each import of a file, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((0, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [name.name for name in node.names]
            yield from ((node.level, name) for name in names)


def group(name: str) -> int:
    """Return the group number of a module or folder directly inside the package."""
    return next(number for number, names in enumerate(GROUPS) if name in names)


def test_every_module_of_the_package_has_its_place() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there == {name for group in GROUPS for name in group}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_of_the_package_point_one_way_and_are_relative(path: Path) -> None:
    place = path.relative_to(PACKAGE).with_suffix("").parts
    for level, name in imports(path):
        if level:
            assert level <= len(place), f"{path.name} leaves the package"
            target = (*place[: len(place) - level], *name.split("."))[0]
            assert target == place[0] or path.stem == "__main__" or group(target) < group(place[0]), (
                f"{path.name} imports {'.' * level}{name}"
            )
        else:
            allowed = {"torch", *sys.stdlib_module_names, *EXTRAS.get(path.stem, ())}
            assert name.partition(".")[0] in allowed, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_other_folders_are_imported_by_their_face(path: Path) -> None:
    place = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level or not node.module or node.level < len(place):
            continue  # of the same folder
        folder, *below = node.module.split(".")
        if folder in FACES and place[0] != folder:
            face = importlib.import_module(f"taildropout.{folder}")
            assert not below, f"{path.name} imports from {node.module}"
            assert {name.name for name in node.names} <= set(face.__all__), f"{path.name} imports what {folder} keeps"


@pytest.mark.parametrize("path", sorted((PACKAGE / "baselines").glob("*.py")), ids=lambda path: path.stem)
def test_baselines_import_the_law_and_keep_first_and_no_layer(path: Path) -> None:
    for level, name in imports(path):
        if level == 1:
            assert path.stem == "__init__", f"{path.name} imports another baseline, .{name}"
        elif level:
            assert level == 2, f"{path.name} leaves the package"
            assert name in FOR_BASELINES, f"{path.name} imports ..{name}"
        else:
            assert name.partition(".")[0] in {"torch", *sys.stdlib_module_names}, f"{path.name} imports {name}"


SUITE = ROOT / "benchmarks" / "suite"


@pytest.mark.parametrize("path", sorted(SUITE.rglob("*.py")), ids=lambda path: path.stem)
def test_the_suite_imports_torch_the_standard_library_and_itself(path: Path) -> None:
    depth = len(path.relative_to(SUITE).parts)
    for level, name in imports(path):
        allowed = {"torch", "taildropout", *sys.stdlib_module_names}
        inside = 0 < level <= depth
        assert inside or (level == 0 and name.partition(".")[0] in allowed), f"{path.name} imports {'.' * level}{name}"
        assert depth == 1 or name != "taildropout", "cases are handed the package, so that two versions fit"


# What each folder or module of `benchmarks` imports of the others. The gate knows neither the package nor the suite.
HARNESS = {
    "system": set(),
    "gate": {"system"},
    "suite": set(),
    "workload": {"system", "gate", "suite"},
    "results": {"system", "gate", "suite", "workload"},
}
HARNESS |= {folder: {*HARNESS} for folder in ("nightly", "dashboard", "profiling")}
HARNESS["commands"] = {*HARNESS}
HARNESS["__main__"] = set()  # it imports commands by name


def harness_imports(path: Path) -> set[str]:
    """Return the folders and modules of `benchmarks` that a file in it imports, without its own folder."""
    place = path.relative_to(ROOT / "benchmarks").with_suffix("").parts
    targets = {(*place[: len(place) - level], *name.split("."))[0] for level, name in imports(path) if level}
    targets |= {name.split(".")[1] for level, name in imports(path) if not level and name.startswith("benchmarks.")}
    return targets - {place[0], "ROOT"}


def test_every_part_of_the_harness_has_its_place() -> None:
    there = {path.relative_to(ROOT / "benchmarks").with_suffix("").parts[0] for path in (ROOT / "benchmarks").rglob("*.py")}
    assert there - {"__init__"} == {*HARNESS}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks").glob("*/**/*.py")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_imports_of_the_harness_point_one_way(path: Path) -> None:
    folder = path.relative_to(ROOT / "benchmarks").parts[0]
    assert harness_imports(path) <= HARNESS[folder]


def test_the_workload_imports_the_gate_and_the_suite() -> None:
    assert harness_imports(ROOT / "benchmarks" / "workload.py") == {"gate", "suite"}


@pytest.mark.parametrize("folder", [PACKAGE, ROOT / "benchmarks"], ids=["package", "harness"])
def test_no_imports_go_in_a_circle(folder: Path) -> None:
    """Imports inside functions count too."""
    modules = {(*path.relative_to(folder).parts[:-1], path.stem): path for path in folder.rglob("*.py")}
    graph: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for module, path in modules.items():
        for level, name in imports(path):
            target = (*module[: len(module) - level], *name.split(".")) if level else ()
            graph.setdefault(module, set()).update({target, (*target, "__init__")} & modules.keys() if level else set())
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").rglob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_use_public_names_and_no_tests(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "taildropout":
            assert node.module == "taildropout", f"{path.name} imports from {node.module}"
            assert {name.name for name in node.names} <= set(taildropout.__all__)
    assert not [name for level, name in imports(path) if name.partition(".")[0] == "tests" or "oracles" in name]


@pytest.mark.parametrize("folder", ["taildropout", "examples"])
def test_nothing_imports_tests(folder: str) -> None:
    there = PACKAGE if folder == "taildropout" else ROOT / folder
    names = {name.partition(".")[0] for path in there.rglob("*.py") for _, name in imports(path)}
    assert not names & {"tests", *(path.stem for path in (ROOT / "tests").glob("*.py"))}


def test_all_public_names_are_there() -> None:
    assert all(hasattr(taildropout, name) for name in taildropout.__all__)


def test_two_versions_live_side_by_side_under_two_names() -> None:
    twins = []
    for name in ("taildropout_base", "taildropout_head"):
        spec = importlib.util.spec_from_file_location(name, PACKAGE / "__init__.py", submodule_search_locations=[str(PACKAGE)])
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        twins.append(module)
    base, head = twins
    assert "taildropout_base.baselines" not in sys.modules, "baselines are imported before they are asked for"
    assert base.TailDropout is not head.TailDropout is not taildropout.TailDropout
    assert base.baselines.NestedDropout is not head.baselines.NestedDropout
    with pytest.raises(AttributeError, match="'taildropout_base' has no attribute 'baseline'"):
        _ = base.baseline
    assert base.rate.__module__ == "taildropout_base.distribution"
    operators = [package.mlp.operator.ragged_mlp for package in (taildropout, *twins)]
    assert [each._opoverload.namespace for each in operators] == ["taildropout", "taildropout_base", "taildropout_head"]
    input = torch.randn(300, 100)  # large enough for the autograd function, and the C code behind it
    for package in twins:
        layer = package.TailDropout()
        layer.set_k(7)
        assert torch.equal(layer(input), torch.where(torch.arange(1, 101) <= 7, input, 0))
    with pytest.raises(ValueError, match="no TailDropout"), base.at_k(head.TailDropout(), 3):
        pass
    for name in [each for each in sys.modules if each.startswith(("taildropout_base", "taildropout_head"))]:
        del sys.modules[name]


def test_three_files_lie_beside_the_folders_of_the_harness() -> None:
    assert sorted(path.name for path in (ROOT / "benchmarks").glob("*.py")) == ["__init__.py", "__main__.py", "workload.py"]
