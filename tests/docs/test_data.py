"""The page on data names everything that opens, and its commands and Python run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from boxwright.cli import main
from boxwright.data.formats import FORMATS, open_dataset
from boxwright.data.formats.reading import SPLIT_NAMES
from boxwright.data.image import IMAGE_SUFFIXES
from shapes import write_shapes

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_every_format_split_and_suffix_is_on_the_page() -> None:
    assert all(f"| `{format}` |" in PAGE for format in FORMATS)
    assert all(f"`{name}`" in PAGE for name in SPLIT_NAMES)
    of_jpeg_2000 = {".j2k", ".j2c", ".jpc", ".jpf", ".jpx"}
    assert all(f"`{suffix}`" in PAGE for suffix in IMAGE_SUFFIXES - of_jpeg_2000)


def write_label_studio(folder: Path) -> None:
    """The export that the page draws: its files, each image with one box."""
    tree = re.search(r"^```text\nproject-3/\n(.*?)^```", PAGE, re.M | re.S)
    assert tree
    parent = folder
    for line in tree[1].splitlines():
        name = line.split("── ")[1].split()[0]
        if not line.startswith(("│", " ")):
            parent = folder
        path = parent / name
        if name.endswith("/"):
            parent = path
            path.mkdir(parents=True)
        elif name.endswith(".jpg"):
            Image.new("RGB", (64, 48), (len(name), 80, 90)).save(path)
        else:
            path.write_text({"classes.txt": "cat\n", "notes.json": "{}"}.get(name, "0 .5 .5 .2 .2\n"), encoding="utf-8")


def test_the_export_on_the_page_opens(tmp_path: Path) -> None:
    (tmp_path / "project-3").mkdir()
    write_label_studio(tmp_path / "project-3")
    dataset = open_dataset(tmp_path / "project-3", draw=False)["all"]
    assert dataset.names == ("cat",) and [len(dataset.target(i).boxes) for i in range(len(dataset))] == [1, 1]


@pytest.mark.parametrize("format", ["coco", "yolo"])
def test_the_commands_and_the_python_of_the_page_run(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shapes("my_dataset", {"train": 6, "val": 2}, format=format)
    Path("project-3").mkdir()
    write_label_studio(Path("project-3"))
    for command in re.findall(r"^    (boxwright [^#\n]*[^#\s])", PAGE, re.M):
        words = shlex.split(command)[1:]
        if "--format" not in words or format in words:
            assert main(words) == 0, command
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S))
    exec(code.replace('format="coco"', f'format="{format}"'), {})
    assert (tmp_path / "both" / "Annotations").is_dir() and (tmp_path / "merged" / "train.json").is_file()
