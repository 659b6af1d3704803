"""The readers of annotations, class lists and results."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from boxwright.cli.data import _report
from boxwright.data.check import check
from boxwright.data.formats import DatasetError, open_dataset
from boxwright.metrics.coco import evaluate_files
from boxwright.types import Size
from boxwright.zoo.answers import read_answers
from boxwright.zoo.foreign import ForeignError
from fuzz.mutate import json_node, xml_node, yaml_node
from fuzz.reader import Mutator, Reader
from shapes import NAMES, write_shapes

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_SIZE = Size(36, 48)
_SPLITS = {"train": 2, "val": 1}


def _dataset(folder: Path) -> None:
    """Check a dataset, which never raises, print its problems, and open it."""
    problems = check(folder, workers=1)
    hidden = _CONTROL.search(_report(problems, 10))
    assert hidden is None, f"{hidden[0]!r} is printed as it is"
    longest = max((len(str(problem)) for problem in problems), default=0)
    assert longest < 10_000, f"a problem of {longest} characters"
    for split in (splits := open_dataset(folder, draw=False)):
        for index in range(len(splits[split])):
            splits[split].target(index)
        assert splits[split].names == splits.names


def _of(format: str, count: int | Mapping[str, int], pattern: str) -> Callable[[Path], list[bytes]]:
    """Prepares such a dataset; its files of a pattern are the valid contents."""

    def prepare(folder: Path) -> list[bytes]:
        write_shapes(folder, count, format=format, size=_SIZE)
        return [file.read_bytes() for file in sorted(folder.glob(pattern))]

    return prepare


def _reader(
    name: str,
    file: str,
    prepare: Callable[[Path], Sequence[bytes]],
    mutator: Mutator | None = None,
    up: int = 0,
    tokens: Sequence[bytes] = (),
) -> Reader:
    """Of a dataset in whose folder the file is, or so many levels further up."""
    mutators = [mutator] if mutator else []
    return Reader(name, file, prepare, lambda path: _dataset(path.parents[up]), (DatasetError,), mutators, tokens)


def _coco_variants(folder: Path) -> list[bytes]:
    write_shapes(folder, 2, format="coco", size=_SIZE)
    content = json.loads((folder / "annotations.json").read_bytes())
    variants = [json.dumps(content), json.dumps(content, indent=1)]
    for annotation in content["annotations"]:
        x, y, width, height = annotation.pop("bbox")
        annotation["segmentation"] = [[x, y, x + width, y, x + width, y + height]]
    content["annotations"][0]["segmentation"] = {"size": [36, 48], "counts": [5, 10, 1713]}
    for image in content["images"]:
        image |= {"id": str(image["id"]), "split": "train", "coco_url": f"https://a.b/c/{image.pop('file_name')}"}
    return [text.encode() for text in (*variants, json.dumps(content, indent=1))]


def _voc_lists(folder: Path) -> list[bytes]:
    write_shapes(folder, _SPLITS, format="voc", size=_SIZE)
    return [file.read_bytes() for file in sorted((folder / "ImageSets" / "Main").iterdir())]


def _yolo_lists(folder: Path) -> list[bytes]:
    write_shapes(folder, _SPLITS, format="yolo", size=_SIZE)
    (folder / "data.yaml").write_text(f"train: train.txt\nval: images/val\nnames: [{', '.join(NAMES)}]\n")
    return [b"images/train/00000.png\nimages/train/00001.png\n", b"C:\\data\\images\\train\\00000.png\r\n"]


def _yamls(folder: Path) -> list[bytes]:
    write_shapes(folder, _SPLITS, format="yolo", size=_SIZE)
    return [
        (folder / "data.yaml").read_bytes(),
        b"path: ../data\ntrain: [images/train, images/val]\nval: images/val\ntest:\nnc: 3\n",
        b"train: images/train # comment\nnames:\n  0: circle\n  1: no\n  2: 'triangle'\nkpt_shape: [17, 3]\n",
    ]


def _darknet(folder: Path) -> list[bytes]:
    write_shapes(folder, 2, format="yolo", size=_SIZE)
    (folder / "obj.names").write_text("\n".join(NAMES))
    (folder / "train.txt").write_text("images/00000.png\nimages/00001.png\n")
    return [b"classes = 3\ntrain = data/train.txt\nvalid = images\nnames = data/obj.names\nbackup = backup/\n"]


def _open_images(folder: Path) -> list[bytes]:
    write_shapes(folder, 2, format="csv", size=_SIZE)
    head = b"ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf\n"
    (folder / "class-descriptions.csv").write_text("/m/1,cat\n/m/2,dog\n")
    (next(folder.glob("*.csv"))).unlink(missing_ok=True)
    return [
        head + b"00000,x,/m/1,1,0.1,0.9,0.2,0.8,0\n00001,x,/m/2,1,0.1,0.9,0.2,0.8,1\n",
        b'images/00000.png,1,2,30,20,cat\nimages/00001.png,"1","2",30,20,"a ""dog"""\nimages/00000.png,,,,,\n',
        b"filename;width;height;class;xmin;ymin;xmax;ymax;split\n00000.png;48;36;cat;1;2;30;20;train\n00001.png;48;36;cat;1;2;30;20;val\n",
    ]


def _results(folder: Path) -> list[bytes]:
    write_shapes(folder, 2, format="coco", size=_SIZE)
    content = json.loads((folder / "annotations.json").read_bytes())
    keys = ("image_id", "category_id", "bbox")
    rows = [{key: row[key] for key in keys} | {"score": 0.5} for row in content["annotations"]]
    return [json.dumps(rows).encode(), json.dumps(rows[:1], indent=2).encode()]


def _truth(folder: Path) -> list[bytes]:
    (folder / "results.json").write_bytes(_results(folder)[0])
    return [(folder / "annotations.json").read_bytes()]


def _answers(folder: Path) -> list[bytes]:
    write_shapes(folder, 1, format="coco", size=_SIZE)
    return [
        json.dumps({"boxes": [[1, 2, 30, 40.5], [3, 4, 5, 6]], "scores": [0.5, 1], "labels": [1, 2]}).encode(),
        json.dumps({"boxes": [[1, 2, 30, 40]], "scores": [0.5], "labels": ["square"]}).encode(),
        json.dumps([{"bbox": [1, 2, 3, 4], "score": 0.1, "category_id": 1, "image_id": 7}]).encode(),
    ]


def _read_answers(path: Path) -> None:
    read_answers({str(path.parent / "images" / "00000.png"): path}, NAMES, 1)


def _class_lists(folder: Path) -> list[bytes]:
    _of("yolo", 2, "labels/*.txt")(folder)
    return [(folder / "classes.txt").read_bytes(), "Hund\r\nKatze\r\n\r\nMaus\r\n\r\n".encode("utf-16")]


READERS = [
    _reader("coco", "annotations.json", _coco_variants, json_node),
    _reader("voc", "Annotations/00000.xml", _of("voc", 2, "Annotations/*.xml"), xml_node, up=1),
    _reader("voc-list", "ImageSets/Main/train.txt", _voc_lists, up=2),
    _reader("labelme", "00000.json", _of("labelme", 2, "*.json"), json_node),
    _reader("csv", "annotations.csv", _open_images, tokens=[b"a" * 140_000]),
    _reader("yolo", "labels/00000.txt", _of("yolo", 2, "labels/*.txt"), up=1),
    _reader("yolo-yaml", "data.yaml", _yamls, yaml_node),
    _reader("yolo-list", "train.txt", _yolo_lists),
    _reader("darknet", "obj.data", _darknet),
    _reader("class-list", "classes.txt", _class_lists),
    Reader(
        "coco-results", "found.json", _results, lambda path: evaluate_files(path.parent / "annotations.json", path),
        (ValueError,), [json_node],
    ),
    Reader(
        "coco-truth", "annotations.json", _truth, lambda path: evaluate_files(path, path.parent / "results.json"),
        (ValueError,), [json_node],
    ),
    Reader("answers", "answers.json", _answers, _read_answers, (ForeignError,), [json_node]),
]  # fmt: skip
