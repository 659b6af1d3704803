from __future__ import annotations

import io
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from boxwright.boxes.view import View
from boxwright.data.image import (
    FORMATS,
    IMAGE_SUFFIXES,
    ImageError,
    is_image,
    limit_megapixels,
    max_megapixels,
    read_annotated,
    read_header,
    read_image,
    read_reduced,
    to_rgb,
)
from boxwright.types import Size

RED, WHITE = (255, 0, 0), (255, 255, 255)


def png(image: Image.Image, **options: object) -> bytes:
    return encoded(image, "PNG", **options)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def photo(width: int = 64, height: int = 48) -> Image.Image:
    """A smooth image without symmetry."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (255 * x / width, 255 * y / height, 255 * (x + y) / (width + height))
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


def test_reads_rgb_as_it_is_from_path_bytes_and_stream(tmp_path: Path) -> None:
    image = photo()
    path = tmp_path / "photo.png"
    path.write_bytes(png(image))
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        pixels = read_image(source)
        assert pixels.dtype == np.uint8 and pixels.shape == (48, 64, 3) and pixels.flags.writeable
        assert np.array_equal(pixels, np.asarray(image))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (3, 2), 7), (7, 7, 7)),
        (Image.new("1", (3, 2), 1), WHITE),
        (Image.new("RGB", (3, 2), RED).convert("P", palette=Image.Palette.ADAPTIVE), RED),
        (Image.new("RGBA", (3, 2), (*RED, 255)), RED),
        (Image.new("RGBA", (3, 2), (*RED, 0)), WHITE),
        (Image.new("RGBA", (3, 2), (0, 0, 0, 51)), (204, 204, 204)),  # a fifth of black over white
        (Image.new("LA", (3, 2), (9, 0)), WHITE),
        (Image.fromarray(np.full((2, 3), 65535, np.uint16)), WHITE),
        (Image.fromarray(np.full((2, 3), 4095, np.uint16)), WHITE),
        (Image.fromarray(np.full((2, 3), 7 * 257, np.uint16)), (112, 112, 112)),  # 1799 of the 4095 of 12 bits
        (Image.new("RGB", (1, 1), RED), RED),
    ],
    ids=[
        "grey",
        "bilevel",
        "palette",
        "opaque",
        "transparent",
        "translucent",
        "LA",
        "16 bit",
        "12 bit",
        "12 bit dark",
        "1x1",
    ],
)
def test_every_mode_becomes_rgb(image: Image.Image, expected: tuple[int, int, int]) -> None:
    for pixels in (read_image(png(image)), to_rgb(image)):
        assert pixels.dtype == np.uint8 and pixels.shape == (image.height, image.width, 3)
        assert (pixels == expected).all()


def test_transparent_palette_entry_becomes_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((1, 0), 1)
    assert read_image(png(image, transparency=0)).tolist() == [[[255, 255, 255], [255, 0, 0]]]


def test_cmyk_jpeg_is_not_inverted() -> None:
    pixels = read_image(encoded(photo().convert("CMYK"), "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - np.asarray(photo())).mean() < 4


def test_floating_point_tiff_is_stretched_over_its_own_range() -> None:
    image = Image.fromarray(np.array([[0.0, 500.0, 1000.0]], np.float32))
    assert read_image(encoded(image, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("largest", [1023, 4095, 16383, 65535])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "big-endian TIFF"])
def test_white_of_a_16_bit_file_is_the_largest_value_of_its_depth(largest: int, kind: str) -> None:
    values = np.array([[0, largest // 3, largest]], np.uint16)
    if kind == "big-endian TIFF":
        data = encoded(Image.frombytes("I;16B", (3, 1), values.astype(">u2").tobytes()), "TIFF")
    else:
        data = encoded(Image.fromarray(values), kind)
    assert read_image(data)[0, :, 0].tolist() == [0, 85, 255]
    assert to_rgb(Image.open(io.BytesIO(data)))[0, :, 0].tolist() == [0, 85, 255]
    assert to_rgb(values)[0, :, 0].tolist() == [0, round(largest // 3 / 257), round(largest / 257)]  # an array: 16 bits


def test_suffixes_are_those_of_formats_that_pillow_reads() -> None:
    formats = Image.registered_extensions()
    assert {formats[suffix] for suffix in IMAGE_SUFFIXES} - {"MPO"} <= set(Image.OPEN)  # opened as JPEG
    assert {suffix for suffix, kind in formats.items() if kind in ("JPEG", "JPEG2000", "TIFF")} <= IMAGE_SUFFIXES
    assert all(map(is_image, ["a.JPG", "b.jfif", "c.Jpe", "d.avif", "e.TIF"]))
    assert not any(map(is_image, ["._a.jpg", "a.jpg.txt", "a.pdf", "jpg"]))


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_a_file_of_every_suffix_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo{suffix.upper()}"
    photo().save(path)
    assert read_image(path).shape == (48, 64, 3)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, (0, 255, 0), (0, 0, 255))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (read_image(data) == RED).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = png(photo(), exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(read_image(data), expected)
    assert np.array_equal(read_image(data, upright=False), np.asarray(photo()))


def test_exif_orientation_by_hand() -> None:
    """6: the camera was held turned right; the stored left column is the upright top row, from right to left."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.array([[[1] * 3, [2] * 3], [[3] * 3, [4] * 3], [[5] * 3, [6] * 3]], np.uint8))
    assert read_image(png(stored, exif=exif))[..., 0].tolist() == [[5, 3, 1], [6, 4, 2]]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_image() -> None:
    data = encoded(photo(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert read_image(data).shape == (48, 64, 3)


def test_reduced_jpeg_keeps_at_least_what_is_asked() -> None:
    data = encoded(photo(800, 600), "JPEG")
    reduced, view = read_reduced(data, at_least=100)
    assert view == View.resize(Size(600, 800), Size(150, 200))
    assert reduced.shape == (150, 200, 3)  # 600 / 4; an eighth would be 75
    small = np.asarray(photo(800, 600).resize((200, 150), Image.Resampling.BOX))
    assert np.abs(reduced.astype(int) - small).max() < 8
    assert read_reduced(data, at_least=301)[0].shape == (600, 800, 3)
    assert read_reduced(png(photo()), at_least=1)[0].shape == (48, 64, 3)


def test_reduced_and_turned_jpeg_reports_the_upright_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    reduced, view = read_reduced(encoded(photo(800, 600), "JPEG", exif=exif), at_least=100)
    assert view == View.resize(Size(800, 600), Size(200, 150)) and reduced.shape == (200, 150, 3)


@pytest.mark.parametrize("at_least", [None, 100])
def test_an_annotated_size_decides_whether_an_image_is_turned(at_least: int | None) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 800 wide and 600 high, upright 600 wide and 800 high
    data = encoded(photo(800, 600), "JPEG", exif=exif)
    for annotated, whole in (
        (Size(800, 600), Size(800, 600)),
        (Size(600, 800), Size(600, 800)),  # annotated without regard to EXIF
        (Size(30, 40), Size(800, 600)),  # a size that fits neither leaves the image upright
        (None, Size(800, 600)),
    ):
        image, view = read_annotated(data, annotated, at_least)
        assert view == View.resize(whole, Size(*image.shape[:2]))
        assert (image.shape[0] == whole.height) == (at_least is None)


@pytest.mark.parametrize(
    ("content", "found", "mend"),
    [
        (b"", "an empty file", "copy it again"),
        (b"dear diary, this is no image", "text that begins 'dear diary", "remove it"),
        (b"<!DOCTYPE html><html>404", "a web page", "download the image again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer", "git lfs pull"),
        (bytes(range(200, 256)), "56 bytes of no format", "convert it"),
        (encoded(photo(200, 200), "JPEG")[:1500], "the JPEG image of 200x200 pixels breaks off", "copy or export"),
        (png(photo(200, 200))[:400], "the PNG image of 200x200 pixels breaks off", "copy or export"),
    ],
    ids=["empty", "text", "html", "lfs", "noise", "truncated JPEG", "truncated PNG"],
)
def test_error_names_file_finding_and_mend(tmp_path: Path, content: bytes, found: str, mend: str) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(path) in str(caught.value) and found in str(caught.value) and mend in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file; check the path"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="found a folder; name a file in it"):
        read_image(tmp_path)


def test_text_mode_stream_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for content in (b"a", b"\xff\xd8"):  # text, and what is none in UTF-8
        path.write_bytes(content)
        with path.open(encoding="utf-8") as stream, pytest.raises(ImageError, match="mode 'rb'"):
            read_image(stream)  # type: ignore[arg-type]


def test_a_stream_that_was_just_written_to_is_read_from_its_start() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (3, 2)).save(stream, "PNG")
    assert not stream.read() and read_image(stream).shape == (2, 3, 3)


@pytest.mark.parametrize(
    "array",
    [
        np.full((2, 3), 128, np.uint8),
        np.full((2, 3, 1), 128, np.uint8),
        np.full((2, 3, 3), 128, np.uint8),
        np.dstack((np.full((2, 3, 3), 128, np.uint8), np.full((2, 3), 255, np.uint8))),
        np.full((2, 3, 3), 128 * 257, np.uint16),
        np.full((2, 3, 3), 128 / 255, np.float32),
        np.full((4, 6, 3), 128, np.uint8)[::-2, ::2],
    ],
    ids=["grey", "grey channel", "rgb", "rgba", "uint16", "float", "strided"],
)
def test_arrays_become_rgb(array: np.ndarray) -> None:
    pixels = to_rgb(array)
    assert pixels.dtype == np.uint8 and pixels.shape == (2, 3, 3)
    assert pixels.flags.c_contiguous and pixels.flags.writeable and not np.shares_memory(pixels, array)
    assert (pixels == 128).all()


def test_boolean_array() -> None:
    assert to_rgb(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 20, 30), np.uint8), "move the channels last"),
        (np.zeros((8, 20, 30, 3), np.uint8), "one image at a time"),
        (np.zeros((20, 30, 2), np.uint8), r"got shape \(20, 30, 2\)"),
        (np.zeros((0, 30, 3), np.uint8), r"got shape \(0, 30, 3\)"),
        (np.full((2, 3, 3), 200.0), "expected floats in 0..1, got 200..200"),
        (np.full((2, 3, 3), np.nan), "expected floats in 0..1, got nan"),
        (np.zeros((2, 3, 3), np.int64), "got int64"),
        ([[0, 0], [0, 0]], "got list"),
    ],
)
def test_wrong_arrays_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        to_rgb(array)


def test_pil_image_of_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(encoded(photo(200, 200), "JPEG")[:1500])
    with Image.open(path) as image, pytest.raises(ImageError, match="cannot be turned into RGB"):
        to_rgb(image)


def test_an_image_in_memory_is_taken_as_given_and_a_file_is_turned(tmp_path: Path) -> None:
    """Also a crop of a file's image, which still carries the EXIF orientation of the file."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    photo(64, 48).save(path, exif=exif)
    assert read_image(path).shape == (64, 48, 3)
    with Image.open(path) as image:
        part = image.crop((0, 0, 40, 30))
        assert part.getexif()[0x0112] == 6
        assert to_rgb(image).shape == (48, 64, 3) and to_rgb(part).shape == (30, 40, 3)
        assert np.array_equal(to_rgb(part), np.asarray(part))


@pytest.mark.filterwarnings("ignore:IM image format")
def test_other_formats_of_pillow_are_not_opened() -> None:
    """Whatever the file's suffix: PostScript would be given to Ghostscript."""
    Image.init()
    opened = []
    for kind in sorted(set(Image.SAVE) & set(Image.OPEN) - set(FORMATS) - {"MPO"}):
        try:
            data = encoded(photo(), kind)
        except (OSError, ValueError, RuntimeError, KeyError):
            continue  # Pillow writes other modes only
        opened.append(kind)
        for read in (read_header, read_image):
            with pytest.raises(ImageError, match="expected an image, found"):
                read(data)
    assert {"EPS", "ICO", "TGA"} <= set(opened)


@pytest.mark.parametrize("read", [read_header, read_image])
def test_only_regular_files_are_opened(tmp_path: Path, read: object) -> None:
    """None of these is waited for or read to its end."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "link.png").symlink_to("photo.png")
    (tmp_path / "photo.png").write_bytes(png(photo()))
    assert callable(read)
    read(tmp_path / "link.png")
    for name, found in (
        ("pipe.png", "expected an image in a regular file, found a pipe"),
        ("zero.png", "expected an image in a regular file, found a device"),
        ("loop.png", "cannot be read"),
        (".", "found a folder"),
        ("none.png", "found no such file"),
        ("a\0.png", "no file can have this name"),
        ("\ud800.png", "no file can have this name"),
    ):
        with pytest.raises(ImageError, match=found):
            read(os.path.join(tmp_path, name))


def test_a_file_or_stream_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "huge.webp").open("wb") as file:
        file.write(encoded(photo(), "WEBP"))
        file.truncate(2**31)  # sparse
    for read in (read_header, read_image):
        with pytest.raises(ImageError, match="in a file of at most 1 GiB, found a larger one; make"):
            read(tmp_path / "huge.webp")


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    data = png(photo(100, 80))
    with limit_megapixels(0.008):
        assert read_image(data).shape == (80, 100, 3)
    with limit_megapixels(0.007):
        for read in (read_header, read_image, read_reduced):
            with pytest.raises(
                ImageError, match=r"at most 0\.007 megapixels, found 100x80 pixels.*--max-megapixels 1 "
            ):
                read(data)
    assert max_megapixels() == 64
    with pytest.raises(ValueError, match="--max-megapixels is above 0, got 0"), limit_megapixels(0):
        pass


def test_the_limit_is_a_variable_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOXWRIGHT_MAX_MEGAPIXELS", "2.5")
    assert max_megapixels() == 2.5
    with limit_megapixels(None):
        assert max_megapixels() == 2.5
    with limit_megapixels(9):
        assert os.environ["BOXWRIGHT_MAX_MEGAPIXELS"] == "9"
    assert max_megapixels() == 2.5
    monkeypatch.setenv("BOXWRIGHT_MAX_MEGAPIXELS", "many")
    with pytest.raises(ValueError, match="BOXWRIGHT_MAX_MEGAPIXELS is a number above 0, got 'many'"):
        read_image(png(photo()))


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
@pytest.mark.parametrize("size", [(800, 600), (813, 607)])
def test_an_image_above_the_limit_is_decoded_smaller_where_its_format_can(kind: str, size: tuple[int, int]) -> None:
    width, height = size
    data = encoded(photo(*size), kind)
    for limit, factor in ((0.5, 1), (0.2, 2), (0.1, 4), (0.01, 8)):
        with limit_megapixels(limit):
            assert read_header(data).stored == Size(height, width)
            image, view = read_reduced(data)
        smaller = Size(math.ceil(height / factor), math.ceil(width / factor))
        assert view == View.resize(Size(height, width), smaller) and image.shape == (*smaller, 3)
        expected = np.asarray(photo(*size).resize((smaller.width, smaller.height), Image.Resampling.BOX)).astype(int)
        assert np.abs(image - expected).mean() < 3
        if factor > 1:
            with limit_megapixels(limit), pytest.raises(ImageError, match="expected at most"):
                read_image(data)  # it returns an image in the pixels of the file


def test_a_progressive_jpeg_above_the_limit_is_refused() -> None:
    """Its decoder keeps the coefficients of all pixels, however small the result."""
    data = encoded(photo(800, 600), "JPEG", progressive=True)
    assert read_reduced(data, at_least=100)[0].shape == (150, 200, 3)
    with limit_megapixels(0.2), pytest.raises(ImageError, match=r"found 800x600 pixels, 0\.5 megapixels"):
        read_header(data)


def test_pillows_own_limit_neither_warns_nor_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # refused from 2000 on
    for kind in ("PNG", "JPEG", "GIF", "BMP", "PPM"):
        assert read_image(encoded(photo(), kind)).shape == (48, 64, 3)


def test_a_bmp_of_run_lengths_is_limited_since_pillow_takes_long_to_decode_it() -> None:
    ends_of_lines = b"\1\1\0\0" * 8000
    header = struct.pack("<IiiHHIIiiII", 40, 8000, 8000, 1, 8, 1, len(ends_of_lines), 0, 0, 256, 0)
    start = b"BM" + struct.pack("<IHHI", 1078 + len(ends_of_lines), 0, 0, 1078)
    with pytest.raises(ImageError, match="expected at most 4 megapixels in a BMP of run lengths"):
        read_image(start + header + bytes(1024) + ends_of_lines)


def test_a_size_is_measured_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The EXIF of a PNG may follow its pixels, and Pillow itself would decode them to find it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    content = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(content)) + b"eXIf" + content + struct.pack(">I", zlib.crc32(b"eXIf" + content))
    plain = png(photo())
    turned = plain[:-12] + chunk + plain[-12:]  # before IEND
    assert read_image(turned).shape == (64, 48, 3)
    others = {kind: encoded(photo(), kind) for kind in ("JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000")}
    monkeypatch.setattr(Image.Image, "load", None)
    assert (read_header(turned).upright, read_header(turned).stored) == (Size(64, 48), Size(48, 64))
    assert read_header(plain).upright == Size(48, 64)
    for data in others.values():
        assert read_header(data).upright == Size(48, 64)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_tiff_has_the_size_of_its_upright_image(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(), "TIFF", exif=exif)
    image, view = read_reduced(data)
    assert read_header(data).upright == view.source == Size(*image.shape[:2])
    assert (image.shape[:2] == (64, 48)) == (orientation > 4)


def test_strips_of_a_large_image_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [photo(), photo().convert("RGBA"), photo().convert("CMYK"), photo().convert("P"), photo().convert("L")]
    expected = [to_rgb(image) for image in images]
    monkeypatch.setattr("boxwright.data.image._STRIP", 5 * 64)
    for image, whole in zip(images, expected, strict=True):
        assert np.array_equal(to_rgb(image), whole)
