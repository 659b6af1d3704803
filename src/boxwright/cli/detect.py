"""The options of `boxwright detect`. `detecting` does the work and imports torch; --help and these checks do not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from boxwright.cli.arguments import MaxMegapixels, check_at_least, check_file, check_folder
from boxwright.device import InferencePrecision
from boxwright.files import Outputs, partial_of
from boxwright.lock import hold_all
from boxwright.terminal import say
from boxwright.zoo import DEFAULT, find

if TYPE_CHECKING:
    from boxwright.cli.images import ImageFile


@dataclass(frozen=True)
class Detect:
    """Find objects in images: draw their boxes, list them, write them as JSON, COCO or YOLO.

    Files that boxwright wrote earlier are replaced, and no others: each folder with its files lists them in the hidden
    .boxwright-outputs.
    """

    sources: Positional[Annotated[tuple[str, ...], arg(metavar="IMAGE ...", help_behavior_hint="")]] = ()
    """Files, folders (with their subfolders) and globs such as "photos/*.jpg"; - is standard input."""
    model: str = DEFAULT
    """A bundled model, a .safetensors file or a run's folder; `boxwright models` lists them."""
    threshold: Annotated[float | None, arg(metavar="0..1", help_behavior_hint="")] = None
    """Score threshold: detections below it are dropped; the model's own if not given."""
    classes: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """Only these classes; all if not given."""
    nms: Annotated[float | None, arg(metavar="0..1", help_behavior_hint="")] = None
    """IoU above which the lower-scored of two boxes of a class is dropped; the model's own if not given."""
    agnostic_nms: bool = False
    """Boxes of all classes suppress each other."""
    max_detections: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """Detections per image at most, the best; the model's own number if not given."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ... or mps."""
    precision: InferencePrecision = "fp32"
    """bf16 computes networks in bfloat16: faster where the processor has it; refused where it cost AP on val."""
    batch: int = 1
    """Images in a batch at most; more than one helps on a GPU, and changes no box."""
    max_megapixels: MaxMegapixels = None
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
    yolo_scores: bool = False
    """Each line of --yolo ends with the score."""

    def run(self) -> int:
        """Exit status 1 if an image could not be read; the others are done."""
        if not self.sources:
            raise ValueError("no images. Name files, folders or globs, and name them before --classes")
        image = next((name for name in self.classes if Path(name).is_file()), None)
        if image is not None:
            raise ValueError(f"--classes takes all names up to the next option, {image} too; name the images before it")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold is between 0 and 1, got {self.threshold}")
        if self.nms is not None and not 0 <= self.nms <= 1:
            raise ValueError(f"--nms is an IoU between 0 and 1, got {self.nms}")
        if self.yolo_scores and self.yolo is None:
            raise ValueError("--yolo-scores adds scores to the files of --yolo DIR; name that folder too")
        check_at_least(1, batch=self.batch, max_detections=self.max_detections)
        check_folder("--out", None if self.no_draw else self.out)
        check_folder("--yolo", self.yolo)
        check_file("--json-file", self.json_file)
        check_file("--coco", self.coco)
        from boxwright.cli.images import STDIN, find_images

        if self.coco is not None and str(STDIN) in self.sources:
            raise ValueError("--coco names the files of its images, and the image from standard input has none")
        images, failed, left_out = find_images(self.sources, self.out, stdin=True)
        for message in [*failed, *filter(None, [left_out])]:
            say(f"boxwright detect: {message}")
        if not images:
            return 1
        with hold_all([None if self.no_draw else self.out, self.yolo], [self.json_file, self.coco]):
            outputs = self._outputs(images)
            model = find(self.model)  # a wrong name is refused here, before torch is imported
            from boxwright.cli.detecting import detect

            return detect(self, model, images, outputs, failed)

    def _outputs(self, images: list[ImageFile]) -> Outputs:
        """All files that will be written. Raises ValueError where one must not be, before the model is loaded."""
        outputs = Outputs(image.path for image in images)
        if not self.no_draw:
            outputs.check("--out", (image.drawing(self.out) for image in images))
        for option, path in (("--json-file", self.json_file), ("--coco", self.coco)):
            if path is not None:
                outputs.check(option, [path, partial_of(path)])
        if self.yolo is not None:
            outputs.check("--yolo", [self.yolo / "classes.txt", *(image.output(self.yolo, ".txt") for image in images)])
        return outputs
