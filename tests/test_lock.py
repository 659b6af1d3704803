"""A folder has one writer, who is named to the next; a dead one holds nothing, and what it left half written goes."""

from __future__ import annotations

import errno
import os
import platform
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from boxwright.files import _machine, new_folder, write_atomically
from boxwright.lock import LOCK, HeldError, hold, hold_all

_HOLDER = """
import os, sys, time
from boxwright import files, lock
with lock.hold(sys.argv[1]):
    partial = files._partial(files.Path(sys.argv[1]) / "sub" / "file")
    partial.parent.mkdir()
    partial.touch()
    files._partial(files.Path(sys.argv[1] + "-new"), hidden=".").mkdir()
    if not os.fork():  # as a process that loads images, which may outlive a killed parent
        print(os.getpid(), flush=True)  # by itself: only now has it let go of what its parent holds
    time.sleep(60)
"""


def test_the_second_is_told_who_holds_the_folder_until_it_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "some" / "folder"
    with hold(folder):
        told = rf"folder is in use by process {os.getpid()} on {platform.node()} since 20.* \(.*\); wait until"
        for _ in range(2):  # being told changes nothing
            with pytest.raises(HeldError, match=told), hold(folder):
                raise AssertionError
        assert [path.name for path in folder.iterdir()] == [LOCK]
    assert list(tmp_path.iterdir()) == []  # nothing was written
    with hold(folder):
        (folder / "file").touch()
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_a_killed_process_holds_nothing_and_its_partial_files_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-c", _HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        ours = folder / f"file.{'0' * 12}.{os.getpid()}.partial"  # of another machine
        theirs = folder / "mine.partial"
        for path in (ours, theirs):
            path.touch()
        with pytest.raises(HeldError, match=f"process {process.pid} on .*; wait"), hold(folder):
            raise AssertionError
        assert len(list(folder.rglob("*.partial"))) == 3
        process.kill()
    with hold(folder):
        os.kill(worker, signal.SIGKILL)  # it lived until now
        assert sorted(folder.rglob("*.partial")) == sorted([ours, theirs])
    assert not (folder / LOCK).exists()
    with new_folder(f"{folder}-new") as new:
        assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == [new]


def test_no_two_hold_a_folder_at_once(tmp_path: Path) -> None:
    inside, most, times = [], [], []

    def try_often(_: int) -> None:
        for _ in range(100):
            with suppress(HeldError), hold(tmp_path / "folder"):
                inside.append(None)
                most.append(len(inside))
                if len(most) % 2:  # else the folder is removed at once
                    write_atomically(tmp_path / "folder" / "file", "", sync=False)
                (tmp_path / "folder" / "file").unlink(missing_ok=True)
                times.append(inside.pop())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(try_often, range(8)))
    assert set(most) == {1} and len(times) == len(most)


def test_files_are_held_one_by_one_and_devices_are_not(tmp_path: Path) -> None:
    with hold_all([tmp_path, None], [tmp_path / "a", tmp_path / "b", None]), hold_all([], [Path("/dev/null")]):
        assert {path.name for path in tmp_path.iterdir()} == {LOCK, f".a{LOCK}", f".b{LOCK}"}
        with pytest.raises(HeldError, match="b is in use by"), hold_all([], [tmp_path / "c", tmp_path / "b"]):
            raise AssertionError
        with hold_all([], [Path("/dev/null"), tmp_path / "c"]):
            pass
    (tmp_path / f".a{LOCK}").write_text("of a killed process")
    ours = tmp_path / f"a.{_machine()}00000000.999999999.partial"  # no process has such a number
    ours.touch()
    ours.with_name(f"b{ours.name[1:]}").touch()
    with hold(tmp_path / "a", file=True):
        assert [path.name[0] for path in tmp_path.glob("*.partial")] == ["b"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_written_to_without(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with hold(tmp_path), hold(tmp_path):
        (tmp_path / "file").touch()
    assert (tmp_path / "file").exists()


def test_a_folder_that_cannot_be_made_is_left_to_the_command(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with hold(tmp_path / "file"), hold(tmp_path / "file" / "folder"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(sys.platform != "linux", reason="it needs /proc")
def test_where_no_folder_can_be_made_nothing_is_held() -> None:
    """There mkdir fails as if a folder on the way had been removed just now, however often it is tried."""
    with hold("/proc/none"), hold("/proc/none/file", file=True):
        pass


def test_a_file_that_is_never_the_same_is_not_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    with hold(tmp_path), hold(tmp_path):
        pass
