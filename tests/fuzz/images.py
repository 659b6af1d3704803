"""Readers of images, one for each format, which measure a file and then decode it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from boxwright.data.image import FORMATS, ImageError, read_header, read_reduced
from fuzz.reader import Reader

_SUFFIXES = {"JPEG": "jpg", "JPEG2000": "jp2", "TIFF": "tif"}
_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "JPEG": [{}, {"progressive": True}, {"quality": 95, "subsampling": 0}],
    "TIFF": [{}, *({"compression": kind} for kind in ("tiff_lzw", "tiff_adobe_deflate", "packbits"))],
    "WEBP": [{}, {"lossless": True}],
    "JPEG2000": [{}, {"tile_size": (16, 16)}, {"no_jp2": True}],
}
"""With which the seeds of a format are written, if not with the usual ones alone."""


def png_chunk(data: bytes, random: Random) -> bytes:
    """Bytes of a chunk of PNG, with a checksum that fits."""
    chunks, at = list[tuple[bytes, bytes]](), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return data
    index = random.choice((0, random.randrange(len(chunks))))
    kind, content = chunks[index]
    changed = bytearray(content or b"\0")
    changed[random.randrange(len(changed))] = random.choice((0, 1, 2, 4, 8, 16, 127, 128, 255, random.randrange(256)))
    chunks[index] = (kind, bytes(changed))
    if random.random() < 0.2:
        chunks.insert(random.randrange(len(chunks)), random.choice(chunks))
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return data[:8] + b"".join(parts)


def _seeds(kind: str, _: Path) -> list[bytes]:
    """Colour, grey, transparent and 16-bit images, as far as Pillow writes them, one of them turned by EXIF."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    color, deep = Image.fromarray(pixels), Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    images = [color, deep, *(color.convert(mode) for mode in ("L", "P", "RGBA", "CMYK", "1", "LA"))]
    found = []
    for options in _OPTIONS.get(kind, [{}]):
        for image in images:
            for given in (options, {**options, "exif": exif}):
                stream = io.BytesIO()
                try:
                    image.save(stream, kind, **given)
                except (OSError, ValueError, TypeError, KeyError):
                    continue  # a mode that the format does not have
                found.append(stream.getvalue())
    return found


def _read(path: Path) -> None:
    """Where a size is measured, it is that of the whole image that is decoded."""
    header = read_header(path)
    image, view = read_reduced(path)
    assert view.source == header.upright and image.shape == (*view.output, 3)


def _reader(kind: str) -> Reader:
    seeds: Callable[[Path], list[bytes]] = partial(_seeds, kind)
    mutators = [png_chunk] if kind == "PNG" else []
    return Reader(
        f"image-{kind.lower()}", f"a.{_SUFFIXES.get(kind, kind.lower())}", seeds, _read, (ImageError,), mutators
    )


Image.init()
READERS = [_reader(kind) for kind in FORMATS if kind in Image.SAVE and kind != "DIB"]  # a BMP without its first bytes
