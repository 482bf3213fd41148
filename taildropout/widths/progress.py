"""A progress bar over batches, by tqdm or rich, on a terminal or in a notebook."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Iterable[Item], what: str, show: bool, total: int | None = None) -> Iterable[Item]:
    """Return `items`, and show a progress bar on stderr while they are iterated.

    No bar is shown if `show` is False, outside of a terminal and a notebook, or if neither tqdm nor rich is installed. In a
    notebook without ipywidgets, tqdm shows its text bar and rich shows none, since both would warn of missing widgets.

    Args:
        items: the items to iterate over.
        what: the label of the bar.
        show: False for no bar.
        total: the number of items, if known.
    """
    notebook = "ipykernel" in sys.modules
    if not show or not (sys.stderr.isatty() or notebook):
        return items
    widgets = notebook and find_spec("ipywidgets") is not None
    try:
        if widgets:
            from tqdm.notebook import tqdm
        else:
            from tqdm import tqdm
    except ImportError:
        return _track_by_rich(items, what, total) if widgets or not notebook else items
    bar: Iterable[Item] = tqdm(items, desc=what, total=total)
    return bar


def _track_by_rich(items: Iterable[Item], what: str, total: int | None) -> Iterable[Item]:
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        return items
    tracked: Iterator[Item] = iter(track(items, what, total, console=Console(stderr=True)))
    return tracked
