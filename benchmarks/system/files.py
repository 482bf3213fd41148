"""Write a file in one step."""

from pathlib import Path


def write_atomically(file: Path, text: str) -> Path:
    """Write `text` so that a killed run or a full disk leaves the former file whole; make its folder. Return the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return file
