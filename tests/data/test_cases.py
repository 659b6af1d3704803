"""Small data sets as tools and people leave them: each opens with the stated content, or is refused in stated words.

The sets are those of shared/cases/make.py: 160×120 images, a cat at (10, 20, 70, 70) and a dog at (80, 30, 120, 90)
unless stated otherwise. `pytest -s` on this file prints the table of them.
"""

from __future__ import annotations

import functools
import re
import runpy
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from boxwright.data.check import check
from boxwright.data.dataset import Dataset
from boxwright.data.formats import DatasetError, Problem, Splits, open_dataset
from boxwright.data.image import read_image

Box = tuple[float, float, float, float]
CAT, DOG = (10.0, 20.0, 70.0, 70.0), (80.0, 30.0, 120.0, 90.0)
ALL, TRAIN_VAL = "train+val+test", "train+val"


@dataclass(frozen=True)
class Opens:
    """What a set holds.

    images  how many of each split; a key such as "train+val" counts splits that boxwright draws out of one
    boxes   of every image, by class name; `others` those of an image that differs, by its stem or FOLDER/STEM
    says    regular expressions of problems: each matches a problem of `check`, and every error and warning matches one,
            but for the two photos that are alike in most sets
    """

    format: str
    images: Mapping[str, int] = field(default_factory=lambda: {TRAIN_VAL: 6})
    names: tuple[str, ...] = ("cat", "dog")
    boxes: Mapping[str, Box] = field(default_factory=lambda: {"cat": CAT, "dog": DOG})
    others: Mapping[str, Mapping[str, Box]] = field(default_factory=dict)
    says: tuple[str, ...] = ()
    crowd: bool = False
    size: tuple[int, int] = (120, 160)

    def __str__(self) -> str:
        return f"{self.format}: {_counts(self.images)}, {_listed(self.names)}" + "".join(f"; {s}" for s in self.says)


@dataclass(frozen=True)
class Refused:
    """A set that is not opened; `words` is a regular expression of the DatasetError."""

    words: str

    def __str__(self) -> str:
        return f"refused: {self.words}"


COCO, YOLO, VOC = Opens("coco"), Opens("yolo"), Opens("voc", {ALL: 6})
COCO_ALL, YOLO_ALL = Opens("coco", {ALL: 6}), Opens("yolo", {ALL: 6})
COCO_TWO, YOLO_TWO = Opens("coco", {"train": 6, "val": 3}), Opens("yolo", {"train": 6, "val": 3})
UNKNOWN = Refused("not a dataset in a supported layout")
ONE_CAT = Opens("yolo", boxes={"cat": CAT})

CASES: dict[str, Opens | Refused] = {
    "all_and_test": Opens("coco", {TRAIN_VAL: 6, "test": 2}),
    "all_float_ids": COCO,
    "allbg_batch": Opens("yolo", {TRAIN_VAL: 10}, others={f"p0{i}": {} for i in range(8)}),
    "avif": Opens("yolo", {TRAIN_VAL: 4}),
    "bbox_empty_poly": COCO,
    "bbox_str": COCO,
    "bomcrlf": YOLO,
    "case_names": COCO,
    "classes_blank": Opens(
        "yolo",
        {ALL: 6},
        ("cat", "1", "dog", "bird"),
        {"dog": CAT, "1": DOG},
        says=(r"classes\.txt.*(blank|empty|no name)",),
    ),
    "classes_dup": Opens(
        "yolo",
        {ALL: 6},
        ("dog", "cat", "dog (2)", "bird", "fish"),
        {"dog (2)": CAT, "bird": DOG},
        says=(r"classes\.txt.*dog \(2\)",),
    ),
    "classes_gbk": Opens(
        "yolo", {ALL: 6}, ("0", "1"), {"0": CAT, "1": DOG}, says=(r"classes\.txt.*(?i:utf-8)",)
    ),
    "classes_in_sub": YOLO_TWO,
    "classes_in_sub_diff": YOLO_TWO,
    "classes_utf16": YOLO_ALL,
    "coco_gbk": Refused(r"train\.json.*(?i:utf-8)"),
    "coco_norm": Refused("share|normali"),
    "coco_trailing_space": Opens("coco", names=("cat", "cat "), boxes={"cat": CAT, "cat ": DOG}, says=("ambiguous",)),
    "coco_utf16": COCO,
    "coco_xyxy": Opens("coco", boxes={"cat": (10, 20, 80, 90), "dog": (80, 30, 160, 120)}, says=("reaches outside",)),
    "comma": Opens("yolo", boxes={}, says=("malformed annotation",)),
    "crowd_all1": Opens("coco", crowd=True, says=("crowd",)),
    "crowd_false": COCO,
    "crowd_some": COCO,
    "crowd_str": COCO,
    "cvat_217": COCO,
    "cvat_coco": COCO_ALL,
    "cvat_coco_flat": COCO_ALL,
    "cvat_coco_lower": COCO_TWO,
    "cvat_coco_subsets": COCO_TWO,
    "cvat_ultra": YOLO,
    "cvat_yolo11": YOLO,
    "deep_dirs": COCO,
    "exif6": COCO,
    "exif6_unaware": Opens(
        "coco", boxes={"cat": (20, 90, 70, 150), "dog": (30, 40, 90, 80)}, says=("wrong size",), size=(160, 120)
    ),
    "first_key": COCO_ALL,
    "flat_train_val": UNKNOWN,
    "float_ids": COCO,
    "gap_ids": COCO_TWO,
    "int_names": Opens("coco", names=("1", "2"), boxes={"1": CAT, "2": DOG}),
    "jfif": Opens("yolo", {TRAIN_VAL: 7}),
    "jp2": Opens("yolo", {TRAIN_VAL: 4}),
    "labels_oob": Opens("yolo", boxes={"cat": CAT}, says=("class 2 is not one of",)),
    "link_images": ONE_CAT,
    "link_noyaml": Opens("yolo", {ALL: 6}, boxes={"cat": CAT}),
    "link_train": ONE_CAT,
    "list_absforeign": YOLO,
    "list_backslash": YOLO,
    "list_content": YOLO,
    "list_dup": Opens("yolo", {TRAIN_VAL: 3}),
    "list_utf16": YOLO,
    "ls_backslash": COCO_ALL,
    "ls_notes": YOLO_ALL,
    "lvis": COCO,
    "macos": YOLO,
    "many_classes": Opens(
        "coco", names=tuple(f"c{i:04}" for i in range(1203)), boxes={"c0000": CAT, "c0001": DOG}
    ),
    "mix_beside": YOLO,
    "names_from1": YOLO,
    "names_str": Refused("data.yaml: expected `names` as a list"),
    "names_yesno": Opens("yolo", names=("no", "yes"), boxes={"no": CAT, "yes": DOG}),
    "nc_only": Opens("yolo", names=("0", "1"), boxes={"0": CAT, "1": DOG}),
    "neg_size": Opens("coco", boxes={}, says=("degenerate box",)),
    "nfd": COCO,
    "parent": Opens("yolo", {TRAIN_VAL: 2}, ("0",), {"0": (72, 54, 88, 66)}),
    "poly_only": COCO,
    "rb_nested": Opens(
        "coco",
        names=("cat",),
        others={f"cam{k % 2}/f{k // 2}": {"cat": (10 + k, 20, 70 + k, 70)} for k in range(6)},
    ),
    "resized": Opens("coco", {"train": 6, "val": 3}, says=("scaled",)),
    "results_list": Refused(r"train\.json"),
    "resume_names": Opens("yolo", {"train": 4, "val": 2}),
    "rf100": COCO,
    "rf_bg": Opens("coco", names=("Background", "cat", "dog")),
    "robo_samename": Opens("coco", names=("helmet",), boxes={"helmet": CAT}),
    "robo_yaml": Opens("yolo", {"train": 6, "val": 3}, says=("missing split",)),
    "same_basename": COCO,
    "same_stem": Opens("yolo", {TRAIN_VAL: 4}, says=("p00.*share",)),
    "single": Opens("coco", {TRAIN_VAL: 1}),
    "store": UNKNOWN,
    "str_cat_id": COCO,
    "str_image_id": COCO,
    "symlink": Opens("yolo", {TRAIN_VAL: 8}),
    "symlink_src": Opens("yolo", {ALL: 6}, ("0", "1"), {"0": CAT, "1": DOG}),
    "test_only": Opens("yolo", {"test": 6}),
    "tiff12": COCO,
    "train_covers_val": Opens("yolo", {"train": 9, "val": 3}, says=("image in two splits",)),
    "train_is_val": Opens("yolo", {"train": 6, "val": 6}, says=("image in two splits",)),
    "train_labels_misnamed": YOLO_TWO,
    "two_entries": COCO,
    "upper_dirs": YOLO_TWO,
    "upper_dirs_noyaml": YOLO_TWO,
    "upper_txt": YOLO_TWO,
    "urlenc": COCO,
    "val_labels_misnamed": YOLO_TWO,
    "via_minus1": Opens("coco", says=("image [2-6] has height -1",)),
    "voc_dotted": Opens("voc", {"train": 4, "val": 2}, says=("image in two splits",)),
    "voc_gb2312": Opens("voc", {ALL: 6}, ("狗", "猫"), {"猫": CAT, "狗": DOG}),
    "voc_gbk_undeclared": Refused(r"p00\.xml.*(?i:utf-8|encoding)"),
    "voc_labelme": Opens("voc", {ALL: 6}, ("__ignore__", "_background_", "cat", "dog")),
    "voc_latin1": Opens("voc", {ALL: 6}, ("café", "dog"), {"café": CAT, "dog": DOG}),
    "voc_list_slash": Opens("voc", {"train": 4, "val": 2}, says=("image in two splits",)),
    "voc_list_utf16": Opens("voc", {TRAIN_VAL: 6}),
    "voc_norm": Refused("share|normali"),
    "voc_sjis": Opens("voc", {ALL: 6}, ("犬", "猫"), {"猫": CAT, "犬": DOG}),
    "voc_stale": VOC,
    "voc_sub": UNKNOWN,
    "voc_swapped": Opens("voc", {ALL: 6}, boxes={"dog": DOG}, says=("degenerate box.*class cat",)),
    "win_yaml": YOLO_TWO,
    "win_yaml_images": Refused("missing split"),
    "yaml_blank": Opens(
        "yolo", names=("cat", "1", "2"), boxes={"2": CAT}, says=(r"data\.yaml.*(blank|empty|no name)",)
    ),
    "yaml_dup": Opens(
        "yolo", names=("dog", "cat", "dog (2)"), boxes={"dog": CAT, "dog (2)": DOG}, says=(r"data\.yaml.*dog \(2\)",)
    ),
    "yaml_gbk": Refused(r"data\.yaml.*(?i:utf-8)"),
    "yaml_utf16": YOLO,
    "yolo_conf": YOLO,
    "yolo_instance": Opens("yolo", boxes={}, says=("instance",)),
    "yolo_percent": Opens("yolo", boxes={}, says=("per ?cent",)),
    "yolo_pixels": Opens("yolo", boxes={}, says=("pixels",)),
    "yolo_pose2": ONE_CAT,
    "yolo_track": YOLO,
}  # fmt: skip

_PHOTOS = (
    "astronaut",
    "coffee",
    "chelsea",
    "rocket",
    "camera",
    "cat",
    "coins",
    "page",
    "text",
    "moon",
    "clock",
    "brick",
)


@pytest.fixture(scope="session")
def cases(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all cases. Each photo of scikit-image is decoded once: the script asks for them 700 times."""
    script = shared / "cases" / "make.py"
    if not script.is_file():
        pytest.skip(f"there is no {script}; BOXWRIGHT_SHARED names the folder that holds cases/")
    photos = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    folder = tmp_path_factory.mktemp("cases")
    with pytest.MonkeyPatch.context() as patch:
        for name in _PHOTOS:
            patch.setattr(photos, name, functools.cache(getattr(photos, name)))
        patch.setattr("sys.argv", [str(script), str(folder)])
        runpy.run_path(str(script))
    return folder


@pytest.mark.parametrize("name", CASES)
def test_case(cases: Path, name: str) -> None:
    right, folder = CASES[name], cases / name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got: Splits | DatasetError = open_dataset(folder)
    except DatasetError as error:
        got = error
    problems = check(folder)
    print(f"\n{name:22} expected {right}\n{'':22} got      {_summary(got, problems)}")

    if isinstance(right, Refused):
        assert isinstance(got, DatasetError)
        assert re.search(right.words, _without(folder, got), re.DOTALL)
        assert any(problem.severity == "error" for problem in problems)
        return
    if isinstance(got, DatasetError):
        raise got
    assert got.format == right.format
    assert got.names == right.names
    assert bool(got.drawn) == any("+" in splits for splits in right.images)
    counts = {splits: sum(len(got[s]) for s in splits.split("+") if s in got) for splits in right.images}
    assert counts == right.images
    assert set(got) <= {split for splits in right.images for split in splits.split("+")}
    for dataset in got.values():
        _compare(dataset, right)
    texts = [_without(folder, problem) for problem in problems]
    assert [words for words in right.says if not any(re.search(words, text) for text in texts)] == []
    grave = [p for p in problems if p.severity != "note" and p.kind != "duplicate image"]
    unexpected = [p for p in grave if not any(re.search(words, _without(folder, p)) for words in right.says)]
    assert unexpected == []


def _without(folder: Path, what: Problem | DatasetError) -> str:
    """The text without the folder: the names of the cases hold some of the words."""
    return str(what).replace(str(folder), ".")


def _compare(dataset: Dataset, right: Opens) -> None:
    for i in range(len(dataset)):
        target, path = dataset.target(i), dataset.path(i)
        nested = right.others.get(f"{path.parent.name}/{path.stem}", right.boxes)
        boxes = right.others.get(path.stem, nested)
        assert tuple(dataset.size(i)) == right.size
        assert sorted(dataset.names[label] for label in target.labels) == sorted(boxes)
        for label, box in zip(target.labels, target.boxes, strict=True):
            np.testing.assert_allclose(box, boxes[dataset.names[label]], atol=0.01)  # labels of four digits
        assert (target.crowd == right.crowd).all()


def test_12_bit_data_is_visible(cases: Path) -> None:
    assert read_image(cases / "tiff12" / "images" / "p00.tif").max() > 200


def test_no_case_is_left_out(cases: Path) -> None:
    assert {folder.name for folder in cases.iterdir()} == set(CASES)


def _summary(got: Splits | DatasetError, problems: list[Problem]) -> str:
    kinds = Counter(f"{problem.severity}: {problem.kind}" for problem in problems)
    listed = "".join(f"; {count} × {kind}" for kind, count in kinds.items())
    if isinstance(got, DatasetError):
        return f"refused: {str(got)[:160]!r}{listed}"
    drawn = "drawn " if got.drawn else ""
    return f"{got.format}: {drawn}{_counts({split: len(got[split]) for split in got})}, {_listed(got.names)}{listed}"


def _counts(images: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {count}" for split, count in images.items())


def _listed(names: tuple[str, ...]) -> str:
    return f"[{', '.join(names)}]" if len(names) <= 8 else f"[{len(names)} names]"
