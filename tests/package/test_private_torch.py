"""Private names of torch stand in `taildropout/_torch.py` alone, and without any of them the package gives the same numbers."""

import ast
import shutil
import sys
from collections import OrderedDict, namedtuple
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree

import taildropout
from benchmarks.suite.loading import load
from taildropout import _torch, _trees

PACKAGE = Path(taildropout.__file__).parent
# What torch documents for subclasses to use or to override: the protocols of nn.Module and of Distribution.
PROTOCOLS = {"_modules", "_parameters", "_buffers", "_apply", "_load_from_state_dict"}
PROTOCOLS |= {"_get_checked_instance", "_extended_shape", "_validate_args", "_validate_sample", "_instance"}
# Names of torch-pruning, which is an extra with a version of its own.
PRUNING = {"_param_to_name", "_module2name", "_grad_fn"}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "_torch.py")


@cache
def own_names() -> set[str]:
    """Return all names that the package defines or assigns, attributes included."""
    nodes = [node for path in FILES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    named = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return named | stored | {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}


def private_names(source: str, own: set[str]) -> list[str]:
    """Return the private names of torch in a source: attributes, imports and dotted text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            found.append(node.attr)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            parts = [*str(node.module).split("."), *(name.name for name in node.names)]
            found += [part for part in parts if part.startswith("_")]
        elif isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.startswith("torch") and "._" in name.name]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("torch._"):
            found.append(node.value)
    return [name for name in found if name not in own | PROTOCOLS | PRUNING]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_other_module_uses_a_private_name_of_torch(path: Path) -> None:
    assert not private_names(path.read_text(encoding="utf-8"), own_names())


@pytest.mark.parametrize(
    "line",
    [
        "torch._C._has_storage(x)",
        "x._is_zerotensor()",
        "from torch.utils._pytree import tree_map",
        "from torch.utils import _pytree",
        "import torch._dynamo",
        "'torch._dynamo' in sys.modules",
    ],
)
def test_a_private_name_elsewhere_is_found(line: str) -> None:
    assert private_names(line, own_names())


def numbers(package: ModuleType) -> list[Tensor]:
    """Outputs and gradients in every way that asks for a private name."""
    torch.manual_seed(0)
    found = []
    for shape in [(8, 16), (300, 100), (3, 40, 200)]:
        for dtype in (torch.float32, torch.bfloat16):
            input = torch.randn(shape).to(dtype).requires_grad_()
            layer = package.TailDropout(0.4)
            for k in (None, 7):
                layer.set_k(k)
                output = layer(input)
                found += [output.detach(), *torch.autograd.grad(output.square().sum(), input)]
    found.append(package.keep_first(torch.randn(200, 300).t(), torch.tensor(5)))
    found.append(package.keep_first(torch._efficientzerotensor((200, 300)), 3))
    found.append(torch.func.vmap(lambda row: package.keep_first(row, 3))(torch.randn(200, 100)))
    found += torch.func.jvp(lambda row: package.keep_first(row, 3), (torch.randn(200, 100),), (torch.randn(200, 100),))
    found.append(package.TailDropout(0.4, inplace=True)(torch.randn(200, 100)))
    layer = package.TailDropout(0.4)
    layer._constants.prepare(8, torch.device("cpu"))
    found += layer._constants.kept[8, torch.device("cpu")]
    # In float64, since TailMLP and the four modules that replace it add up in another order.
    block = package.TailMLP(64, 256, 64, activation=nn.GELU(), p=0.5).double()
    rows = torch.randn(4096, 64, dtype=torch.float64, requires_grad=True)
    output = block(rows)
    found += [output.detach(), *torch.autograd.grad(output.sum(), [rows, *block.parameters()])]
    batches = [(rows.detach()[:50], torch.randn(50, 64, dtype=torch.float64))]
    found.append(package.scree(block, block[2], batches, nn.functional.mse_loss, widths=[1, 5, 256], progress=False).loss)
    return found


@pytest.fixture(scope="module")
def expected() -> list[Tensor]:
    return numbers(taildropout)


HIDDEN = [
    "_C._are_functorch_transforms_active",
    "_C._len_torch_dispatch_stack",
    "_C._functorch.is_functorch_wrapped_tensor",
    "_C._has_storage",
    "Tensor._is_zerotensor",
    "Tensor._version.__get__",
    "_current_level",
    "_global_forward_hooks",
    "_forward_hooks",
    "_is_exporting_flag",
    "_orig_mod",
    "_compiled_call_impl",
    "_dynamo_marked_constant",
    "_C._DisableFuncTorch",
    "utils._python_dispatch._disable_current_modes",
    "torch._dynamo",
    "torch.utils._pytree",
]


@pytest.mark.parametrize("name", HIDDEN)
def test_without_a_private_name_the_numbers_are_the_same(name: str, expected: list[Tensor], tmp_path: Path) -> None:
    """torch itself needs its names, so that a copy of the package looks for one that no torch has."""
    shutil.copytree(PACKAGE, tmp_path / "taildropout")
    file = tmp_path / "taildropout" / "_torch.py"
    source = file.read_text(encoding="utf-8")
    file.write_text(source.replace(name, f"{name}_of_no_torch"), encoding="utf-8")
    assert name in source
    loaded = f"taildropout_without{name.replace('.', '_')}"
    try:
        found = numbers(load(tmp_path, loaded))
    finally:
        for each in [each for each in sys.modules if each.partition(".")[0] == loaded]:
            del sys.modules[each]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if one.dtype == torch.float64:
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
        else:
            assert torch.equal(one, other)


def test_the_hidden_names_are_all_there_are() -> None:
    source = Path(_torch.__file__).read_text(encoding="utf-8")
    used = {name.removeprefix("torch.") for name in private_names(source, set())} | {
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.rpartition(".")[2].startswith(("_", "is_"))
    }
    similar = {"_global_forward_pre_hooks", "_global_backward_hooks", "_global_backward_pre_hooks"}
    similar |= {"_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"}
    parts = {part for name in HIDDEN for part in (name, name.rpartition(".")[2], name.removeprefix("torch."))}
    assert used - similar - {"._trees"} <= parts


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "tree", [3, [1, (2, 3)], {"a": [1], "b": (2, Point(3, 4))}, OrderedDict(b=1, a={"c": 2}), [], (), {}, [None, "text"]]
)
def test_the_fallback_for_nested_containers_is_as_torch(tree: object) -> None:
    leaves, structure = _trees.tree_flatten(tree)
    assert leaves == _trees.tree_leaves(tree) == list(_pytree.tree_leaves(tree))
    changed = [str(leaf) for leaf in leaves]
    theirs = _pytree.tree_unflatten(changed, _pytree.tree_flatten(tree)[1])
    assert _trees.tree_unflatten(changed, structure) == theirs
    assert type(_trees.tree_unflatten(changed, structure)) is type(theirs)
    double = [_trees.tree_map_only(int, lambda leaf: 2 * leaf, tree), _pytree.tree_map_only(int, lambda leaf: 2 * leaf, tree)]
    assert double[0] == double[1]


def test_an_older_torch_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "taildropout_with_an_older_torch"
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.7.1"))
    with pytest.raises(ImportError) as raised:
        load(PACKAGE.parent, name)
    assert str(raised.value) == "taildropout needs torch 2.8 or newer, but torch 2.7.1 is installed: pip install -U torch"
    for each in [each for each in sys.modules if each.partition(".")[0] == name]:
        del sys.modules[each]


def test_the_oldest_torch_is_the_one_that_pip_asks_for() -> None:
    project = PACKAGE.parent / "pyproject.toml"
    if not project.exists():
        pytest.skip("tests run on an installed package, without pyproject.toml beside it")
    assert f'dependencies = ["torch>={_torch.OLDEST}"]' in project.read_text(encoding="utf-8")
