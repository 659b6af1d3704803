"""Two processes do not write into one folder: the second one is told which process is at it, and changes nothing."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from boxwright.cli import main
from boxwright.cli.train import Train
from boxwright.cli.training import write_options
from boxwright.detectors import SSDConfig
from boxwright.lock import LOCK, hold
from shapes import write_shapes


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("train --resume DIR/run", "run"),
        ("bench --data DIR/data --out DIR/race --no-pretrained --epochs 1 --device cpu", "race"),
        ("detect DIR/data/images --out DIR/drawn --device cpu", "drawn"),
        ("detect DIR/data/images --no-draw --yolo DIR/yolo --device cpu", "yolo"),
        ("detect DIR/data/images --no-draw --json-file DIR/found.jsonl --device cpu", "found.jsonl"),
        ("detect DIR/data/images --no-draw --coco DIR/coco.json --device cpu", "coco.json"),
        ("propose DIR/data/images --draw DIR/drawn", "drawn"),
        ("propose DIR/data/images --out DIR/boxes.safetensors", "boxes.safetensors"),
    ],
)
def test_the_second_process_is_told_of_the_first(
    words: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_shapes(tmp_path / "data", {"train": 2, "val": 1, "test": 1})
    write_options(Train(detector=SSDConfig(), data=data), {}, tmp_path / "run" / "config.json")
    with hold(tmp_path / name, file="." in name):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        assert main(shlex.split(words.replace("DIR", str(tmp_path)))) == 1
        err = " ".join(capsys.readouterr().err.split())
        assert f"{tmp_path / name} is in use by process {os.getpid()} on " in err and "wait until it has ended" in err
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert not list(tmp_path.rglob(f"*{LOCK}"))
