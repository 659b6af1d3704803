"""Images from files, bytes and arrays to upright uint8 RGB (H, W, 3), or an error that says what is wrong."""

from __future__ import annotations

import io
import os
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from boxwright.boxes.view import View
from boxwright.types import Size

ImageSource = str | PathLike[str] | bytes | BinaryIO
"""Where an image can be read from: a path, the bytes of a file, or a file open in binary mode."""

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp")
    + (".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga")
)
"""Of the images in a folder, in upper or lower case. A file that is named, by the user or by an annotation, is read
whatever its suffix."""

_DEPTHS = (10, 12, 14, 16)
_WHITE = (255, 255, 255, 255)


class ImageError(ValueError):
    """An image that cannot be used; the message names it, says what was found and how to mend it."""


def is_image(name: str) -> bool:
    """By its name; not the hidden `._name.jpg` that archives made on a Mac carry."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not os.path.basename(name).startswith(".")


def read_image(source: ImageSource, upright: bool = True) -> np.ndarray:
    """The image as uint8 RGB (H, W, 3).

    Grey, palette, CMYK and 16-bit images become 8-bit RGB, transparency is laid over white, and of an animation
    the first frame is taken. White in a 16-bit grey image is the largest value of 10, 12, 14 or 16 bits, whichever is
    the first to hold all its values: sensors leave the upper bits empty. `upright` turns the image as its EXIF
    orientation asks, which is what viewers show.
    Raises ImageError for anything that is not a whole image.
    """
    return read_reduced(source, None, upright)[0]


def read_annotated(source: ImageSource, annotated: Size | None, at_least: int | None = None) -> tuple[np.ndarray, View]:
    """As `read_reduced`, turned so that boxes annotated on an image of this size fit.

    That is upright, unless only the image as it is stored has the annotated size: some annotation tools ignore EXIF.
    """
    image, view = read_reduced(source, at_least)
    if annotated is not None and view.source != annotated and view.source == annotated[::-1]:
        image, view = read_reduced(source, at_least, upright=False)
    return image, view


def read_reduced(source: ImageSource, at_least: int | None, upright: bool = True) -> tuple[np.ndarray, View]:
    """As `read_image`, but a JPEG may come back 2, 4 or 8 times smaller; with the view from the whole image to it.

    Its shorter side then still has `at_least` pixels; None decodes in full. Reducing while decoding saves most of the
    time a large photograph costs.
    """
    name, data = _read_bytes(source)
    if not data:
        raise ImageError(f"{name}: expected an image, found an empty file; copy it again from where it came")
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise ImageError(f"{name}: expected an image, found {_describe(data)}") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: expected fewer pixels: {error}; make the image smaller") from None
    except Exception as error:  # a damaged header can raise nearly anything inside a decoder
        raise ImageError(f"{name}: the image's header is damaged ({error}); copy or export the file again") from error

    width, height = image.size
    whole = upright_size(image) if upright else Size(height, width)
    try:
        if at_least is not None:
            image.draft(None, (at_least, at_least))
        image.load()
        if upright:
            _turn_upright(image)
        rgb = np.array(_to_rgb_image(image))
    except MemoryError:
        raise
    except Exception as error:  # as above, for the pixels
        raise ImageError(
            f"{name}: the {image.format} image of {width}x{height} pixels breaks off or is damaged ({error}); "
            "copy or export the file again"
        ) from error
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
            return np.array(_to_rgb_image(image))
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


def _read_bytes(source: ImageSource) -> tuple[str, bytes]:
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>", source
    if isinstance(source, (str, PathLike)):
        try:
            return str(source), Path(source).read_bytes()
        except FileNotFoundError:
            raise ImageError(f"{source}: expected an image, found no such file; check the path") from None
        except IsADirectoryError:
            raise ImageError(f"{source}: expected an image, found a folder; name a file in it") from None
        except OSError as error:
            raise ImageError(f"{source}: cannot be read ({error.strerror}); check permissions and disk") from None
    if not isinstance(source, io.TextIOBase):
        data = source.read()
        if not data and isinstance(source, io.IOBase) and source.seekable():
            source.seek(0)  # as Pillow does: a buffer that was just written to is at its end
            data = source.read()
        if isinstance(data, bytes):
            return str(getattr(source, "name", "<stream>")), data
    raise ImageError(f"{source!r}: expected a file open in binary mode; open it with mode 'rb'")


def _describe(data: bytes) -> str:
    """What a file that is no image seems to be, and what to do about it."""
    head = data[:200]
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
    return f"{len(data)} bytes of no format that Pillow reads; convert it to JPEG or PNG"


def upright_size(image: Image.Image) -> Size:
    """The size after the quarter turn that its EXIF orientation may ask for; damaged EXIF asks for nothing."""
    width, height = image.size
    try:
        sideways = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except Exception:  # damaged EXIF can raise nearly anything
        sideways = False
    return Size(width, height) if sideways else Size(height, width)


def _turn_upright(image: Image.Image) -> None:
    """Turns the image in place as its EXIF orientation asks."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # as above: it must not cost the image
        return


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
