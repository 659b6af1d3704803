"""A font that has the characters of a text: DejaVu Sans, which comes with boxwright, or one that this machine has.

DejaVuSans.ttf is its Latin, Greek and Cyrillic part; its licence is beside it.
"""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
from PIL import ImageFont

from boxwright.files import walk

_BUNDLED = Path(__file__).with_name("DejaVuSans.ttf")
_FOLDERS = (
    "/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts",
    "/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts",
    "$WINDIR/Fonts", "$LOCALAPPDATA/Microsoft/Windows/Fonts",
)  # fmt: skip
_STYLES = ("bold", "black", "light", "thin", "italic", "oblique", "mono", "serif", "condensed", "narrow")
_PROBE = 16  # pixels
_ABSENT = "\uffff"  # no character: a font draws it as it draws every character that it does not have
_DRAWN_BY_NONE = {"Cc", "Cf", "Mn", "Zs"}  # controls, joiners, variation selectors and accents, spaces

_NEVER_DRAWN = {"Cc", "Cs"}  # controls, halves of a surrogate pair
_SCORE = frozenset("0123456789%")  # always asked for: one search of the fonts is enough for a name, whatever its score

Font = ImageFont.FreeTypeFont


def load_font(text: str, size: int) -> Font:
    """A font of this size in pixels that has all characters of the text, else the one that has most.

    Characters that no font has are named in a warning, once.
    """
    return _load(_choose(_SCORE.union(text)), size)


def drawable(text: str) -> str:
    """The text in one line, with accents composed as fonts have them, without variation selectors and controls."""
    composed = unicodedata.normalize("NFC", text)
    kept = (letter for letter in composed if not unicodedata.name(letter, "").startswith("VARIATION SELECTOR"))
    return " ".join("".join(" " if unicodedata.category(letter) in _NEVER_DRAWN else letter for letter in kept).split())


@cache
def _choose(letters: frozenset[str]) -> Path:
    best, fewest = _BUNDLED, letters
    for path in _files():
        missing = _missing(path, letters)
        if len(missing) < len(fewest):
            best, fewest = path, missing
        if not missing:
            return path
    warnings.warn(
        f"no font on this machine has {' '.join(sorted(fewest))}; labels show boxes instead. Install a font that has "
        "them, such as one of the Noto fonts",
        stacklevel=2,
    )
    return best


def _missing(path: Path, letters: frozenset[str]) -> frozenset[str]:
    """The characters that a font draws as it draws those it does not have; all, for a file that is no usable font."""
    try:
        font = ImageFont.truetype(path, _PROBE, layout_engine=ImageFont.Layout.BASIC)
        absent = _shape(font, _ABSENT)
        drawn = [letter for letter in letters if unicodedata.category(letter) not in _DRAWN_BY_NONE]
        return frozenset(letter for letter in drawn if _shape(font, letter) == absent)
    except OSError:  # damaged, or a font of bitmaps in other sizes
        return letters


def _shape(font: Font, letter: str) -> bytes:
    canvas = PIL.Image.new("L", (2 * _PROBE, 2 * _PROBE))
    PIL.ImageDraw.Draw(canvas).text((0, 0), letter, fill=255, font=font)
    return canvas.tobytes()


@cache
def _files() -> list[Path]:
    """The fonts of this machine, upright sans-serif ones of usual weight first; the bundled one before all."""
    found = [path for folder in _folders() for path in walk(folder) if path.suffix.lower() in (".ttf", ".otf", ".ttc")]
    return [_BUNDLED, *sorted((path for path in found if "lastresort" not in path.name.lower()), key=_rank)]


def _folders() -> Iterator[str]:
    yield from (os.path.expandvars(os.path.expanduser(folder)) for folder in _FOLDERS)
    if (matplotlib := find_spec("matplotlib")) is not None and matplotlib.origin is not None:
        yield os.path.join(os.path.dirname(matplotlib.origin), "mpl-data", "fonts", "ttf")


def _rank(path: Path) -> tuple[bool, bool, str]:
    name = path.name.lower()
    return any(style in name.replace("sans-serif", "") for style in _STYLES), "sans" not in name, name


@lru_cache(maxsize=64)
def _load(path: Path, size: int) -> Font:
    return ImageFont.truetype(path, size)
