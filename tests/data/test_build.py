"""Real sizes of images against annotated ones, boxes in shares of the image, and the warnings of both."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from boxwright.data.dataset import Dataset
from boxwright.data.formats.build import build
from boxwright.data.formats.reading import BoxRow, ImageRow, Problem, Reading, warn_about
from boxwright.types import Size

Box = tuple[float, float, float, float]


def built(
    folder: Path, file: tuple[int, int], annotated: tuple[int, int] | None, *boxes: Box, orientation: int = 1
) -> tuple[Dataset, list[Problem]]:
    """Of one image; sizes are width and height."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    Image.new("RGB", file).save(folder / "a.png", exif=tags)
    size = annotated and Size(annotated[1], annotated[0])
    image = ImageRow(str(folder / "a.png"), 1, size, "a.json", 3)
    return build(Reading(["cat"], [image], [BoxRow(0, "cat", box, "a.json", 9, area=100) for box in boxes]))


@pytest.mark.parametrize(
    ("file", "annotated", "boxes", "expected"),
    [
        ((160, 120), (640, 480), [(40, 80, 280, 280)], (10, 20, 70, 70)),
        ((1280, 960), (640, 480), [(40, 80, 280, 280)], (80, 160, 560, 560)),
        ((333, 250), (1000, 750), [(100, 75, 500, 375)], (33.3, 25, 166.5, 125)),  # 333.3 rounded
        ((1000, 750), (333, 250), [(33.3, 25, 166.5, 125)], (100, 75, 500, 375)),
        ((160, 120), (640, 480), [(40, 80, 650, 480)], (10, 20, 160, 120)),  # ten pixels too far
    ],
)
def test_boxes_are_scaled_to_a_file_of_the_same_shape(
    file: tuple[int, int], annotated: tuple[int, int], boxes: list[Box], expected: Box, tmp_path: Path
) -> None:
    dataset, problems = built(tmp_path, file, annotated, *boxes)
    assert dataset.size(0) == file[::-1] and dataset.boxes[0].tolist() == pytest.approx(expected, abs=1e-3)
    assert dataset.area[0] == pytest.approx(100 * file[0] * file[1] / annotated[0] / annotated[1])
    message = f"which is {file[0]}×{file[1]} and not {annotated[0]}×{annotated[1]}; their boxes are scaled"
    assert message in problems[0].message
    assert (problems[0].kind, problems[0].severity) == ("boxes scaled", "warning")


@pytest.mark.parametrize(
    ("file", "annotated", "box"),
    [
        ((160, 120), (159, 120), (10, 20, 70, 70)),  # rounded
        ((1920, 1088), (1920, 1080), (10, 20, 70, 70)),  # padded to blocks of 16
        ((40, 30), (20, 15), (25, 16, 35, 25)),  # the box is that of the file
        ((40, 30), (20, 10), (25, 15, 35, 25)),
        ((160, 120), (120, 160), (10, 20, 70, 70)),  # width and height exchanged
    ],
)
def test_boxes_of_the_file_stay_where_only_the_size_is_wrong(
    file: tuple[int, int], annotated: tuple[int, int], box: Box, tmp_path: Path
) -> None:
    dataset, problems = built(tmp_path, file, annotated, box)
    assert dataset.size(0) == file[::-1] and dataset.boxes.tolist() == [list(box)]
    assert [(problem.kind, problem.severity) for problem in problems] == [("wrong size", "warning")]


def test_sizes_that_are_wrong_for_most_boxes_scale_none(tmp_path: Path) -> None:
    """Every image is declared as 20×15; the box of the second would fit into that."""
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    images = [ImageRow(str(tmp_path / "a.png"), i, Size(15, 20), "a.json") for i in range(2)]
    boxes: list[Box] = [(25, 16, 35, 25), (1, 2, 11, 12)]
    dataset, problems = build(Reading(["cat"], images, [BoxRow(i, "cat", boxes[i], "a.json") for i in range(2)]))
    assert dataset.boxes.tolist() == [list(box) for box in boxes]
    assert [problem.kind for problem in problems] == ["wrong size"] * 2


@pytest.mark.parametrize("box", [(10, 20, 70, 70), (40, 80, 280, 280)])
def test_an_image_of_another_shape_is_left_out(box: Box, tmp_path: Path) -> None:
    dataset, problems = built(tmp_path, (160, 120), (640, 360), box)
    assert len(dataset) == len(dataset.boxes) == 0
    assert [(problem.kind, problem.severity, problem.line) for problem in problems] == [("wrong size", "error", 3)]
    assert "annotated as 640×360, but" in problems[0].message and "is 160×120, of another shape" in problems[0].message


def test_an_image_without_boxes_has_the_size_of_its_file(tmp_path: Path) -> None:
    dataset, problems = built(tmp_path, (160, 120), (640, 360))
    assert dataset.size(0) == (120, 160) and [problem.severity for problem in problems] == ["warning"]


@pytest.mark.parametrize(
    ("annotated", "box", "size", "expected", "kind"),
    [
        ((120, 160), (10, 20, 70, 70), (120, 160), (10, 20, 70, 70), None),
        ((160, 120), (10, 20, 70, 70), (160, 120), (10, 20, 70, 70), "wrong size"),  # as stored
        ((640, 480), (40, 80, 280, 280), (160, 120), (10, 20, 70, 70), "boxes scaled"),
        ((160, 120), (10, 20, 70, 150), (120, 160), (10, 20, 70, 150), "wrong size"),  # the box is upright
    ],
)
def test_a_turned_image_is_scaled_in_the_frame_of_its_boxes(
    annotated: tuple[int, int], box: Box, size: tuple[int, int], expected: Box, kind: str | None, tmp_path: Path
) -> None:
    """The file is stored as 160×120 and shown as 120×160."""
    dataset, problems = built(tmp_path, (160, 120), annotated, box, orientation=6)
    assert dataset.size(0) == size[::-1] and dataset.boxes.tolist() == [list(expected)]
    assert [problem.kind for problem in problems] == ([kind] if kind else [])


@pytest.mark.parametrize(
    "boxes",
    [
        [(0.1, 0.2, 0.5, 0.6), (0, 0, 1, 1)],
        [(0.5, 0.5, 1.4, 1.4)],  # a right edge taken for a width
        [(-0.9, -0.9, 0.5, 0.5)],  # VOC's first pixel is 1
    ],
)
def test_boxes_in_shares_are_left_out(boxes: list[Box], tmp_path: Path) -> None:
    dataset, problems = built(tmp_path, (160, 120), (160, 120), *boxes)
    assert len(dataset) == 1 and len(dataset.boxes) == 0
    assert [(problem.kind, problem.severity, problem.line) for problem in problems] == [("box in shares", "error", 9)]
    assert f"{len(boxes)} of {len(boxes)} look like shares of the image" in problems[0].message


def test_shares_among_pixels(tmp_path: Path) -> None:
    """A box of two pixels in the corner is small, but possible; within the first pixel there is no object."""
    dataset, problems = built(tmp_path, (160, 120), None, (0.1, 0.2, 0.5, 0.6), (0, 0, 2, 2), (10, 20, 70, 70))
    assert dataset.boxes.tolist() == [[0, 0, 2, 2], [10, 20, 70, 70]]
    assert "1 of 3 look like shares" in problems[0].message
    assert len(built(tmp_path, (8, 8), None, (0, 0, 1, 1))[0].boxes) == 1


def test_what_concerns_a_whole_file_is_one_warning_in_full(recwarn: pytest.WarningsRecorder) -> None:
    problems = [Problem("boxes scaled", file, 1, "files are smaller", "resize") for file in ("a.json", "b.json")]
    problems += [Problem("box in shares", "c.json", 1, "shares", "multiply")]
    problems += [Problem("malformed annotation", "a.json", line, "no box", "draw it") for line in (1, 2)]
    warn_about(problems, Path("data"))
    assert [str(warning.message) for warning in recwarn] == [
        "data: left out 2 × malformed annotation; `boxwright data check data` names each",
        "c.json:1: error: box in shares: shares; multiply",
        "a.json:1: warning: boxes scaled: files are smaller; resize (1 more: `boxwright data check data`)",
    ]


def test_an_image_of_too_many_boxes_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["boxwright.data.formats.build"], "_MOST_BOXES", 3)  # not the function
    boxes = [(10.0 * k, 10.0, 10.0 * k + 9, 19.0) for k in range(4)]
    dataset, problems = built(tmp_path, (160, 120), (160, 120), *boxes[:3])
    assert (len(dataset), len(dataset.boxes), problems) == (1, 3, [])
    dataset, (problem,) = built(tmp_path, (160, 120), (160, 120), *boxes)
    assert (len(dataset), len(dataset.boxes)) == (0, 0)
    assert (problem.kind, problem.severity, problem.file, problem.line) == ("too many boxes", "error", "a.json", 3)
    assert problem.message == f"{tmp_path / 'a.png'} has 4 boxes, and training holds at most 3 of an image"
