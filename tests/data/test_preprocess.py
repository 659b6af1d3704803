from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.boxes.geometry import clip
from boxwright.boxes.view import View
from boxwright.data.preprocess import Preprocess, resize
from boxwright.types import Size

SIZES = [Size(480, 640), Size(333, 500), Size(1, 1), Size(7, 3000), Size(2448, 3264), Size(375, 500)]


@pytest.mark.parametrize(
    ("preprocess", "before", "after"),
    [
        (Preprocess(short=320, long=512), (480, 640), (320, 427)),  # 640 * 2/3 = 426.67
        (Preprocess(short=320, long=512), (640, 480), (427, 320)),
        (Preprocess(short=320, long=512), (100, 1000), (51, 512)),  # 320 would make it 3200 long
        (Preprocess(short=320, long=512), (1, 1), (320, 320)),
        (Preprocess("long_side", long=512), (100, 1000), (51, 512)),
        (Preprocess("long_side", long=512), (512, 100), (512, 100)),
        (Preprocess("letterbox", height=300, width=400), (100, 100), (300, 300)),
        (Preprocess("letterbox", height=300, width=400), (100, 400), (100, 400)),
        (Preprocess("stretch", height=300, width=300), (100, 400), (300, 300)),
        (Preprocess(short=320, long=512), (2, 3000), (1, 512)),  # never less than a pixel
        (Preprocess(short=800, long=1333), (480, 640), (800, 1067)),  # 1066.67
        (Preprocess(short=800, long=1333, rounding="floor"), (480, 640), (800, 1066)),
        (Preprocess(short=800, long=1333, rounding="floor"), (97, 97), (799, 799)),  # 97 * (800 / 97) = 799.9999...
        (Preprocess(short=480, long=640), (31, 256), (77, 640)),  # 77.5 but for the last bit, in Detectron2 as well
        (Preprocess("long_side", long=512, rounding="floor"), (100, 300), (170, 512)),  # 170.67
        (Preprocess("letterbox", height=300, width=400, rounding="floor"), (150, 301), (199, 400)),  # 199.3
    ],
)
def test_sizes_by_hand(preprocess: Preprocess, before: tuple[int, int], after: tuple[int, int]) -> None:
    assert preprocess.size(Size(*before)) == after
    image, view = preprocess(np.zeros((*before, 3), np.uint8))
    assert image.shape == (*after, 3) and image.dtype == np.uint8
    assert view == View.resize(Size(*before), Size(*after))


def detectron2s(before: Size, short: int, long: int) -> tuple[int, int]:
    """The arithmetic of ResizeShortestEdge, whose rounding hangs on the order of its products."""
    factor = short / min(before)
    sides = (short, factor * before.width) if before.height < before.width else (factor * before.height, short)
    if max(sides) > long:
        sides = sides[0] * (long / max(sides)), sides[1] * (long / max(sides))
    return int(sides[0] + 0.5), int(sides[1] + 0.5)


@pytest.mark.parametrize(("short", "long"), [(800, 1333), (320, 512), (480, 640)])
def test_sizes_are_detectron2s(short: int, long: int) -> None:
    preprocess = Preprocess(short=short, long=long)
    for height in range(1, 1400, 7):
        for before in (Size(height, width) for width in range(1, 1400, 5)):
            assert preprocess.size(before) == tuple(max(1, side) for side in detectron2s(before, short, long)), before


def test_zoom_steps_by_the_divisor_and_never_leaves_a_fixed_canvas() -> None:
    square = Size(500, 500)
    assert Preprocess(short=320, long=512).size(square, zoom=1.22) == (384, 384)  # 390.4 is nearest to 12 * 32
    assert Preprocess("long_side", long=320).size(square, zoom=0.01) == (32, 32)
    assert Preprocess("letterbox", height=320, width=320).size(square, zoom=0.5) == (160, 160)
    assert Preprocess("letterbox", height=320, width=320).size(square, zoom=1.5) == (320, 320)


def test_canvas() -> None:
    assert Preprocess().canvas([Size(320, 427), Size(427, 320)]) == (448, 448)
    assert Preprocess().canvas([Size(320, 320)]) == (320, 320)
    assert Preprocess(divisor=1).canvas([Size(320, 427)]) == (320, 427)
    assert Preprocess("letterbox", height=300, width=400).canvas([Size(1, 1)]) == (320, 416)


@pytest.mark.parametrize("mode", ["short_side", "long_side", "letterbox", "stretch"])
@pytest.mark.parametrize("before", SIZES)
def test_boxes_go_there_and_back(mode: str, before: Size) -> None:
    after = Preprocess(mode).size(before)  # type: ignore[arg-type]
    view = View.resize(before, after)
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(50, 2, 2, generator=generator).sort(dim=1).values * torch.tensor([before.width, before.height])
    boxes = corners.reshape(50, 4)
    assert torch.allclose(view.back(view.forward(boxes)), boxes, rtol=1e-6, atol=1e-4)

    whole = torch.tensor([[0.0, 0.0, before.width, before.height]])
    assert torch.allclose(view.forward(whole), torch.tensor([[0.0, 0.0, after.width, after.height]]), rtol=1e-6)
    assert torch.allclose(view.back(view.forward(whole)), whole, rtol=1e-6)


def test_each_axis_has_its_own_factor() -> None:
    """333x500 becomes 320x480: 320/333 and 480/500 differ, and a shared factor would miss the border."""
    view = View.resize(Size(333, 500), Preprocess().size(Size(333, 500)))
    assert view.output == (320, 480)
    edge = view.forward(torch.tensor([[250.0, 111.0, 500.0, 333.0]]))
    assert edge.tolist()[0] == pytest.approx([240.0, 111 * 320 / 333, 480.0, 320.0])


def test_back_to_the_image() -> None:
    view = View.resize(Size(100, 200), Size(50, 100))
    back = view.back(torch.tensor([[-3.0, -3.0, 120.0, 60.0]]))
    assert back.tolist() == [[-6.0, -6.0, 240.0, 120.0]]
    assert clip(back, view.source).tolist() == [[0.0, 0.0, 200.0, 100.0]]
    assert view.back(torch.zeros(0, 4)).shape == (0, 4)


def test_boxes_move_as_pixels_do() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:20, 30:45] = 255
    resized, view = Preprocess(short=80, long=200)(image)  # twice as large
    rows, columns = np.nonzero(resized[..., 0] > 127)
    extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert view.forward(torch.tensor([[30.0, 10.0, 45.0, 20.0]])).tolist() == [extent] == [[60, 20, 90, 40]]


@pytest.mark.parametrize("size", [Size(50, 70), Size(200, 333), Size(97, 31)])
def test_resize_is_pillows(size: Size) -> None:
    image = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    expected = Image.fromarray(image).resize((size.width, size.height), Image.Resampling.BILINEAR)
    for given in (image, np.ascontiguousarray(image[:, ::-1])[:, ::-1]):
        assert np.abs(resize(given, size).astype(int) - np.asarray(expected)).max() <= 2


def test_resize_as_pillow_is_pillows_to_the_bit() -> None:
    image = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    for size in (Size(50, 70), Size(200, 333), Size(97, 31), Size(97, 131)):
        expected = Image.fromarray(image).resize((size.width, size.height), Image.Resampling.BILINEAR)
        assert np.array_equal(resize(image, size, "pillow"), np.asarray(expected))
        assert np.array_equal(resize(image[:, ::-1], size, "pillow")[:, ::-1], np.asarray(expected))


def test_plain_by_hand() -> None:
    """Four pixels become two: the middle of each pair; two become four: a quarter from one to the other."""
    row = np.array([10, 21, 255, 0], np.uint8)[None, :, None].repeat(3, axis=2)  # (1, 4, 3)
    halved = resize(row, Size(1, 2), "plain")
    assert halved.dtype == np.float32 and halved[0].tolist() == [[15.5] * 3, [127.5] * 3]
    assert resize(row[:, :2], Size(1, 4), "plain")[0, :, 0].tolist() == [10, 12.75, 18.25, 21]


def test_plain_looks_at_four_pixels_and_antialias_at_all() -> None:
    row = np.array([0, 240, 240, 240, 240, 0], np.uint8)[None, :, None].repeat(3, axis=2)  # (1, 6, 3)
    assert resize(row, Size(1, 1), "plain").max() == 240  # the two in the middle
    assert 0 < resize(row, Size(1, 1)).max() < 240


@pytest.mark.parametrize(
    ("preprocess", "dtype"),
    [
        (Preprocess("stretch"), np.uint8),
        (Preprocess("stretch", resample="pillow", fill=(103, 116.0, 123)), np.uint8),
        (Preprocess("stretch", fill=(103.53, 116.28, 123.675)), np.float32),
        (Preprocess("stretch", resample="plain"), np.float32),
    ],
)
def test_images_are_float_where_grey_levels_would_be_rounded(preprocess: Preprocess, dtype: type) -> None:
    for side in (40, 512):  # the latter stays as it is
        image, _ = preprocess(np.full((side, 512, 3), 7, np.uint8))
        assert image.dtype == preprocess.dtype == dtype and (image == 7).all()


def test_resize_takes_read_only_images_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    image = np.zeros((10, 10, 3), np.uint8)
    image.flags.writeable = False
    assert resize(image, Size(5, 5)).shape == (5, 5, 3)
    assert not recwarn.list


def test_travels_through_json() -> None:
    preprocess = Preprocess("letterbox", height=256, width=384, fill=0)
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess
    foreign = Preprocess(fill=(103.53, 116.28, 123.675), resample="plain", rounding="floor")
    again = Preprocess.from_dict(json.loads(json.dumps(foreign.to_dict())))
    assert again == foreign and hash(again) == hash(foreign)
    with pytest.raises(ValueError, match=r"got also \['sharpen'\]"):
        Preprocess.from_dict({"mode": "stretch", "sharpen": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "crop"}, "got 'crop'"),
        ({"short": 0}, "short is 1 or more, got 0"),
        ({"short": 1_000_000}, "short is at most 16384, got 1000000"),
        ({"divisor": 20_000}, "divisor is at most 1024"),
        ({"fill": "grey"}, "grey level"),
        ({"height": 1.5}, "height is a whole number, got 1.5"),
        ({"short": 600, "long": 512}, "long is at least short; got short=600 and long=512"),
        ({"fill": 256}, "grey level"),
        ({"fill": (0, 0, 255.5)}, r"or three of them as \(red, green, blue\); got \(0, 0, 255.5\)"),
        ({"fill": (1, 2)}, "three of them"),
        ({"resample": "bicubic"}, "resample is antialias, plain or pillow, got 'bicubic'"),
        ({"rounding": "up"}, "rounding is nearest or floor, got 'up'"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocess(**options)
