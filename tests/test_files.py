"""Files are written whole or not at all; digests and the cache's folder are as they are documented."""

from __future__ import annotations

import ast
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import BinaryIO

import pytest

import boxwright
from boxwright.files import (
    Outputs,
    _partial,
    _writing,
    cache_folder,
    new_folder,
    open_regular,
    remove_partials,
    sha256,
    walk,
    write_atomically,
)

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1


def test_bytes_text_and_functions_are_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for content in (b"ab\n", "ab\n", lambda file: file.write(b"ab\n")):
        assert write_atomically(path, content) == path
        assert path.read_bytes() == b"ab\n"
        path.unlink()


def test_what_fails_halfway_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = write_atomically(tmp_path / "file", "old")

    def full(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"cannot be written \(No space left on device\).*file") as caught:
        write_atomically(path, full)
    assert caught.value.errno == errno.ENOSPC  # a race stops for it
    with pytest.raises(ZeroDivisionError):
        write_atomically(path, lambda file: 1 / 0)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, "ab")
    assert os.read(reader, 9) == b"ab" and pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]
    os.close(reader)


@pytest.mark.parametrize("name", ["x" * 251 + ".png", "é" * 127 + "x", "x" * 254])
def test_the_longest_names_are_written(name: str, tmp_path: Path) -> None:
    write_atomically(tmp_path / name, "text")
    assert (tmp_path / name).read_text() == "text"
    (tmp_path / name).unlink()
    with new_folder(tmp_path / name) as partial:
        (partial / "file").touch()
    assert [path.name for path in tmp_path.rglob("*")] == [name, "file"]


def test_the_partial_file_of_a_long_name_is_found(tmp_path: Path) -> None:
    """That of a process that was killed is removed by its name alone."""
    partial = _partial(tmp_path / ("é" * 127))
    partial.touch()
    _writing.clear()
    assert len(os.fsencode(partial.name)) in (254, 255)
    remove_partials(tmp_path)
    assert not partial.exists()


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "zero", tmp_path):
        with pytest.raises(OSError, match="it is no regular file"):
            open_regular(path)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "some" / "folder"
    with new_folder(path) as folder:
        (folder / "file").write_text("new")
        assert not path.exists()
    assert (path / "file").read_text() == "new" and list(path.parent.iterdir()) == [path]
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "other"):
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="--out names a new folder, and .*folder has files in it"):
        new_folder(path, "--out").__enter__()
    with pytest.raises(ValueError, match="out names a folder, and .*file is a file"):
        new_folder(path / "file").__enter__()
    assert [inner.name for inner in tmp_path.iterdir()] == ["some"]
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(OSError, match="not empty"), new_folder(tmp_path / "link"):
        (tmp_path / "elsewhere" / "file").write_text("of someone else")
    assert [inner.name for inner in (tmp_path / "elsewhere").iterdir()] == ["file"]
    (tmp_path / "elsewhere" / "file").unlink()
    with new_folder(tmp_path / "link") as folder:
        (folder / "file").write_text("new")
    assert (tmp_path / "elsewhere" / "file").read_text() == "new" and (tmp_path / "link").is_symlink()


def test_of_two_that_make_a_folder_at_once_one_gets_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()  # empty, and so free

    def make(number: int) -> bool:
        try:
            with new_folder(tmp_path / "folder") as folder:
                (folder / str(number)).touch()
                ready.wait(20)
        except OSError:
            return False
        return True

    ready = Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(make, range(4))) == [False, False, False, True]
    assert len(list((tmp_path / "folder").iterdir())) == len(list(tmp_path.iterdir())) == 1


def test_sha256_of_bytes_and_files(tmp_path: Path) -> None:
    assert sha256(b"abc") == sha256(write_atomically(tmp_path / "abc", "abc")) == ABC


def test_walk_follows_links_and_reads_each_folder_once(tmp_path: Path) -> None:
    images, store = tmp_path / "images", tmp_path / "store"
    for file in ("b.jpg", "a.jpg", "._a.jpg", ".hidden/c.jpg", "day/d.jpg", "drawn/e.jpg"):
        write_atomically(images / file, "")
    write_atomically(store / "night" / "f.jpg", "")
    (images / "linked").symlink_to(store)
    (images / "again").symlink_to(images / "day")
    (store / "back").symlink_to(images)
    (images / "gone").symlink_to(tmp_path / "nowhere")
    names = ["a.jpg", "b.jpg", "gone", "day/d.jpg", "linked/night/f.jpg"]
    assert list(walk(images, excluded=images / "drawn")) == [images / name for name in names]


def test_a_folder_that_must_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def guarded(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    for file in ("a.jpg", "locked/b.jpg", "open/c.jpg"):
        write_atomically(tmp_path / file, "")
    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.warns(UserWarning, match=r"locked: the folder cannot be read \(Permission denied\)"):
        assert list(walk(tmp_path)) == [tmp_path / "a.jpg", tmp_path / "open" / "c.jpg"]


def test_outputs_are_written_where_their_list_cannot_be(tmp_path: Path) -> None:
    """As in a shared folder, where the list is another user's. Here it is a folder."""
    (tmp_path / ".boxwright-outputs").mkdir()
    path, outputs = tmp_path / "a.json", Outputs()
    outputs.check("--coco", [path])
    with pytest.warns(UserWarning, match=r"\.boxwright-outputs cannot be written \(Is a directory\)"):
        outputs.write(path, "mine")
    assert path.read_text() == "mine"
    with pytest.raises(ValueError, match="--coco would replace"):
        Outputs().check("--coco", [path])


def test_the_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path))
    assert cache_folder("models") == tmp_path / "models"
    monkeypatch.delenv("BOXWRIGHT_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder("models") == tmp_path / ".cache" / "boxwright" / "models"


def test_all_files_are_written_by_one_module():
    """A file that is written in place is half a file where the disk is full. Folders of `new_folder` are exempt."""
    source = Path(boxwright.__file__).parent
    exempt = {"files.py", "data/formats/voc.py", "data/formats/yolo.py"}
    found = []
    for path in sorted(source.rglob("*.py")):
        name = path.relative_to(source).as_posix()
        calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        found += [(name, call.lineno) for call in calls if name not in exempt and _writes(call)]
    assert found == []


def _writes(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    values = [getattr(value, "value", None) for value in (*call.args, *(key.value for key in call.keywords))]
    modes = [set(value) for value in values if isinstance(value, str)]
    opens = name == "open" and any(mode <= set("rwxab+t") and mode & set("wxa+") for mode in modes)
    return opens or name in ("write_text", "write_bytes", "save_file", "dump", "tofile", "savetxt")
