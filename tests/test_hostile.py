"""Every file of ../shared/cases/hostile is refused with one line, or read, at once and in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

EXPECTED = {  # by file: how it is read, and a part of the only line of the error; "" where it is read
    "bomb9400.png": ("image", "expected at most 64 megapixels, found 9400x9400 pixels"),
    "bomb13000.png": ("image", "expected at most 64 megapixels, found 13000x13000 pixels"),
    "crash-image-09f6de55": ("image", "the image's header is damaged (Failed to decode image"),
    "crash-image-3b9c94ee": ("image", "expected an image, found 237 bytes of no format that is read here"),
    "eps.jpg": ("image", "expected an image, found text that begins '%!PS-Adobe-3.0"),
    "exifstr.jpg": ("image", "the JPEG image of 160x120 pixels breaks off or is damaged"),
    "crash-npy-0684b035": ("npz", "(362 bytes) is not a whole archive of numpy"),
    "gb2312.xml": ("xml", ""),
    "unknown_encoding.xml": ("xml", "expected XML in an encoding of text, it declares foo"),
    "laughs.yaml": ("yaml", "expected YAML: aliases are not read"),
    "nc.yaml": ("yaml", "expected at most 100,000 classes, got nc: 1000000000"),
    "nest.yaml": ("yaml", "expected YAML: brackets are nested too deeply"),
    "alter.pkl": ("detectron2", "it alters _codecs.encode, and only data is read. Nothing in it was executed"),
    "laughs.pkl": ("detectron2", "expected an array of numbers for w, got a list"),
    "longput.pkl": ("detectron2", "it numbers an object 268435456, expected at most 1000000"),
    "model_none.pkl": ("detectron2", "expected names to arrays under 'model', got a NoneType"),
    "expand.pth": ("torchvision", "its tensors by name have more than 16783752 bytes"),
    "key_int.pth": ("torchvision", "roi_heads.box_predictor.cls_score.weight is missing among 1"),
    "pth-5c2dd944.pth": ("torchvision", "(892 bytes) is not a whole file of weights"),
    "pth-9748b304.pth": ("torchvision", "(922 bytes) is not a whole file of weights"),
}

_SECONDS, _BYTES = 2.0, 300e6


@pytest.fixture
def files(shared: Path) -> list[Path]:
    folder = shared / "cases" / "hostile"
    if not folder.is_dir():
        pytest.skip(f"there are no hostile files at {folder}; BOXWRIGHT_SHARED names the folder that holds cases/")
    return sorted(folder.iterdir())


def test_every_file_is_in_the_table(files: list[Path]) -> None:
    assert {file.name for file in files} == set(EXPECTED)


def test_every_file_is_refused_or_read_at_once_and_in_little_memory(files: list[Path]) -> None:
    """In one process, whose greatest memory grows by what the largest needs."""
    answered = subprocess.run([sys.executable, __file__, *map(str, files)], capture_output=True, text=True, check=True)
    assert not answered.stderr
    found = [json.loads(line) for line in answered.stdout.splitlines()]
    assert [row["file"] for row in found] == [file.name for file in files]
    for file, row in zip(files, found, strict=True):
        expected = EXPECTED[file.name][1]
        assert row["seconds"] < _SECONDS and row["bytes"] < _BYTES, row
        assert expected in row["error"] and bool(expected) == bool(row["error"]), row
        assert "\n" not in row["error"] and (not expected or file.name in row["error"]), row


def _read(files: list[Path]) -> None:
    """A line of JSON for each file: the error, if it was refused, the seconds, and the bytes that memory grew by."""
    import resource
    import time
    import warnings

    from boxwright.cli import USER_ERRORS
    from boxwright.data.formats.documents import read_xml
    from boxwright.data.formats.yolo import find_in_yaml
    from boxwright.data.image import read_image
    from boxwright.untrusted.numpy_files import Npz
    from boxwright.zoo import detectron2, torchvision
    from boxwright.zoo.convert import convert

    warnings.filterwarnings("ignore", module=r"PIL\.")  # as the command does
    names = {
        "detectron2": detectron2.foreign("faster_rcnn_R_50_FPN_1x").name,
        "torchvision": torchvision.foreign("fasterrcnn_resnet50_fpn").name,
    }
    readers = {
        "image": read_image,
        "npz": lambda file: {key: arrays[key] for arrays in [Npz(file)] for key in arrays.keys()},  # noqa: SIM118
        "xml": lambda file: list(read_xml(file)),
        "yaml": find_in_yaml,
        **{library: partial(convert, name, out=os.devnull) for library, name in names.items()},
    }
    unit = 1 if sys.platform == "darwin" else 1024
    for file in files:
        before, started, error = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic(), ""
        try:
            readers[EXPECTED[file.name][0]](file)
        except USER_ERRORS as refusal:
            error = str(refusal)
        growth = unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        seconds = time.monotonic() - started
        print(json.dumps({"file": file.name, "error": error, "seconds": seconds, "bytes": growth}), flush=True)


if __name__ == "__main__":
    _read([Path(argument) for argument in sys.argv[1:]])
