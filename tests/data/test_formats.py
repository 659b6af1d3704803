"""What the formats share: detecting the format, splits drawn by content, and errors that list what was found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boxwright.data.check import check
from boxwright.data.dataset import Dataset, Strings
from boxwright.data.formats import FORMATS, DatasetError, open_dataset
from boxwright.data.formats.split import draw_splits
from shapes import write_shapes


@pytest.fixture
def make_images(tmp_path: Path) -> Path:
    """A folder of 200 different one-pixel images."""
    for i in range(200):
        Image.fromarray(np.array([[[i, 0, 0]]], np.uint8)).save(tmp_path / f"{i:03d}.png")
    return tmp_path


def dataset_of(paths: list[Path]) -> Dataset:
    none = np.zeros(0, bool)
    count = len(paths)
    return Dataset(
        names=("thing",),
        paths=Strings.pack(map(str, paths)),
        ids=np.arange(count),
        sizes=np.ones((count, 2), np.int64),
        offsets=np.zeros(count + 1, np.int64),
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        crowd=none,
        difficult=none,
        area=np.zeros(0, np.float32),
    )


def split_by_name(paths: list[Path], seed: int = 0, shares: dict[str, float] | None = None) -> dict[str, str]:
    """The split of each image, by its file name."""
    splits = draw_splits(dataset_of(paths), seed, shares)
    return {data.path(i).name: split for split, data in splits.items() for i in range(len(data))}


def test_shares_are_met_on_average(make_images: Path) -> None:
    paths = sorted(make_images.iterdir())
    counts = np.array([list(split_by_name(paths, seed).values()).count("train") for seed in range(8)])
    assert abs(counts.mean() - 160) < 3 * np.sqrt(200 * 0.8 * 0.2 / 8)


def test_the_split_depends_on_content_and_seed_alone(make_images: Path) -> None:
    paths = sorted(make_images.iterdir())
    all_of_them = split_by_name(paths)
    assert len(all_of_them) == 200 and set(all_of_them.values()) == {"train", "val", "test"}
    some = split_by_name(paths[50:][::-1])
    assert all(all_of_them[name] == split for name, split in some.items())
    assert split_by_name(paths, seed=1) != all_of_them


def test_copies_stay_together(make_images: Path) -> None:
    paths = sorted(make_images.iterdir())
    for path in paths:
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    splits = split_by_name(sorted(make_images.iterdir()))
    assert all(splits[path.name] == splits[f"copy-{path.name}"] for path in paths)


@pytest.mark.parametrize(("count", "expected"), [(1, {"train"}), (2, {"train", "val"}), (3, {"train", "val", "test"})])
def test_the_smallest_datasets_have_as_many_splits_as_images(count: int, expected: set[str], make_images: Path) -> None:
    for first in range(20):
        splits = split_by_name(sorted(make_images.iterdir())[first : first + count])
        assert set(splits.values()) == expected and len(splits) == count


def test_copies_of_one_image_are_one_split(make_images: Path) -> None:
    assert set(split_by_name([make_images / "000.png"] * 5).values()) <= {"train", "val", "test"}
    assert len(draw_splits(dataset_of([make_images / "000.png"] * 5), 0)) == 1


def test_training_alone_gives_a_tenth_to_validation(tmp_path: Path) -> None:
    splits = open_dataset(write_shapes(tmp_path, {"train": 30}))
    assert list(splits) == ["train", "val"] and splits.drawn
    assert len(splits["train"]) > len(splits["val"]) >= 1 and len(splits["train"]) + len(splits["val"]) == 30


def test_the_seed_decides_the_drawn_splits(tmp_path: Path) -> None:
    write_shapes(tmp_path, 30)
    first, again, other = (open_dataset(tmp_path, seed=seed)["val"].ids.tolist() for seed in (0, 0, 1))  # type: ignore[union-attr]
    assert first == again != other


def test_splits_are_saved(tmp_path: Path) -> None:
    splits = open_dataset(write_shapes(tmp_path, 20), seed=3)
    splits.save(tmp_path / "split.json")
    written = json.loads((tmp_path / "split.json").read_text())
    assert (written["source"], written["format"], written["drawn"], written["seed"]) == (str(tmp_path), "coco", True, 3)
    assert written["val"] == [f"images/{splits['val'].path(i).name}" for i in range(len(splits["val"]))]
    assert sorted(open_dataset(tmp_path)) == sorted(splits), "what was written must not be taken for annotations"


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    splits = open_dataset(write_shapes(tmp_path, {"train": 2, "val": 1}))
    with pytest.raises(KeyError, match="has no test split; it has train, val"):
        splits["test"]


def test_the_format_may_be_given_if_there_are_two(tmp_path: Path) -> None:
    for format, count in (("coco", 3), ("yolo", 4)):
        write_shapes(tmp_path, {"val": count}, format=format)
    assert open_dataset(tmp_path).format == "coco"
    splits = open_dataset(tmp_path, format="yolo")
    assert splits.format == "yolo" and len(splits["val"]) == 4
    with pytest.raises(DatasetError, match=r"Looked for\n  VOC: "):
        open_dataset(tmp_path, format="voc")
    with pytest.raises(DatasetError, match="out of coco, voc, yolo, labelme, csv, got kitti"):
        open_dataset(tmp_path, format="kitti")


def test_an_unknown_layout_is_reported_with_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "notes.md").touch()
    (tmp_path / "a.jpg").touch()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deeper").mkdir()
    with pytest.raises(DatasetError, match="not a dataset in a supported layout") as caught:
        open_dataset(tmp_path)
    assert all(f"\n  {format}: " in str(caught.value) for format in ("COCO", "VOC", "YOLO", "LabelMe", "CSV"))
    assert "Found a.jpg, deep/, deeper/, notes.md (2 × folder, 1 × .jpg, 1 × .md)" in str(caught.value)
    with pytest.raises(DatasetError, match="Found an empty folder$"):
        open_dataset(tmp_path / "deep")


@pytest.mark.parametrize(
    ("files", "near"),
    [
        ({"result.json": "[1]"}, "COCO: .*\n    but result.json holds no object with keys\n"),
        ({"result.json": '{"version": 5}'}, 'COCO: .*\n    but result.json begins with "version"\n'),
        ({"notes.json": '{"info": {}, "categories": []}'}, "COCO: .*\n    but notes.json has no list `images`\n"),
        ({"deep/x/a.json": "{}", "b/c.txt": ""}, r"COCO: .*\n    but 1 × \.json are in deep/x\n"),
        ({"xml/a/1.xml": "", "xml/a/2.xml": "", "b/c.md": ""}, "VOC: .*\n    but 2 × .xml are in xml/a\n"),
        (
            {"a.xml": "<?xml version='1.0'?><annotations/>", "b/c.md": ""},
            "VOC: .*\n    but a.xml begins with <annotations>",
        ),
        ({"a.yaml": "names: [cat]"}, "YOLO: .*\n    but a.yaml has no `train`, `val` or `test`\n"),
        ({"a.yaml": "train: images"}, "YOLO: .*\n    but a.yaml has no `names`\n"),
        ({"Images/a.jpg": "", "b/c.md": ""}, "YOLO: .*\n    but images/ is there, labels/ is not\n"),
        ({"labels/a.txt": "", "b/c.md": ""}, "YOLO: .*\n    but labels/ is there, images/ is not\n"),
        ({"x/a.txt": "", "y/b.txt": ""}, "YOLO: .*\n    but 1 × .txt are in x, 1 × .txt are in y; a YAML"),
        ({"b/c.md": "", "d/e/a.json": '{"shapes": []}'}, "LabelMe: .*\n    but d/e/a.json is one of LabelMe\n"),
        ({"a.csv": "name,size\n"}, "CSV: .*\n    but a.csv begins with `name,size`\n"),
        ({"outer/inner/c.md": ""}, r"Looked in .*outer/inner for\n  COCO: (.*\n)+Found c.md \(1 × .md\)$"),
    ],
)
def test_an_unknown_layout_names_near_misses(files: dict[str, str], near: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=near):
        open_dataset(tmp_path)


@pytest.mark.parametrize("format", ["coco", "yolo"])
def test_a_split_without_a_box_is_told_where_others_have_some(format: str, tmp_path: Path) -> None:
    write_shapes(tmp_path, {"train": 2, "val": 3}, format=format)
    if format == "coco":
        content = json.loads((tmp_path / "val.json").read_text())
        (tmp_path / "val.json").write_text(json.dumps(content | {"annotations": []}))
    else:
        for file in (tmp_path / "labels" / "val").iterdir():
            file.write_text("")
    with pytest.warns(UserWarning, match="split without labels: none of the 3 images of val has a box") as caught:
        assert len(open_dataset(tmp_path)["val"].boxes) == 0
    assert len(caught) == 1 and "though those of train have" in str(caught[0].message)
    assert [problem.kind for problem in check(tmp_path) if problem.severity != "note"] == ["split without labels"]


def test_boxes_in_shares_alone_are_refused(tmp_path: Path) -> None:
    write_shapes(tmp_path, {"train": 2})
    content = json.loads((tmp_path / "train.json").read_text())
    for annotation in content["annotations"]:
        annotation["bbox"] = [value / 128 for value in annotation["bbox"]]
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="box in shares: expected boxes in pixels") as caught:
        open_dataset(tmp_path)
    assert caught.value.file == tmp_path / "train.json"


@pytest.mark.parametrize(("name", "message"), [("gone", "which does not exist"), ("a.txt", "got the file")])
def test_a_path_that_cannot_be_opened(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(DatasetError, match=message):
        open_dataset(tmp_path / name)


def test_no_usable_image_is_an_error(tmp_path: Path) -> None:
    write_shapes(tmp_path, {"train": 2, "val": 1})
    for file in (tmp_path / "images").iterdir():
        file.unlink()
    with pytest.raises(DatasetError, match="no usable image in the train split .*first of 3 problems: .*missing image"):
        open_dataset(tmp_path)


def test_a_good_dataset_opens_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for format in FORMATS:
        open_dataset(write_shapes(tmp_path / format, 4, format=format))
    assert not recwarn.list


@pytest.mark.parametrize("format", ["yolo", "csv", "labelme"])
@pytest.mark.parametrize("broken", ["folder", "link"])
def test_folders_and_broken_links_called_like_annotations_do_not_matter(
    format: str, broken: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    write_shapes(tmp_path, 3, format=format)
    for suffix in (".csv", ".json", ".data", ".yaml", ".xml"):
        file = tmp_path / f"aa{suffix}"
        file.mkdir() if broken == "folder" else file.symlink_to(tmp_path / "gone")
    splits = open_dataset(tmp_path)
    assert splits.format == format and sum(map(len, splits.values())) == 3
    left_out = [str(warning.message) for warning in recwarn]
    assert not left_out or (broken, format) == ("link", "labelme"), "an annotation of LabelMe that is gone is told"


def test_xml_of_other_programs_is_no_voc(tmp_path: Path) -> None:
    write_shapes(tmp_path, 3, format="yolo")
    (tmp_path / "annotations.xml").write_text("<annotations><image/></annotations>")
    assert open_dataset(tmp_path).format == "yolo"


def test_a_table_in_other_columns_is_named_beside_its_only_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").touch()
    (tmp_path / "labels.csv").write_text("filename,class,x,y,w,h\n")
    with pytest.raises(
        DatasetError, match="but labels.csv begins with `filename,class,x,y,w,h`\nFound images/, labels"
    ):
        open_dataset(tmp_path)


def test_a_class_list_that_cannot_be_read_is_told_in_full(tmp_path: Path) -> None:
    write_shapes(tmp_path, 3, format="yolo")
    for file in (tmp_path / "labels").rglob("*.txt"):
        file.write_text("2 0.5 0.5 0.1 0.1\n")
    (tmp_path / "classes.txt").write_bytes("狗\n猫\n鸟\n".encode("gbk"))
    with pytest.warns(UserWarning, match=r"classes.txt:1: error: unreadable list: .* looks like GBK; save the file as"):
        assert open_dataset(tmp_path).names == ("2",)
