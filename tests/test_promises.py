"""Promises of docs/guide/trust.md about the whole program, watched by the interpreter's own audit events.

A second process runs commands on tiny data and notes each file that it opens for writing, each connection, each program
that it starts and each class that a pickle names (PEP 578). Nothing may be there that the commands were not given.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shapes import write_shapes

WATCHED = r"""
import json, os, sys

events = []

def watch(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if isinstance(path, (str, bytes)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            events.append((event, os.path.abspath(os.fsdecode(path))))
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.truncate", "os.chmod"):
        paths = [path for path in arguments if isinstance(path, (str, bytes))]
        events.extend((event, os.path.abspath(os.fsdecode(path))) for path in paths)
    elif event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen", "os.system", "os.exec",
                   "os.posix_spawn", "pickle.find_class", "urllib.Request"):
        events.append((event, repr(arguments)[:300]))

from boxwright.cli import main
sys.addaudithook(watch)
status = [main(command) for command in json.loads(sys.argv[1])]
report = json.dumps({"status": status, "events": events})
with open(sys.argv[2], "w") as file:
    file.write(report)
"""
COMMANDS = (
    "data check data",
    "data stats data",
    "data convert data --to voc --out converted",
    "train --from voc9 --data data --size 48 64 --epochs 1 --batch 2 --workers 0 --out run",
    "evaluate run --data data --json",
    "detect data/images --model run --out boxes --json-file boxes.jsonl --coco boxes.json",
    "models",
)
NAMED = ("data", "converted", "run", "boxes", "boxes.jsonl", "boxes.json")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, str]]]:
    """The folder in which the commands ran, and their events."""
    folder = tmp_path_factory.mktemp("promises")
    write_shapes(folder / "data", {"train": 2, "val": 1, "test": 1})
    for name in ("home", "cache", "temporary"):
        (folder / name).mkdir()
    environment = {
        **os.environ, "HOME": str(folder / "home"), "BOXWRIGHT_CACHE": str(folder / "cache"),
        "TMPDIR": str(folder / "temporary"), 
    }  # fmt: skip
    for name in ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"):  # torch sets the second in the process of the tests
        environment.pop(name, None)
    commands = json.dumps([command.split() for command in COMMANDS])
    subprocess.run(
        [sys.executable, "-c", WATCHED, commands, "report.json"],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
    )
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["status"] == [0] * len(COMMANDS)
    return folder, [(event, about) for event, about in report["events"]]


def test_nothing_is_written_outside_of_the_folders_that_were_named(seen: tuple[Path, list[tuple[str, str]]]) -> None:
    folder, events = seen
    files = {about for event, about in events if event.startswith(("open", "os."))}
    # what is not whole yet has a hidden name beside its own
    allowed = [str(folder / (dot + name)) for name in (*NAMED, "cache", "temporary") for dot in ("", ".")]
    allowed += [str(folder / ".boxwright-outputs"), "/dev/", "/proc/"]
    allowed += [str(folder / "home" / inner) for inner in (".cache", ".config/matplotlib")]  # the fonts of curves
    outside = sorted(
        path
        for path in files
        if not path.startswith(tuple(allowed)) and path not in (str(folder), str(folder / "home" / ".config"))
    )
    assert not outside
    assert any(path.startswith(str(folder / "run")) for path in files)  # the events are seen


def test_nothing_is_fetched(seen: tuple[Path, list[tuple[str, str]]]) -> None:
    assert not [found for found in seen[1] if found[0].startswith(("socket", "urllib"))]


def test_no_program_is_started_but_for_the_fonts_of_curves(seen: tuple[Path, list[tuple[str, str]]]) -> None:
    started = [
        about for event, about in seen[1] if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
    ]
    assert not [about for about in started if not re.match(r"\('(/sbin/ldconfig|fc-list)'", about)]


def test_the_data_is_as_it_was(seen: tuple[Path, list[tuple[str, str]]]) -> None:
    folder, events = seen
    assert not [about for _, about in events if about.startswith(str(folder / "data") + os.sep)]


SOURCE = Path(__file__).parents[1] / "src" / "boxwright"
UNSAFE = {
    r"\bpickle\.loads?\((?!pickle\.dumps)|\bUnpickler\(": ("zoo/unpickle.py",),
    r"\btorch\.load\((?!.*weights_only=True)": (),
    r"(?<![.\w])(?:eval|exec)\(": (),
    r"allow_pickle=True": (),
    r"yaml\.(?:unsafe_load|full_load|load)\((?!.*Loader=_Loader)": (),
    r"\bImage\.open\(": ("data/image.py",),
}
"""What runs or believes a file, and the files of the library that may use it."""


@pytest.mark.parametrize(("pattern", "allowed"), UNSAFE.items())
def test_what_runs_a_file_is_used_in_one_place(pattern: str, allowed: tuple[str, ...]) -> None:
    found = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(pattern, line)
    }
    assert found <= set(allowed)
