"""Load a version of the package from a folder, under a name that the caller chooses, beside other versions."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

PACKAGE = "taildropout"


def load(folder: Path, name: str) -> ModuleType:
    """Import `folder`/taildropout under `name`, so that several versions can be loaded.

    Raises ImportError if `name` is in use, or if the package registers operators under a fixed name, since the operators of two
    versions would replace each other; and all errors of the import itself.
    """
    place = folder / PACKAGE
    spec = importlib.util.spec_from_file_location(name, place / "__init__.py", submodule_search_locations=[str(place)])
    if spec is None or spec.loader is None or name in sys.modules:
        raise ImportError(f"{place} cannot be loaded as {name!r}")
    fixed = operators()
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        for each in [each for each in sys.modules if each.partition(".")[0] == name]:
            del sys.modules[each]
        raise
    if operators() != fixed:
        raise ImportError(f"{place} registers operators as {PACKAGE}::…, not under its import name {name!r}")
    return module


def operators() -> set[str]:
    """Return the operators that are registered under the package's fixed name."""
    return {name for name in torch._C._dispatch_get_all_op_names() if name.startswith(f"{PACKAGE}::")}
