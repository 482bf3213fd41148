"""Write a file in one step, and use a folder that is removed afterwards."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(file: Path, text: str) -> Path:
    """Write `text` to `file`, creating its folder if needed, and return `file`.

    If the process is killed or the disk is full, the former file stays as it was. A link stays one, and the file to which it
    leads is written; what is no file, such as a device or a named pipe, is written to.
    """
    if is_special(file):
        with file.open("a", encoding="utf-8") as device:
            device.write(text)
        return file
    target = file.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    while partial.exists():  # somebody else's
        partial = partial.with_name(f"{partial.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return file


def is_special(file: Path) -> bool:
    """Return True if `file` cannot be replaced: a device or a pipe, or in /dev, whose links lead to what a process has open."""
    return (file.exists() and not (file.is_file() or file.is_dir())) or Path("/dev") in file.absolute().parents


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Create a folder in `parent`, or where temporary files are; remove it in the end, with all that is in it.

    A process that was killed may write for a moment longer, so removing is tried for two seconds.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).resolve()
    try:
        yield folder
    finally:
        for _ in range(20):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.1)
