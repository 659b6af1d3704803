"""Boxes and labels are where they should be, inside the image, and legible."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
import torch
from PIL import ImageDraw

from boxwright.boxes.geometry import area, pairwise_iou
from boxwright.draw.boxes import PALETTE, _place_labels, _readable_on, _spots, class_colors, draw_boxes, encode
from boxwright.draw.font import load_font

VOC9 = ("person", "cat", "dog", "horse", "sheep", "cow", "car", "bus", "train")


def gray(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 100, np.uint8)


def test_a_rectangle_lies_on_the_first_and_last_pixel_of_its_box():
    drawing = np.asarray(draw_boxes(gray(60, 80), torch.tensor([[20.0, 30.0, 50.0, 55.0]]), ["cat"]))
    color = class_colors(["cat"])["cat"]
    for row, column in ((30, 49), (54, 20), (54, 49), (45, 20), (45, 49)):
        assert tuple(drawing[row, column]) == color, (row, column)
    assert (drawing[55] == 100).all() and (drawing[:, 50][30:] == 100).all()  # just outside
    assert (drawing[45, 21:49] == 100).all()  # inside


@pytest.mark.parametrize(
    "box",
    [
        [0, 0, 200, 100],  # the whole image: the label goes inside
        [150, 50, 200, 100],  # at the right border: it is pushed to the left
        [0, 95, 10, 100],
        [-50, -50, 500, 500],  # beyond the image
        [200, 100, 200, 100],  # on its corner, without area
    ],
)
def test_rectangle_and_label_stay_inside(box: list[float]):
    drawing = np.asarray(draw_boxes(gray(100, 200), torch.tensor([box], dtype=torch.float32), ["locomotive"], [0.5]))
    color = np.array(class_colors(["locomotive"])["locomotive"])
    rows, columns = np.nonzero((drawing == color).all(axis=2))
    label = np.bincount(rows).max()  # as wide as its longest row
    assert 60 < label <= 200
    assert drawing.shape == (100, 200, 3)
    assert len(columns) > 500  # a label is a filled area


def test_a_label_stands_above_its_box_or_else_inside():
    assert _spots([20, 30, 50, 55], 10, 8, (80, 60))[0] == [20, 22, 30, 30]
    assert _spots([20, 5, 50, 55], 10, 8, (80, 60))[0] == [20, 5, 30, 13]  # no room above
    assert _spots([75, 30, 80, 55], 10, 8, (80, 60))[0] == [70, 22, 80, 30]  # pushed to the left


def test_labels_do_not_hide_each_other():
    canvas = ImageDraw.Draw(PIL.Image.new("RGB", (400, 300)))
    boxes = [[100.0, 100, 250, 200]] * 4 + [[100.0, 0, 250, 300]] * 2
    places = _place_labels(canvas, boxes, ["person 97%"] * 6, [load_font("person 97%", 11)] * 6, 3, (400, 300))
    labels = torch.tensor(places)
    assert pairwise_iou(labels, labels).sum() == 6  # each overlaps itself only
    assert (area(labels) > 0).all() and (labels >= 0).all() and (labels[:, 2:] <= torch.tensor([400, 300])).all()


def test_no_rectangle_crosses_a_label():
    """The box of the dog, which is the better one, would cross the label of the cat."""
    boxes = torch.tensor([[30.0, 10.0, 180.0, 90.0], [20.0, 50.0, 100.0, 90.0]])
    drawing = np.asarray(draw_boxes(gray(100, 200), boxes, ["dog", "cat"]))
    colors = class_colors(["dog", "cat"])
    dog = (drawing == colors["dog"]).all(axis=2)
    assert dog[20, 30] and dog[70, 30] and not dog[45, 30] and tuple(drawing[49, 30]) == colors["cat"]


def test_a_image_of_one_pixel_can_be_drawn_on():
    assert draw_boxes(gray(1, 1), torch.tensor([[0.0, 0.0, 1.0, 1.0]]), ["cat"], [0.5]).size == (1, 1)


def test_labels_grow_with_the_image():
    def label_height(side: int) -> int:
        drawing = np.asarray(draw_boxes(gray(side, side), torch.tensor([[0.0, 0.0, 1.0, 1.0]]), ["cat"]))
        return int((drawing != 100).any(axis=2).any(axis=1).sum())

    assert label_height(1600) == pytest.approx(4 * label_height(400), rel=0.3)


def test_the_best_detection_is_on_top():
    boxes = torch.tensor([[10.0, 40.0, 90.0, 90.0], [10.0, 40.0, 90.0, 90.0]])
    drawing = np.asarray(draw_boxes(gray(100, 100), boxes, ["cat", "dog"], [0.9, 0.8]))
    assert tuple(drawing[89, 50]) == class_colors(["cat", "dog"])["cat"]


def test_nothing_found_leaves_the_image_as_it_is():
    np.testing.assert_array_equal(np.asarray(draw_boxes(gray(20, 30), torch.zeros(0, 4), [], [])), gray(20, 30))


def test_a_name_is_missing():
    with pytest.raises(ValueError, match="each of 1 boxes, got 0 names"):
        draw_boxes(gray(20, 30), torch.zeros(1, 4), [])


@pytest.mark.filterwarnings("ignore:no font on this machine")
@pytest.mark.parametrize("name", ["caf\u00e9", "\u043a\u043e\u0448\u043a\u0430", "\u03a9\u03bc\u03ad\u03b3\u03b1"])
def test_a_name_that_is_not_ascii_is_drawn_and_not_a_row_of_boxes(name: str):
    """The label differs from that of as many characters that no font has."""
    box = torch.tensor([[10.0, 60.0, 380.0, 190.0]])
    absent = np.asarray(draw_boxes(gray(200, 400), box, ["\uffff" * len(name)]))
    assert (np.asarray(draw_boxes(gray(200, 400), box, [name])) != absent).any()


@pytest.mark.parametrize(("suffix", "width", "kind"), [(".WEBP", 16383, "WEBP"), (".webp", 16384, "PNG")])
def test_an_image_too_large_for_its_format_becomes_a_png(suffix: str, width: int, kind: str):
    written, content = encode(PIL.Image.new("RGB", (width, 1)), suffix)
    assert written == (suffix if kind == "WEBP" else ".png")
    assert PIL.Image.open(io.BytesIO(content)).format == kind


def test_classes_have_different_colors_that_hang_on_the_name():
    colors = class_colors(VOC9)
    assert len(set(colors.values())) == len(VOC9)
    assert class_colors(["person"])["person"] == class_colors(["person", "zebra", "cat"])["person"]
    many = class_colors(str(number) for number in range(3 * len(PALETTE)))
    assert all(list(many.values()).count(color) == 3 for color in PALETTE)


def test_text_is_legible_on_every_color():
    def luminance(color: tuple[int, int, int]) -> float:
        linear = [(v / 255 / 12.92) if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in color]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert _readable_on((255, 255, 255)) == (0, 0, 0) and _readable_on((0, 0, 0)) == (255, 255, 255)
    for color in PALETTE:
        bright, dark = sorted((luminance(color), luminance(_readable_on(color))), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, color  # WCAG 2, level AA
