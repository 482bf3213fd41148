"""The text of `language_model.py`: Python's standard library as numbered characters, in windows."""

import sysconfig
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
CHARACTERS = len(ALPHABET) + 1  # the last index stands for all other characters
Batch = tuple[Tensor, Tensor]  # inputs and next characters


def source(modules: Sequence[str]) -> str:
    """Return the concatenated source of modules of the standard library.

    Raises:
        FileNotFoundError: if a module has no source file.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    if missing := [name for name in modules if not (folder / f"{name}.py").is_file()]:
        raise FileNotFoundError(f"{folder} has no source of {', '.join(missing)}; use a Python that comes with its source")
    return "".join((folder / f"{name}.py").read_text("utf-8") for name in modules)


def encode(text: str) -> Tensor:
    """Return the number of each character: its place in ALPHABET, or len(ALPHABET) for all others."""
    numbers = {character: number for number, character in enumerate(ALPHABET)}
    return torch.tensor([numbers.get(character, len(ALPHABET)) for character in text])


def windows(text: Tensor, context: int) -> Batch:
    """Split an encoded text into adjacent windows; return inputs and next characters, both (windows, context)."""
    count = (len(text) - 1) // context
    return text[: count * context].view(-1, context), text[1 : count * context + 1].view(-1, context)


def pieces(text: Batch) -> list[Batch]:
    """Split the windows of a text into batches of 64."""
    return list(zip(*(each.split(64) for each in text), strict=True))
