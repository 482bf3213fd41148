"""Write a file in one step."""

from pathlib import Path


def write_atomically(file: Path, text: str) -> Path:
    """Write `text` to `file`, creating its folder if needed, and return `file`.

    If the process is killed or the disk is full, the former file stays as it was.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return file
