"""`boxwright import`: the weights of another library's detector as a checkpoint, with the proof in it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from boxwright.cli.arguments import MaxMegapixels, check_exists
from boxwright.files import Outputs
from boxwright.terminal import fit


@dataclass(frozen=True)
class Import:
    """Convert weights of torchvision or Detectron2, and compare the detections of both before anything is written.

    Nothing in the file of weights is executed. `boxwright models` lists the names."""

    name: Positional[Annotated[str, arg(metavar="SOURCE:MODEL")]]
    """The published model, such as torchvision:fasterrcnn_resnet50_fpn."""
    weights: Positional[Annotated[Path, arg(metavar="FILE")]]
    """The file: .pth, .pt, .ckpt or .pkl, a state dict or a training's checkpoint, or .safetensors."""
    out: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """The checkpoint to write; beside the weights, as .safetensors, if not given."""
    names: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """The classes, in the order of the weights, where they are not COCO's."""
    photos: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Compare on the photographs in this folder; on the four that come with boxwright if not given."""
    answers: Annotated[tuple[str, ...], arg(metavar="PHOTO=JSON ...", help_behavior_hint="")] = ()
    """Compare with what your own model detects in photographs: {"boxes": [[x1, y1, x2, y2], ...], "scores": [...],
    "labels": [...]} for each. Without it the original is the model as its library builds it."""
    min_size: Annotated[int | None, arg(metavar="PIXELS", help_behavior_hint="")] = None
    """What the shorter side of an image becomes, if your model was not built with its library's default."""
    max_size: Annotated[int | None, arg(metavar="PIXELS", help_behavior_hint="")] = None
    """How long the longer side may become, likewise."""
    anchor_sizes: Annotated[tuple[float, ...], arg(metavar="PIXELS ...", help_behavior_hint="")] = ()
    """Sides of the anchors, level by level, equally many on each, likewise."""
    aspect_ratios: Annotated[tuple[float, ...], arg(metavar="RATIO ...", help_behavior_hint="")] = ()
    """Height over width of the anchors, likewise."""
    mean: Annotated[tuple[float, ...], arg(metavar="NUMBER NUMBER NUMBER", help_behavior_hint="")] = ()
    """Mean of the pixels, likewise: image_mean of torchvision (0..1, RGB), PIXEL_MEAN of Detectron2 (0..255, BGR)."""
    std: Annotated[tuple[float, ...], arg(metavar="NUMBER NUMBER NUMBER", help_behavior_hint="")] = ()
    """Deviation of the pixels, likewise."""
    norm_eps: Annotated[float | None, arg(metavar="EPS", help_behavior_hint="")] = None
    """Epsilon of the batch norms; not needed for published files. 0 for a model that was fine-tuned from torchvision's
    fasterrcnn_resnet50_fpn or retinanet_resnet50_fpn."""
    prefix: Annotated[str | None, arg(metavar="PREFIX", help_behavior_hint="")] = None
    """Take the weights whose names in the file begin with this, such as model_ema.module, where it has several."""
    allow_difference: Annotated[str, arg(metavar="REASON", help_behavior_hint="")] = ""
    """Write the checkpoint although the detections differ; the reason is kept in it."""
    max_megapixels: MaxMegapixels = None
    json: bool = False
    """Print the comparison as JSON."""

    def run(self) -> None:
        from boxwright.zoo.foreign import look_up

        look_up(self.name)
        answers = dict(map(_pair, self.answers))
        if len(answers) < len(self.answers):
            raise ValueError("--answers names a photograph twice; give the detections in each in one file")
        if answers and self.photos is not None:
            raise ValueError("--answers names its own photographs; leave out --photos")
        check_exists("a file of weights", self.weights)
        out = self.out or self.weights.with_suffix(".safetensors")
        outputs = Outputs([self.weights])
        outputs.check("--out", [out])
        check_exists("a folder of photographs", self.photos)
        from boxwright.zoo.convert import convert
        from boxwright.zoo.foreign import Arguments
        from boxwright.zoo.proof import Difference, photographs, worst

        arguments = Arguments(**{field.name: getattr(self, field.name) for field in fields(Arguments)})
        photos = None if answers else photographs(self.photos)
        with outputs.writing(out):
            about = convert(
                self.name, self.weights, out, self.names, photos, arguments, self.allow_difference, prefix=self.prefix,
                answers=answers,
            )  # fmt: skip
        if self.json:
            proof = {key: value for key, value in about["proof"].items() if key != "answers"}
            print(json.dumps({"path": str(out), **about, "proof": proof}, indent=1))
            return
        if others := about["origin"].get("other_prefixes"):
            taken = _with(about["origin"].get("prefix", ""))
            print(fit(f"took the weights {taken} (--prefix); not those {_with(*others)}"))
        measured = [Difference(**values) for values in about["proof"]["measured"]]
        print(fit(f"against {about['proof']['against']}: {worst(measured)}"))
        for hint in about["hints"]:
            print(fit(f"note: {hint}"))
        print(fit(f"licence of the weights: {about['origin']['licence']}"))
        print(fit(f"{out} has {len(about['names'])} classes; `boxwright verify {out}` repeats the comparison"))


def _pair(answer: str) -> tuple[Path, Path]:
    """The photograph and the file of PHOTO=JSON."""
    photo, equals, file = answer.rpartition("=")
    if not equals:
        raise ValueError(f"--answers takes photographs and their detections as photo.jpg=boxes.json, got {answer}")
    check_exists("a photograph", Path(photo))
    check_exists("the detections in a photograph, as JSON,", Path(file))
    return Path(photo), Path(file)


def _with(*prefixes: str) -> str:
    return " and ".join(f"named {prefix}*" if prefix else "without a prefix" for prefix in prefixes)
