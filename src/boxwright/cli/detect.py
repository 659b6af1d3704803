"""`boxwright detect`: its options. The work is in `detecting`, so that --help answers without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from boxwright.zoo import DEFAULT


@dataclass(frozen=True)
class Detect:
    """Find objects in images: draw their boxes, list them, write them as JSON, COCO or YOLO."""

    sources: Positional[Annotated[tuple[str, ...], arg(metavar="IMAGE ...", help_behavior_hint="")]] = ()
    """Files, folders (with their subfolders) and globs such as "photos/*.jpg"."""
    model: str = DEFAULT
    """A bundled model, a .safetensors file or a run's folder; `boxwright models` lists them."""
    threshold: Annotated[float | None, arg(metavar="0..1", help_behavior_hint="")] = None
    """Lowest score of a detection; the model's own if not given."""
    classes: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """Only these classes; all if not given."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ... or mps."""
    batch: int = 1
    """Images looked at together; more than one helps on a GPU."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("detections")
    """The folder for the images with boxes."""
    no_draw: bool = False
    """Do not draw images with boxes."""
    json: bool = False
    """Print a JSON object per image and line instead of the table."""
    json_file: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the same JSON lines to this file."""
    coco: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write all detections to this COCO JSON."""
    yolo: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Write a YOLO text file per image to this folder, and classes.txt."""

    def run(self) -> int:
        """Exit status 1 if an image could not be read; the others are done."""
        if not self.sources:
            raise ValueError("which images? Name files, folders or globs, and name them before --classes")
        from boxwright.cli.detecting import detect

        return detect(self)
