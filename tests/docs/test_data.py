"""The page on data names everything that opens, and its commands and Python run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from boxwright.cli import main
from boxwright.data.formats import FORMATS
from boxwright.data.formats.reading import SPLIT_NAMES
from boxwright.data.image import IMAGE_SUFFIXES
from shapes import write_shapes

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_every_format_split_and_suffix_is_on_the_page() -> None:
    assert all(f"| `{format}` |" in PAGE for format in FORMATS)
    assert all(f"`{name}`" in PAGE for name in SPLIT_NAMES)
    of_jpeg_2000 = {".j2k", ".j2c", ".jpc", ".jpf", ".jpx"}
    assert all(f"`{suffix}`" in PAGE for suffix in IMAGE_SUFFIXES - of_jpeg_2000)


@pytest.mark.parametrize("format", ["coco", "yolo"])
def test_the_commands_and_the_python_of_the_page_run(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shapes("my_dataset", {"train": 6, "val": 2}, format=format)
    for command in re.findall(r"^    (boxwright [^#\n]*[^#\s])", PAGE, re.M):
        words = shlex.split(command)[1:]
        if "--format" not in words or format in words:
            assert main(words) == 0, command
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S))
    exec(code.replace('format="coco"', f'format="{format}"'), {})
    assert (tmp_path / "both" / "Annotations").is_dir() and (tmp_path / "merged" / "train.json").is_file()
