"""All private names of torch that the package uses, each with a fallback for a torch that lacks it.

A fallback returns the cautious answer: the caller then uses code that is right in every case, with the same numbers, and may be
slower. `tests/package/test_private_torch.py` hides each name in turn, and fails if another module uses a private name.

Some names with an underscore are used elsewhere too, because torch lets subclasses use or override them: `_modules`,
`_parameters`, `_buffers`, `_apply` and `_load_from_state_dict` of `nn.Module`, and the overridable methods of `Distribution`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from operator import attrgetter
from threading import Lock
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

OLDEST = "2.8"  # the oldest torch on which every test passes; `dependencies` in pyproject.toml says the same

if torch.__version__ < OLDEST:
    raise ImportError(
        f"taildropout needs torch {OLDEST} or newer, but torch {torch.__version__} is installed: pip install -U torch"
    )


def _private(path: str, fallback: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function at the dotted `path` below `torch`, or `fallback` if the installed torch lacks that name."""
    try:
        return attrgetter(path)(torch)  # type: ignore[no-any-return]
    except AttributeError:
        return fallback


# True if a transform of functorch (vmap, grad, jvp) is active. Fallback: True, so that only code fit for functorch runs.
transforms_active: Callable[[], bool] = _private("_C._are_functorch_transforms_active", lambda: True)

# The number of active dispatch modes. Fallback: 1, so that no code reads memory by its address.
dispatch_modes: Callable[[], int] = _private("_C._len_torch_dispatch_stack", lambda: 1)

# True if a transform of functorch wraps the tensor. Fallback: True, so that the tensor is not cached.
is_wrapped: Callable[[Tensor], bool] = _private("_C._functorch.is_functorch_wrapped_tensor", lambda tensor: True)

# True if the tensor has memory of its own. Fallback: False, so that plain torch is used.
has_storage: Callable[[Tensor], bool] = _private("_C._has_storage", lambda tensor: False)

# True if the tensor is a zero of autograd, which has no memory. Fallback: True, so that plain torch is used.
is_zero_tensor: Callable[[Tensor], bool] = _private("Tensor._is_zerotensor", lambda tensor: True)

# The tensor's count of in-place writes. Fallback: a new object at each call, so that the tensor always counts as changed.
times_written: Callable[[Tensor], object] = _private("Tensor._version.__get__", lambda tensor: object())


def _nested_containers() -> ModuleType:
    """Return torch's module for nested containers; if torch has none, this package's `_trees`, which knows fewer types."""
    try:
        return import_module("torch.utils._pytree")
    except ImportError:
        return import_module("._trees", __package__)


_trees = _nested_containers()
tree_flatten: Callable[[Any], tuple[list[Any], Any]] = _trees.tree_flatten
tree_leaves: Callable[[Any], list[Any]] = _trees.tree_leaves
tree_map_only: Callable[[type, Callable[[Any], Any], Any], Any] = _trees.tree_map_only
tree_unflatten: Callable[[list[Any], Any], Any] = _trees.tree_unflatten


def forward_mode_active() -> bool:
    """Return True if forward-mode differentiation is active, or if that is unknown."""
    return getattr(torch.autograd.forward_ad, "_current_level", 0) >= 0


def exporting() -> bool:
    """Return True while torch.export traces, or if that is unknown.

    In code that torch.compile traces, `torch.compiler.is_exporting()` is True as well, up to torch 2.8 at least.
    """
    return bool(getattr(torch.compiler, "_is_exporting_flag", True))


_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_hooks(module: nn.Module) -> bool:
    """Return True if `module` has a forward or backward hook, or if that is unknown."""
    return any(getattr(module, name, True) for name in _HOOKS)


def has_global_hooks() -> bool:
    """Return True if a forward or backward hook for all modules is registered, or if that is unknown."""
    return any(getattr(torch.nn.modules.module, name, True) for name in _GLOBAL_HOOKS)


def is_compiled(module: nn.Module) -> bool:
    """Return True if `torch.compile` returned `module`, or `module.compile()` was called; False if that is unknown."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def constant_in_graphs(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Mark `function`, so that `torch.compile` calls it while tracing and stores the result in the graph as a constant.

    `torch.compiler.assume_constant_result` sets the same mark, but imports the compiler, which would double the import time of
    this package. A torch that does not know the mark traces into `function`.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


# Contexts without transforms of functorch, and without dispatch modes. Fallback: none, so that a tensor may be a wrapped one.
_without_transforms = _private("_C._DisableFuncTorch", nullcontext)
_without_dispatch_modes = _private("utils._python_dispatch._disable_current_modes", nullcontext)


@contextmanager
def outside_of_modes() -> Iterator[None]:
    """In a `with` block, make plain tensors, whatever traces, transforms or fakes the code around."""
    with torch.inference_mode(False), _without_transforms(), _without_dispatch_modes():
        yield


def without_compiler() -> AbstractContextManager[Any]:
    """Return a context in which compiled functions run eagerly.

    If the compiler is not imported yet, nothing was compiled, and the context does nothing: the import would take seconds.
    """
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


_bypassing = Lock()
_blocks: list[bool] = []  # for each open block of `without_fastpath`, in any thread, the state that it found


@contextmanager
def without_fastpath() -> Iterator[None]:
    """In a `with` block, turn off the fast path of `nn.TransformerEncoderLayer`, which bypasses the layers inside.

    The switch belongs to the process, so the last of several blocks to end, in any thread, restores what the first one found.
    """
    with _bypassing:
        _blocks.append(torch.backends.mha.get_fastpath_enabled() if not _blocks else _blocks[0])
        torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        with _bypassing:
            found = _blocks.pop()
            if not _blocks:
                torch.backends.mha.set_fastpath_enabled(found)
