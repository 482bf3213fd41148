"""Find out by a trial whether an activation module is elementwise."""

from __future__ import annotations

import copy
import warnings
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_tried: WeakKeyDictionary[nn.Module, dict[bool, bool]] = WeakKeyDictionary()


def is_elementwise(module: nn.Module) -> bool:
    """Return True if applying `module` to a part of a tensor gives the same part of its result for the whole tensor.

    A copy of the module is tried once in training and once in evaluation mode, and the answers are kept. A module with
    parameters, buffers or submodules counts as not elementwise, because these may change; so do a random module, and one that
    keeps something of its calls, such as its last result. A call of the block finds what a trial cannot see, and calls
    `compute_everything_with`.
    """
    if module._parameters or module._buffers or module._modules:
        return False
    answers = _tried.setdefault(module, {})
    if module.training not in answers:
        answers[module.training] = _try(module)
    return answers[module.training]


def compute_everything_with(module: nn.Module, reason: object) -> None:
    """Let `is_elementwise` be False for `module` in its present mode from now on, and warn of the `reason`, once for each."""
    _tried.setdefault(module, {})[module.training] = False
    warnings.warn(
        f"the block computes everything from now on, because its activation {type(module).__name__} {reason}; to skip what is "
        "dropped, use an elementwise activation without random numbers and without tensors to train",
        stacklevel=2,
    )


def _try(module: nn.Module) -> bool:
    """Return True if the result for a part of a tensor is the same part of the whole result. Keep the CPU's random state."""
    # The values have no symmetry, so that no mean, sum or extreme of the part equals that of the whole.
    before = 3 * torch.sin(0.37 * torch.arange(4 * 4 * 64, device="cpu").double() ** 2).float().reshape(4, 4, 64)
    part = (slice(1, 4), slice(1, 4), slice(20, 50))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        input = before.clone()
        try:
            module = copy.deepcopy(module)
            state = _state(module)
            whole, of_part = module(input), module(before[part].clone())
        except Exception:  # of any type: the module may need other features, dims or a device, and assert it
            return False
    if _state(module) != state:
        return False
    if not isinstance(whole, Tensor) or whole.shape != before.shape or of_part.shape != before[part].shape:
        return False
    if not whole.is_floating_point():  # such as the bools of a comparison, which the modules refuse
        return False
    kept = getattr(module, "inplace", False) or torch.equal(input, before)
    return kept and torch.allclose(whole[part], of_part, equal_nan=True)


def _state(module: nn.Module) -> dict[str, Any]:
    """Return, for each attribute, which object it is and, for a container, how many items it has."""
    sized = (list, dict, set)
    return {name: (id(value), len(value) if isinstance(value, sized) else 0) for name, value in vars(module).items()}
