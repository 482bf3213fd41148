"""Files are written in one step, and nothing but files is replaced."""

import os
import shutil
import threading
from pathlib import Path

import pytest

from benchmarks.gate.output import refuse_unwritable
from benchmarks.system.files import is_special, temporary_folder, write_atomically


def test_a_file_is_replaced_whole_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.json"
    (tmp_path / "new").mkdir()
    file.with_name("a.json.partial").write_text("mine")
    write_atomically(file, "one")
    write_atomically(file, "two")
    assert file.read_text() == "two"
    assert file.with_name("a.json.partial").read_text() == "mine"
    assert len(list((tmp_path / "new").iterdir())) == 2


def test_a_failed_write_leaves_the_former_file(tmp_path: Path) -> None:
    file = write_atomically(tmp_path / "a.json", "one")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "\ud800")
    assert file.read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", "one")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "one"


def test_a_pipe_and_a_device_are_written_to(tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    write_atomically(pipe, "one")
    reader.join(20)
    assert found == ["one"]
    assert is_special(pipe)
    write_atomically(Path("/dev/null"), "one")
    assert Path("/dev/null").is_char_device()
    refuse_unwritable({"--json": "/dev/null", "--junit": str(pipe)})
    assert is_special(Path("/dev/stdout"))
    assert not is_special(tmp_path)


def test_a_temporary_folder_goes_also_if_its_first_removal_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a killed process wrote there for a moment longer."""
    remove, late = shutil.rmtree, [True, True]

    def racing(folder: Path, ignore_errors: bool) -> None:
        remove(folder, ignore_errors)
        if late and late.pop():
            folder.mkdir()

    monkeypatch.setattr(shutil, "rmtree", racing)
    with temporary_folder("of-test-", tmp_path) as folder:
        (folder / "file").write_text("one")
    assert not late
    assert not list(tmp_path.iterdir())


def test_a_temporary_folder_is_removed_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), temporary_folder("of-test-", tmp_path):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
