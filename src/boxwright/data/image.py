"""Images from files, bytes and arrays to upright uint8 RGB (H, W, 3), or an error that says what is wrong.

Every image is opened here: as one of `FORMATS`, from a regular file, and with no more pixels than `max_megapixels`.
"""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile

from boxwright.boxes.view import View
from boxwright.data.jpeg import PLAIN_BYTES, plain_size
from boxwright.types import Size

ImageSource = str | PathLike[str] | bytes | BinaryIO
"""Where an image can be read from: a path, the bytes of a file, or a file open in binary mode."""

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp")
    + (".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm")
)
"""Of the images in a folder, in upper or lower case. A file that is named, by the user or by an annotation, is read
whatever its suffix."""

FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000")
"""Pillow's names of the formats that are read; an MPO is opened as JPEG. Pillow knows others, one of which would run
Ghostscript on a file, whatever its suffix."""

_VARIABLE = "BOXWRIGHT_MAX_MEGAPIXELS"
_DEFAULT_MEGAPIXELS = 64.0
_MOST_BYTES, _BYTES_PER_PIXEL = 2**30, 16  # of a file; the larger of the two counts

_RLE_MEGAPIXELS = 4  # Pillow decodes run lengths in Python
_STRIP = 2**20  # pixels
_DEPTHS = (10, 12, 14, 16)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""
_WHITE = (255, 255, 255, 255)


class ImageError(ValueError):
    """An image that cannot be used; the message names it, says what was found and how to mend it."""


class Header(NamedTuple):
    """What is known of an image before it is decoded.

    format       Pillow's name, one of `FORMATS` or MPO
    stored       its size in the file
    orientation  of EXIF, 1 to 8; 1 where there is none or it is damaged
    """

    format: str
    stored: Size
    orientation: int

    @property
    def upright(self) -> Size:
        """The size after the quarter turn that the orientation may ask for."""
        return Size(*self.stored[::-1]) if self.orientation >= 5 else self.stored


def max_megapixels() -> float:
    """The most pixels of an image that are decoded, in millions: $BOXWRIGHT_MAX_MEGAPIXELS, 64 if it is not set.

    An image of more is decoded smaller where its format can: a JPEG that is not progressive, and JPEG 2000. Others are
    refused with ImageError. The environment reaches the processes that load images, too. Raises ValueError where the
    variable is no number above 0.
    """
    given = os.environ.get(_VARIABLE, "")
    try:
        limit = float(given or _DEFAULT_MEGAPIXELS)
    except ValueError:
        limit = math.nan
    if not limit > 0:
        raise ValueError(
            f"the environment variable {_VARIABLE} is a number above 0, got {given!r}; correct or unset it"
        )
    return limit


@contextmanager
def limit_megapixels(limit: float | None) -> Iterator[None]:
    """Within the `with`, `max_megapixels` is this, also in processes that are started there; None changes nothing."""
    if limit is None:
        yield
        return
    if not limit > 0:
        raise ValueError(f"--max-megapixels is above 0, got {limit:g}")
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = str(limit)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before


def read_header(source: ImageSource) -> Header:
    """Format, size and orientation, without decoding. Raises ImageError for a file that `read_reduced` refuses by its
    header, such as one with too many pixels."""
    if isinstance(source, str | PathLike) and (size := _plain_jpeg_size(source)):
        return Header("JPEG", size, 1)
    with _opened(source) as (name, image):
        _reduction(name, image, None)
        if image.format == "PNG" and "exif" not in image.info:
            image.info |= _exif_after_pixels(image)
        orientation = 1 if image.format == "TIFF" else _orientation(image)  # Pillow turns a TIFF and its size itself
        return Header(image.format or "", Size(image.height, image.width), orientation)


def _plain_jpeg_size(path: str | PathLike[str]) -> Size | None:
    """As `plain_size`, of a file that is neither refused nor decoded smaller; None for any other, for Pillow."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            return None
        with open(path, "rb", buffering=0) as file:
            size = plain_size(file.read(PLAIN_BYTES))
    except (OSError, ValueError):
        return None
    return size if size and 0 < size.height * size.width <= 1e6 * max_megapixels() else None


def is_image(name: str) -> bool:
    """By its name; not the hidden `._name.jpg` that archives made on a Mac carry."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not os.path.basename(name).startswith(".")


def read_image(source: ImageSource, upright: bool = True) -> np.ndarray:
    """The image as uint8 RGB (H, W, 3).

    Grey, palette, CMYK and 16-bit images become 8-bit RGB, transparency is laid over white, and of an animation
    the first frame is taken. White in a 16-bit grey image is the largest value of 10, 12, 14 or 16 bits, whichever is
    the first to hold all its values: sensors leave the upper bits empty. `upright` turns the image as its EXIF
    orientation asks, which is what viewers show.
    Raises ImageError for anything that is not a whole image, and for one of more than `max_megapixels`.
    """
    image, view = read_reduced(source, None, upright)
    if view.output != view.source:
        name = source if isinstance(source, str | PathLike) else "the image"
        raise ImageError(f"{name}: {_too_large(*view.source)}")
    return image


def read_annotated(source: ImageSource, annotated: Size | None, at_least: int | None = None) -> tuple[np.ndarray, View]:
    """As `read_reduced`, turned so that boxes annotated on an image of this size fit.

    That is upright, unless only the image as it is stored has the annotated size: some annotation tools ignore EXIF.
    """
    image, view = read_reduced(source, at_least)
    if annotated is not None and view.source != annotated and view.source == annotated[::-1]:
        image, view = read_reduced(source, at_least, upright=False)
    return image, view


def read_reduced(source: ImageSource, at_least: int | None = None, upright: bool = True) -> tuple[np.ndarray, View]:
    """As `read_image`, but the image may come back smaller; with the view from the whole image to it.

    at_least  a JPEG may be 2, 4 or 8 times smaller, with at least so many pixels on its shorter side; None: in full

    An image of more than `max_megapixels` is decoded smaller by the least power of two that fits, where its format can.
    Reducing while decoding saves most of the time and memory that a large photograph costs.
    """
    with _opened(source, whole=True) as (name, image):
        factor = _reduction(name, image, at_least)
        stored = Size(image.height, image.width)
        height, width = stored
        try:
            if factor > 1 and image.format == "JPEG2000":
                image.reduce = factor.bit_length() - 1  # type: ignore[method-assign]
                image._size = (-(-width // factor) * factor, -(-height // factor) * factor)  # Pillow would round down
            elif factor > 1:
                image.draft(None, (width // factor, height // factor))
            image.load()
            orientation = _orientation(image) if upright else 1
            turned = image.transpose(_TURNS[orientation]) if orientation in _TURNS else image
            rgb = _to_array(turned)
        except MemoryError:
            raise ImageError(
                f"{name}: the memory that is left does not hold its {width}x{height} pixels; free some, or make the "
                "image smaller"
            ) from None
        except Exception as error:  # a damaged file can raise nearly anything inside a decoder
            raise ImageError(
                f"{name}: the {image.format} image of {width}x{height} pixels breaks off or is damaged ({error}); "
                "copy or export the file again"
            ) from error
    whole = Header(image.format or "", stored, orientation).upright
    return rgb, View.resize(whole, Size(*rgb.shape[:2]))


def to_rgb(image: np.ndarray | Image.Image) -> np.ndarray:
    """An image that is in memory already as uint8 RGB (H, W, 3).

    It is taken as given: an EXIF orientation that a PIL image still carries does not turn it, so that its pixels are
    those of `image.size`. Takes a PIL image of any mode, or an array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA
    of uint8, uint16, bool, or floats 0..1; an array of uint16 is scaled from 16 bits. Raises ImageError for anything
    else, except OpenCV's BGR order, which cannot be recognised.
    """
    if isinstance(image, Image.Image):
        try:
            return _to_array(image)
        except Exception as error:  # a PIL image reads its file only now, and anything can be wrong with that
            raise ImageError(f"{image!r}: cannot be turned into RGB ({error}); try image.convert('RGB')") from error
    if not isinstance(image, np.ndarray):
        raise ImageError(f"expected an array or a PIL image, got {type(image).__name__}; a path goes to read_image")
    array = image[..., None] if image.ndim == 2 else image
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        channels_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        mend = "move the channels last: image.transpose(1, 2, 0)" if channels_first else "pass one image at a time"
        raise ImageError(f"expected an array (H, W) or (H, W, C) of C = 1, 3 or 4, got shape {image.shape}; {mend}")
    array = _to_uint8(array)
    if array.shape[2] == 4:
        return np.array(_to_rgb_image(Image.fromarray(np.ascontiguousarray(array))))
    return np.array(np.broadcast_to(array, (*array.shape[:2], 3)), order="C")


@contextmanager
def _opened(source: ImageSource, whole: bool = False) -> Iterator[tuple[str, ImageFile.ImageFile]]:
    """The name of an image for messages, and Pillow's image, of which only the header is read.

    whole  read the file into memory first, to be decoded there
    """
    name, file = _file(source)
    with file:
        try:
            data = io.BytesIO(file.read()) if whole else file
            start = data.read(200)
            image = _identified(start, data)
        except Image.DecompressionBombError as error:  # of Pillow's own limit, which a few formats check on their own
            raise ImageError(f"{name}: too many pixels for Pillow: {error}; make the image smaller") from None
        except Exception as error:  # a damaged header can raise nearly anything inside a decoder
            reason = str(error) or type(error).__name__
            raise ImageError(
                f"{name}: the image's header is damaged ({reason}); copy or export the file again"
            ) from error
        if image is None:
            size = data.seek(0, os.SEEK_END)
            raise ImageError(f"{name}: expected an image, found {_describe(start, size)}")
        yield name, image


def _identified(start: bytes, file: BinaryIO) -> ImageFile.ImageFile | None:
    """The image that a file is by its first bytes; None for another format.

    `Image.open` does the same, and also compares the size with a limit of its own, which is below that of a user.
    """
    Image.init()
    for kind in FORMATS:
        factory, accept = Image.OPEN.get(kind, (None, None))
        if factory is not None and accept is not None and accept(start[:16]) is True:
            file.seek(0)
            return factory(file, "")
    return None


def _file(source: ImageSource) -> tuple[str, BinaryIO]:
    """A name for messages, and a seekable file. Raises ImageError for what is not, or cannot be, a file of an image."""
    most = max(_MOST_BYTES, int(min(_BYTES_PER_PIXEL * max_megapixels() * 1e6, 2**62)))
    if isinstance(source, bytes):
        name, file, size = f"<{len(source)} bytes>", io.BytesIO(source), len(source)
    elif isinstance(source, str | PathLike):
        name, file, size = str(source), *_regular_file(source)
    else:
        name, data = str(getattr(source, "name", "<stream>")), _stream_content(source, most)
        file, size = io.BytesIO(data), len(data)
    if not 0 < size <= most:
        file.close()
        if not size:
            raise ImageError(f"{name}: expected an image, found an empty file; copy it again from where it came")
        raise ImageError(
            f"{name}: expected an image in a file of at most {most / 2**30:g} GiB, found a larger one; make the image "
            "smaller"
        )
    return name, file


def _regular_file(path: str | PathLike[str]) -> tuple[BinaryIO, int]:
    """The open file and its size. A pipe, which may never end, or a device, which has no end, is not opened."""
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            return Path(path).open("rb"), status.st_size
    except FileNotFoundError:
        raise ImageError(f"{path}: expected an image, found no such file; check the path") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}); check permissions and disk") from None
    except ValueError as error:  # a NUL, or a surrogate that stands for no byte
        raise ImageError(f"{str(path)!r}: no file can have this name ({error}); correct it") from None
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{path}: expected an image, found a folder; name a file in it")
    kind = "a pipe" if stat.S_ISFIFO(status.st_mode) else "a device or a socket"
    raise ImageError(f"{path}: expected an image in a regular file, found {kind}; write the image to a file")


def _stream_content(stream: BinaryIO, most: int) -> bytes:
    """All bytes of a stream, or of a buffered one a little more than `most`: it may have no end."""
    if not isinstance(stream, io.TextIOBase):
        count = (most + 1,) if isinstance(stream, io.BufferedIOBase) else ()
        data = stream.read(*count)
        if not data and isinstance(stream, io.IOBase) and stream.seekable():
            stream.seek(0)  # as Pillow does: a buffer that was just written to is at its end
            data = stream.read(*count)
        if isinstance(data, bytes):
            return data
    raise ImageError(f"{stream!r}: expected a file open in binary mode; open it with mode 'rb'")


def _reduction(name: str, image: ImageFile.ImageFile, at_least: int | None) -> int:
    """By what factor the image is decoded smaller, a power of two. Raises ImageError where none fits the limit."""
    width, height = image.size
    if 0 in image.size:
        raise ImageError(f"{name}: expected an image, found one of {width}x{height} pixels; export it again")
    if image.tile and image.tile[0][0] == "bmp_rle" and width * height > 1e6 * _RLE_MEGAPIXELS:
        raise ImageError(
            f"{name}: expected at most {_RLE_MEGAPIXELS} megapixels in a BMP of run lengths, which takes long to "
            f"decode, found {width}x{height} pixels; save it as PNG"
        )
    jpeg = image.format in ("JPEG", "MPO")
    factor, limit = 1, 1e6 * max_megapixels()
    if at_least is not None and jpeg:
        factor = next(factor for factor in (8, 4, 2, 1) if factor == 1 or min(width, height) // at_least >= factor)
    while factor < 64 and math.ceil(width / factor) * math.ceil(height / factor) > limit:
        factor *= 2
    most = 1
    if image.format == "JPEG2000":
        most = 32  # its usual number of resolutions is six
    elif jpeg and not (width * height > limit and "progressive" in image.info):  # that one keeps all coefficients
        most = 8
    if factor > most:
        raise ImageError(f"{name}: {_too_large(height, width)}")
    return factor


def _too_large(height: int, width: int) -> str:
    pixels = width * height / 1e6
    return (
        f"expected at most {max_megapixels():g} megapixels, found {width}x{height} pixels, {pixels:.1f} megapixels; "
        f"make the image smaller, or allow more with --max-megapixels {math.ceil(pixels)} "
        "(in Python: boxwright.data.image.limit_megapixels)"
    )


def _describe(head: bytes, size: int) -> str:
    """What a file that is no image seems to be by its first 200 bytes, and what to do about it."""
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; fetch the image itself with 'git lfs pull'"
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "a web page, often a saved error message; download the image again"
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if text and all(letter.isprintable() or letter in "\r\n\t" for letter in text):
        return f"text that begins {text[:30]!r}; remove it or put the image in its place"
    return f"{size} bytes of no format that is read here; convert it to JPEG or PNG"


def _orientation(image: ImageFile.ImageFile) -> int:
    """Of EXIF, 1 to 8; 1 where there is none, or it is damaged: that must not cost the image."""
    try:
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation)  # a PNG's own would decode it
    except Exception:  # damaged EXIF can raise nearly anything
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TURNS else 1


def _exif_after_pixels(image: ImageFile.ImageFile) -> dict[str, bytes]:
    """The EXIF of a PNG that follows its pixels, as an entry of `info`; {} if there is none. Nothing is decoded."""
    file = image.fp
    assert file is not None
    at = 8  # after the signature
    while len(start := _at(file, at, 8)) == 8:
        length, kind = int.from_bytes(start[:4], "big"), start[4:]
        if kind == b"eXIf":
            return {"exif": b"Exif\0\0" + _at(file, at + 8, length)}
        at += 12 + length
    return {}


def _at(file: IO[bytes], position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


def _to_array(image: Image.Image) -> np.ndarray:
    """As uint8 RGB (H, W, 3), in strips: Pillow would hold all pixels several times more."""
    width, height = image.size
    rows = height if image.mode[0] in "IF" else max(1, _STRIP // width)  # those are scaled by their greatest value
    if height <= rows:
        return np.array(_to_rgb_image(image))
    rgb = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(height, top + rows)))
        rgb[top : top + rows] = np.asarray(_to_rgb_image(strip))
    return rgb


def _to_rgb_image(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        values = np.array(image).astype(np.uint16)  # the file's byte order becomes the machine's
        depth = next(bits for bits in _DEPTHS if values.max() < 2**bits)
        return Image.fromarray(_uint16_to_uint8(values, depth)).convert("RGB")
    if image.mode[0] in "IF":  # 16- and 32-bit integers, floats: convert("RGB") would cut them off at 255
        return Image.fromarray(_deep_to_uint8(np.array(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, _WHITE), rgba).convert("RGB")
    return image.convert("RGB")


def _deep_to_uint8(values: np.ndarray) -> np.ndarray:
    """Grey values of more than 8 bits: 0..65535 linearly to 0..255; what does not fit there by its own range."""
    if values.dtype.kind != "f" and values.min() >= 0 and values.max() <= 65535:
        return _to_uint8(values.astype(np.uint16))
    values = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = min(values.min(), 0.0), max(values.max(), 1.0)
    return _to_uint8((values - low) / (high - low))


def _to_uint8(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return _uint16_to_uint8(values, 16)
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "f":
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= 1):  # also where one is NaN
            raise ImageError(
                f"expected floats in 0..1, got {low:g}..{high:g}; divide by the largest possible value, "
                "or pass numbers 0..255 as uint8"
            )
        return (values * 255 + 0.5).astype(np.uint8)
    raise ImageError(f"expected uint8, uint16, bool or floats 0..1, got {values.dtype}; try image.astype('uint8')")


def _uint16_to_uint8(values: np.ndarray, depth: int) -> np.ndarray:
    white = 2**depth - 1
    return ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
