"""The header of a plain JPEG without Pillow: the same size, or none."""

from __future__ import annotations

import io
from random import Random
from typing import Any

import pytest
from PIL import Image, ImageCms

from boxwright.data.image import Header, ImageError, limit_megapixels, read_header
from boxwright.data.jpeg import PLAIN_BYTES, plain_size
from boxwright.types import Size


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    """Of 50×37 pixels."""
    Image.effect_noise((50, 37), 60).convert(mode).save(file := io.BytesIO(), "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("L", {"quality": 20}),
        ("RGB", {"progressive": True, "comment": b"a comment \xff\xd9"}),
        ("RGB", {"subsampling": 0, "dpi": (300, 300), "optimize": True}),
        ("RGB", {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}),
        ("RGB", {"restart_marker_rows": 1}),
    ],
)
def test_the_size_of_plain_jpegs(mode: str, options: dict[str, Any]) -> None:
    data = jpeg(mode, **options)
    assert plain_size(data[:PLAIN_BYTES]) == Size(37, 50)
    pixels = data.index(b"\xff\xda")
    whole = pixels + 2 + int.from_bytes(data[pixels + 2 : pixels + 4])
    assert plain_size(data[:whole]) == Size(37, 50)
    assert not any(plain_size(data[:end]) for end in range(whole))


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("CMYK", {}),
        ("RGB", {"exif": Image.Exif().tobytes()}),
        ("RGB", {"xmp": b"<x/>"}),
        ("RGB", {"comment": b"a" * 5000}),
    ],
)
def test_other_jpegs_are_left_to_pillow(mode: str, options: dict[str, Any]) -> None:
    assert plain_size(jpeg(mode, **options)[:PLAIN_BYTES]) is None
    assert read_header(jpeg(mode, **options)).stored == Size(37, 50)


def test_a_damaged_header_has_the_size_that_pillow_finds_or_none() -> None:
    random, sizes = Random(0), 0
    for data in (jpeg(), jpeg("L", progressive=True, comment=b"abc")):
        pixels = data.index(b"\xff\xda")
        for _ in range(1500):
            damaged = bytearray(data)
            for _ in range(random.randint(1, 3)):
                damaged[random.randrange(pixels)] = random.choice((0, 1, 0xFF, 0xE1, random.randrange(256)))
            size = plain_size(bytes(damaged[:PLAIN_BYTES]))
            if size and all(size):
                sizes += 1
                assert read_header(bytes(damaged)) == Header("JPEG", size, 1)
    assert sizes > 500


def test_a_file_is_refused_as_by_pillow(tmp_path: Any) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(jpeg())
    assert read_header(file) == read_header(str(file)) == Header("JPEG", Size(37, 50), 1)
    with limit_megapixels(1e-5), pytest.raises(ImageError, match="at most 1e-05 megapixels"):
        read_header(file)
    with pytest.raises(ImageError, match="no such file"):
        read_header(tmp_path / "b.jpg")
