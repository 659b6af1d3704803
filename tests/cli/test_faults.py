"""What the system does to a command, such as ending a worker or refusing memory, is one line and exit status 1."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pwd
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from boxwright import cli, zoo
from boxwright.cli import detecting
from boxwright.cli.models import Models
from boxwright.data import batch
from boxwright.predict.files import CocoFile
from halves import NAMES, halves

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photograph, the dataset whole.json with it, and a detector whose answer is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(detecting, "load", lambda model, device, precision: halves())
    monkeypatch.setattr(zoo, "load", lambda model, device: halves())
    monkeypatch.setattr(zoo, "find", Path)
    for number in range(4):
        PIL.Image.new("RGB", (40, 30)).save(f"{number}.png")
    with CocoFile("whole.json", NAMES) as file:
        for result in halves().stream(sorted(Path().glob("*.png"))):
            file.add(result)


def start_no_thread() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "_start_new_thread", refuse)
        threading.Thread(target=print).start()


def refuse(*_: object) -> None:
    raise RuntimeError("can't start new thread")  # as CPython says


def fail(error: Exception) -> Callable[[], None]:
    def raises() -> None:
        raise error

    return raises


@pytest.mark.parametrize(
    ("fault", "mend"),
    [
        (lambda: torch.empty(10**14), "a smaller --batch"),
        (lambda: np.empty(10**15), "a smaller --batch"),
        (fail(MemoryError()), "a smaller --batch"),
        (fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore.")), "a smaller --batch"),
        (fail(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))), "a smaller --batch"),
        (fail(ImportError("libtorch.so: failed to map segment from shared object")), "a smaller --batch"),
        (fail(OSError(errno.EMFILE, os.strerror(errno.EMFILE))), "ulimit -n"),
        (fail(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))), "was removed; change to another"),
        (fail(RuntimeError("Symlink loop from 'runs/a'")), "leads back to itself; remove it"),
        (start_no_thread, "ulimit -u"),
        (fail(BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))), "ulimit -u"),
        (fail(RuntimeError("unable to open shared memory object </torch_1_2_3> in read-write mode")), "--shm-size"),
        (fail(RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)")), "--shm-size"),
    ],
)
def test_each_refusal_of_the_system_has_its_mend(
    fault: Callable[[], object], mend: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
):
    monkeypatch.setattr(Models, "run", lambda self: fault())
    assert cli.main(["models"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("boxwright models: the ") and mend in line


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch):
    """They are faults of the program, and with --debug all errors do."""
    monkeypatch.setattr(Models, "run", lambda self: fail(RuntimeError("shape mismatch"))())
    with pytest.raises(RuntimeError, match="shape mismatch"):
        cli.main(["models"])
    monkeypatch.setattr(Models, "run", lambda self: fail(MemoryError())())
    with pytest.raises(MemoryError):
        cli.main(["models", "--debug"])


def test_a_worker_that_is_killed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """As by the system where memory runs out: here the worker of a real loader, at its first image."""
    if multiprocessing.get_start_method() != "fork":
        pytest.skip("a worker that is not forked does not have what is patched here")
    parent, read = os.getpid(), batch.read_annotated

    def killed(*arguments: Any, **options: Any) -> Any:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(*arguments, **options)

    monkeypatch.setattr(batch, "read_annotated", killed)
    assert cli.main(["evaluate", "any.safetensors", "--data", "whole.json", "--workers", "1"]) == 1
    error = capfd.readouterr().err
    assert "a process that loads images was ended from outside" in error and "take fewer --workers" in error
    assert "Traceback" not in error and len([line for line in error.splitlines() if "DataLoader" in line]) == 1


def test_an_error_in_a_worker_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Capture):
    """PyTorch adds the traceback of the worker to the message."""

    def wrong(*_: Any, **__: Any) -> None:
        raise ValueError("the image is of another kind; take another: b.png")

    monkeypatch.setattr(batch, "read_annotated", wrong)
    for workers in ("0", "1"):
        assert cli.main(["evaluate", "any.safetensors", "--data", "whole.json", "--workers", workers]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error == "boxwright evaluate: the image is of another kind; take another: b.png"


def test_a_home_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Proposals are then computed each time. Here the home is below a file, so that root cannot write there either."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    monkeypatch.delenv("BOXWRIGHT_CACHE", raising=False)
    for words in ("models --json", "detect 0.png"):
        assert cli.main(words.split()) == 0, words
    with pytest.warns(
        UserWarning, match=r"cached in .*home/.cache/boxwright/proposals \(Not a directory\) and are comp"
    ):
        assert cli.main(["propose", "0.png", "--count", "10", "--out", "boxes.safetensors"]) == 0


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path):
    """As in a container that is run by a number without an entry in /etc/passwd."""

    def unknown(*_: object) -> None:
        raise KeyError("getpwuid(): uid not found: 54321")

    for name in ("HOME", "USER", "LOGNAME", "BOXWRIGHT_CACHE", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for words in ("models --json", "detect 0.png", "evaluate any --data whole.json", "data stats whole.json"):
        assert cli.main(words.split()) == 0, words
    capsys.readouterr()
    assert cli.main(["propose", "0.png"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "HOME is not set" in line and "set BOXWRIGHT_CACHE to a folder" in line
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path / "cache"))
    assert cli.main(["propose", "0.png", "--count", "10"]) == 0


def test_kernels_are_compiled_where_no_folder_can_be_written(monkeypatch: pytest.MonkeyPatch):
    caching = pytest.importorskip("numba.core.caching")
    from boxwright.compiled import kernel

    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    assert kernel(lambda number: number + 1)(2) == 3
