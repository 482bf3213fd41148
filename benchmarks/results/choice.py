"""Choose the cases that a command measures."""

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..system.errors import CannotMeasure

if TYPE_CHECKING:
    from ..suite.cases import Case


def select(chosen: Sequence[str] | None, profile: str, device: str | None) -> list[str]:
    """Return the names in `chosen`, or those of a profile ("quick" or "full") if `chosen` is empty.

    Leave out the cases of other devices than `device`, unless that is None. Raises CannotMeasure for a name that is no case.
    """
    from ..suite import cases

    names = [known_case(name).name for name in chosen or ()] or cases.names(quick=profile == "quick")
    return [name for name in names if device in (None, cases.CASES[name].device)]


def known_case(name: str) -> "Case":
    """Return the case of this name. Raises CannotMeasure, which lists similar names, if there is none."""
    from ..suite.cases import CASES

    if name not in CASES:
        near = difflib.get_close_matches(name, CASES, 5, 0.4)
        hint = (
            f"similar names are {', '.join(near)}"
            if near
            else "one that exists is 1024x512-f32-train, and docs/speed.md lists all"
        )
        raise CannotMeasure(f"there is no case {name!r}; {hint}")
    return CASES[name]


def has_cuda() -> bool:
    """Return True if torch finds a GPU."""
    import torch

    return bool(torch.cuda.is_available())
