"""Where a disk is full or a command is stopped, what was there before is whole, and what was found is kept."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from boxwright import cli, zoo
from boxwright.cli import detecting
from boxwright.files import append, write_atomically
from boxwright.predict.files import CocoFile
from halves import NAMES, halves
from shapes import write_shapes

Capture = pytest.CaptureFixture[str]

COMMANDS = {
    "detect": "detect photos --json-file out/found.jsonl --coco out/found.json --yolo out/labels --out out/drawn",
    "evaluate": "evaluate any.safetensors --data whole.json --plot out/curves.png",
    "data stats": "data stats shapes --plot out/stats.png",
    "data show": "data show shapes --out out/samples --samples 2",
    "data convert": "data convert shapes --to yolo --out out/new",
    "data convert to VOC": "data convert shapes --to voc --out out/new",
    "data split": "data split shapes --redraw --test-fraction 0.2 --out out/new",
    "data merge": "data merge shapes shapes --out out/new --to coco",
    "propose": "propose photos --out out/boxes.safetensors --draw out/drawn",
}


SLOW = {"evaluate": (0, 1, 2, 99), "data stats": (1, 99), "propose": (1, 3, 99)}
"""For these commands, as they draw plots or search images, the writes that fail; for others all."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three photographs, a dataset, and a detector whose answer is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(detecting, "load", lambda model, device, precision: halves())
    monkeypatch.setattr(zoo, "load", lambda model, device: halves())
    monkeypatch.setattr(zoo, "find", Path)
    Path("photos").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(f"photos/{number}.png")
    with CocoFile("whole.json", NAMES) as file:
        for result in halves().stream(sorted(Path("photos").iterdir())):
            file.add(result)
    write_shapes("shapes", {"train": 3, "val": 2})


@contextmanager
def full_disk(writes: int, number: int = errno.ENOSPC) -> Iterator[None]:
    """So many writes succeed; after half of the next one there is no room, for it and for all that follow."""
    left = writes

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            nonlocal left
            left -= 1
            if left < 0:
                super().write(bytes(data)[: len(data) // 2] if left == -1 else b"")
                raise OSError(number, os.strerror(number))
            return super().write(data)

    def full(file: Any, mode: str = "r", *more: Any, **how: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax"):
            return usual(file, mode, *more, **how)
        raw = Raw(file, mode.replace("b", "").replace("t", ""))
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding="utf-8", write_through=True)

    usual = builtins.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "open", full)
        patch.setattr(io, "open", full)
        yield


def contents(folder: str) -> dict[str, bytes]:
    """The files below the folder; the lists of outputs, which grow, are left out."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".boxwright-outputs"]
    return {path.as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_leaves_every_file_whole(name: str, capsys: Capture):
    """Each file is the older one or the new one, also where only the n-th write fails."""
    words = COMMANDS[name].split()
    if "out/new" not in words:  # which must not be there before
        assert cli.main([*words, *(["--threshold", "0.3"] if name == "detect" else [])]) == 0
    before, states = contents("out"), []
    for writes in range(100):
        if name in SLOW and writes not in SLOW[name]:
            continue
        capsys.readouterr()
        with full_disk(writes):
            status = cli.main(words)
        if status == 0:
            break
        error = capsys.readouterr().err.splitlines()[-1]
        assert status == 1 and "cannot be written (No space left on device)" in error
        assert "out/" in error and "make room on that disk" in error
        assert ("the boxes so far are in the cache" in error) == (name == "propose")
        partial = {path for path in contents("out") if path.endswith(".partial")}
        assert all(f"the results so far are in {path}" in error for path in partial)
        assert partial <= {"out/found.jsonl.partial", "out/found.json.partial"}
        states.append({path: content for path, content in contents("out").items() if path not in partial})
        for path in partial:
            Path(path).unlink()
    assert status == 0 and states
    after = contents("out")
    for state in states:
        assert [path for path, content in state.items() if content not in (before.get(path), after[path])] == []
        assert before.keys() <= state.keys()
        assert state == {} or "out/new" not in words


@pytest.mark.parametrize("options", ["--json-file out/found", "--coco out/found"])
def test_results_so_far_are_kept_and_named(options: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch):
    """An older file stays as it is. With the next run both are replaced."""
    words = ["detect", "photos", "--no-draw", *options.split()]
    assert cli.main(words) == 0
    whole, partial = Path("out/found").read_bytes(), Path("out/found.partial")

    class Stopped(type(halves())):
        def stream(self, *arguments: Any) -> Iterator[Any]:
            yield next(results := super().stream(*arguments))
            assert Path("out/found").read_bytes() == whole and partial.read_text().count("\n") == 1
            yield next(results)
            raise KeyboardInterrupt

    def stopped(model: Path, device: str, precision: str) -> Any:
        predictor = halves()
        object.__setattr__(predictor, "__class__", Stopped)
        return predictor

    with monkeypatch.context() as patch:
        patch.setattr(detecting, "load", stopped)
        capsys.readouterr()
        assert cli.main(words) == 130
    assert capsys.readouterr().err == "\nboxwright: stopped; the results so far are in out/found.partial\n"
    assert Path("out/found").read_bytes() == whole
    if "--coco" in words:
        found = {key: len(rows) for key, rows in json.loads(partial.read_text()).items()}
        assert found == {"images": 2, "annotations": 2, "categories": 2}
    else:
        assert partial.read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])
    assert cli.main(words) == 0
    assert Path("out/found").read_bytes() == whole and not partial.exists()


def test_a_partial_file_of_the_user_is_not_replaced(capsys: Capture):
    Path("found.partial").write_text("mine")
    for option in ("--json-file", "--coco"):
        assert cli.main(["detect", "photos", option, "found"]) == 1
        assert f"{option} would replace found.partial" in capsys.readouterr().err
    assert Path("found.partial").read_text() == "mine"


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "on another disk"),
        (errno.EACCES, "permissions"),
        (errno.EIO, ""),
    ],
)
def test_each_reason_has_its_mend(number: int, mend: str, tmp_path: Path):
    with full_disk(0, number), pytest.raises(OSError, match="cannot be written") as caught:
        write_atomically(tmp_path / "a", "text")
    assert caught.value.errno == number and caught.value.filename == str(tmp_path / "a")
    assert os.strerror(number) in str(caught.value) and mend in str(caught.value)


def test_half_a_line_spoils_no_other(tmp_path: Path):
    path = tmp_path / "lines"
    append(path, "first")
    with full_disk(0), pytest.raises(OSError, match="No space left"):
        append(path, "second")
    append(path, "third")
    assert path.read_text().splitlines() == ["first", "sec", "third"]


def test_a_limit_on_the_size_of_files(capsys: Capture):
    """By the system itself: the second line does not fit."""
    words = ["detect", "photos", "--no-draw", "--json-file", "found.jsonl"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        assert cli.main(words) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err
    assert "found.jsonl.partial: cannot be written (File too large); allow larger files (ulimit -f)" in error
    assert len(error.splitlines()) == 1 and not Path("found.jsonl").exists()
    (line,) = Path("found.jsonl.partial").read_text().splitlines()
    assert json.loads(line)["path"] == "photos/0.png"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is a device of Linux")
def test_a_full_standard_output_is_one_line():
    """For print itself, the flush at the end and the exit of the interpreter; a closed pipe stays quiet."""
    code = """
import os, sys
from boxwright import cli
for words in (["--version"], ["--help"], ["detect", "--help"], ["data", "stats", "shapes"], ["models", "--json"]):
    for unbuffered in (False, True):
        full = open("/dev/full", "w")
        os.dup2(full.fileno(), 1)
        sys.stdout = open(1, "w", closefd=False)
        if unbuffered:
            sys.stdout.reconfigure(write_through=True)
        print(cli.main(words), file=sys.stderr)
os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
sys.exit(cli.main(["--help"]))
"""
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and len(lines) == 21 and set(lines[1::2]) == {"1"}
    assert all("standard output cannot be written (No space left on device)" in line for line in lines[::2])


def test_a_log_that_is_full_stops_nothing(monkeypatch: pytest.MonkeyPatch):
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for stderr in (Full(), None):
        monkeypatch.setattr(sys, "stderr", stderr)
        Path("photos/broken.png").write_bytes(b"")
        assert cli.main(["detect", "photos", "--json-file", "found.jsonl"]) == 1  # one image could not be read
        assert len(Path("found.jsonl").read_text().splitlines()) == 3
        assert cli.main(["detect", "missing"]) == 1
