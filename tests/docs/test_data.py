"""The page on data names everything that opens."""

from __future__ import annotations

from pathlib import Path

from boxwright.data.formats import FORMATS
from boxwright.data.formats.reading import SPLIT_NAMES
from boxwright.data.image import IMAGE_SUFFIXES

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_every_format_split_and_suffix_is_on_the_page() -> None:
    assert all(f"| `{format}` |" in PAGE for format in FORMATS)
    assert all(f"`{name}`" in PAGE for name in SPLIT_NAMES)
    of_jpeg_2000 = {".j2k", ".j2c", ".jpc", ".jpf", ".jpx"}
    assert all(f"`{suffix}`" in PAGE for suffix in IMAGE_SUFFIXES - of_jpeg_2000)
