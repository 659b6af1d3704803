"""The same data have the same digest wherever they are; every change of content has another, and is named."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from boxwright.data import fingerprint as module
from boxwright.data.dataset import Strings
from boxwright.data.fingerprint import Fingerprint, changes, file_digest, fingerprint
from boxwright.data.formats import Splits, open_dataset
from shapes import write_shapes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "data", {"train": 4, "val": 2}, format="yolo")


def of(folder: Path, before: Fingerprint | None = None) -> Fingerprint:
    splits = open_dataset(folder)
    return fingerprint(splits, splits.source, before=before)


def test_a_moved_folder_and_renamed_files_are_the_same_data(folder: Path, tmp_path: Path) -> None:
    before = of(folder)
    before.write(tmp_path / "data.json")
    known = Fingerprint.read(tmp_path / "data.json")
    assert known is not None and known == before and known.digest == before.digest
    moved = tmp_path / "elsewhere" / "other"
    shutil.copytree(folder, moved)  # with other times
    for file in moved.rglob("*.*"):
        if file.parent.name in ("train", "val"):
            file.rename(file.with_name(f"a{file.name}"))
    assert of(moved).digest == before.digest and changes(known, of(moved)) == []
    assert changes(None, before) == [] and Fingerprint.read(tmp_path / "none.json") is None


def test_changes_are_counted_and_named(folder: Path) -> None:
    before, images, labels = of(folder), folder / "images" / "train", folder / "labels" / "train"
    first, second, third, fourth = sorted(path.stem for path in labels.iterdir())
    suffix = next(images.iterdir()).suffix
    content = bytearray((images / f"{first}{suffix}").read_bytes())
    content[len(content) // 2] ^= 1
    (images / f"{first}{suffix}").write_bytes(content)
    lines = (labels / f"{second}.txt").read_text().splitlines()
    (labels / f"{second}.txt").write_text("\n".join(lines * 3) + "\n")
    (images / f"{third}{suffix}").unlink()
    (labels / f"{third}.txt").unlink()
    shutil.copy(images / f"{fourth}{suffix}", images / f"new{suffix}")
    module._digest.cache_clear()  # a file system may note times in steps of milliseconds
    now = of(folder)
    assert now.digest != before.digest
    (sentence,) = changes(before, now)
    assert sentence.startswith(
        f"train: 1 image added (images/train/new{suffix}), 1 image removed (images/train/{third}"
    )
    assert f"1 image with other content (images/train/{first}{suffix})" in sentence
    assert f"1 image with other boxes, classes or size (images/train/{second}{suffix})" in sentence
    boxes = [sum(image.boxes for image in data.splits["train"]) for data in (before, now)]
    assert sentence.endswith(f"{boxes[0]} boxes before, {boxes[1]} now")


def changed(splits: Splits, column: str) -> Splits:
    dataset = splits["val"]
    values = getattr(dataset, column).copy()
    values[0] = ~values[0] if values.dtype == bool else (values[0] + 1) % 3 if column == "labels" else values[0] + 1
    return Splits({**splits, "val": replace(dataset, **{column: values})}, splits.source, "yolo", (), 0)


@pytest.mark.parametrize("column", ["sizes", "boxes", "labels", "crowd", "difficult", "area"])
def test_every_column_counts(column: str, folder: Path) -> None:
    splits = open_dataset(folder)
    before, now = (fingerprint(of, splits.source) for of in (splits, changed(splits, column)))
    (sentence,) = changes(before, now)
    assert sentence.startswith("val: 1 image with other boxes, classes or size")


def test_order_classes_splits_and_proposals_count(folder: Path, tmp_path: Path) -> None:
    splits = open_dataset(folder)
    before = fingerprint(splits, folder)
    turned = {split: dataset.select(np.arange(len(dataset))[::-1]) for split, dataset in splits.items()}
    assert changes(before, fingerprint(turned, folder)) == [
        f"{split}: the images are in another order" for split in ("train", "val")
    ]
    renamed = {split: dataset.restrict(splits.names[::-1]) for split, dataset in splits.items()}
    assert changes(before, fingerprint(renamed, folder)) == [
        f"class names[0] was {splits.names[0]}, now {splits.names[-1]}"
    ]
    train = {"train": splits["train"]}
    assert changes(before, fingerprint(train, folder)) == ["val is missing, which had 2 images"]
    assert changes(fingerprint(train, folder), before) == ["val is new, with 2 images"]
    boxes = tmp_path / "boxes.safetensors"
    boxes.write_bytes(b"a")
    first = fingerprint(splits, folder, boxes)
    boxes.write_bytes(b"b")
    assert changes(first, fingerprint(splits, folder, boxes)) == ["the file of proposals has other content"]


def test_of_many_files_the_size_and_the_ends_are_digested(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = of(folder)
    monkeypatch.setattr(module, "WHOLE", 0)
    assert before.whole and not of(folder).whole
    assert of(folder, before).digest == before.digest  # compared as it was made
    file, content = tmp_path / "file", bytearray(50_000)
    digests = []
    for place in (0, 25_000, 49_999, None):
        changed = content.copy()
        if place is None:
            changed += b"\0"
        else:
            changed[place] = 1
        file.write_bytes(changed)
        module._digest.cache_clear()
        digests.append(file_digest(file))
    file.write_bytes(content)
    module._digest.cache_clear()
    same = file_digest(file)
    assert [digest == same for digest in digests] == [False, True, False, False] and len(set(digests)) == 4


def test_what_is_no_regular_file_is_not_waited_for(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    train = open_dataset(folder)["train"].select([0, 1])
    for paths in ([str(tmp_path / "pipe"), str(tmp_path / "none")], [str(tmp_path), "/dev/zero"]):
        now = fingerprint({"train": replace(train, paths=Strings.pack(paths))}, folder)
        assert [image.content for image in now.splits["train"]] == ["", ""]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"names": ["a"], "splits": {"train": [1]}}', '{"names": 1}', "\ufeff"]
)
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(ValueError, match=r"data.json.*Remove the file to go on without comparing"):
        Fingerprint.read(tmp_path / "data.json")


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "data.json")
    with pytest.raises(OSError, match=r"no regular file.*data\.json"):
        Fingerprint.read(tmp_path / "data.json")
