"""`boxwright data stats`: classes, sizes and shapes of boxes, objects per image, and how the splits differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from boxwright.cli.arguments import DataFormat, MaxMegapixels, dataset_path
from boxwright.cli.table import left_out, table
from boxwright.files import Outputs
from boxwright.terminal import fit, say, terminal_width

if TYPE_CHECKING:
    from boxwright.data.formats import Splits
    from boxwright.data.stats import BoxStats, Quantiles, Stats


@dataclass(frozen=True)
class Statistics:
    """Describe a dataset in numbers: classes, sizes and shapes of boxes, objects per image, balance of the splits."""

    data: Positional[Annotated[Path, arg(metavar="PATH", help_behavior_hint="")]]
    """The dataset: its folder, COCO JSON, YOLO YAML or CSV."""
    plot: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Draw them to this file (.png, .svg, .pdf); needs boxwright[plots]."""
    seed: int = 0
    """For datasets without splits: the seed they are drawn with."""
    format: DataFormat = None
    max_megapixels: MaxMegapixels = None
    json: bool = False
    """Print everything as JSON, with more quantiles."""

    def run(self) -> None:
        data = dataset_path(self.data)
        if self.plot is not None and self.plot.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise ValueError(f"--plot names a .png, .svg or .pdf, got {self.plot}")
        from boxwright.data.formats import open_dataset
        from boxwright.data.stats import stats

        splits = open_dataset(data, self.seed, self.format)
        outputs = Outputs(dataset.path(index) for dataset in splits.values() for index in range(len(dataset)))
        outputs.check("--plot", filter(None, [self.plot]))
        if self.plot is not None:
            from boxwright.draw.plots import draw_stats  # before anything is printed: it may not be installed

        numbers = stats(splits)
        if self.json:
            print(
                json.dumps({"data": str(data), "format": splits.format, "drawn": bool(splits.drawn), **_named(numbers)})
            )
        else:
            print(_text(splits, numbers))
        if self.plot is not None:
            with outputs.writing(self.plot):
                draw_stats(splits, self.plot)
            say(f"drawn: {self.plot}")


def _named(numbers: Stats) -> dict[str, Any]:
    """For JSON: quantiles as objects, not as lists."""

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: named(inner) for key, inner in value.items()}
        return value._asdict() if hasattr(value, "_asdict") else value

    return named(asdict(numbers))


def _text(splits: Splits, numbers: Stats) -> str:
    drawn = f"; splits drawn by boxwright with seed {splits.seed}" if splits.drawn else ""
    parts = numbers.splits.values()
    rows = [
        ("images", *(part.images for part in parts)),
        ("without a box", *(part.empty for part in parts)),
        ("boxes", *(part.boxes for part in parts)),
        ("crowds", *(part.crowds for part in parts)),
        ("difficult", *(part.difficult for part in parts)),
        ("objects an image, median", *(_number(part.objects_per_image.median) for part in parts)),
        ("objects an image, most", *(_number(part.objects_per_image.greatest) for part in parts)),
        ("width of images, median", *(_number(part.width.median) for part in parts)),
        ("height of images, median", *(_number(part.height.median) for part in parts)),
        ("other classes than all", *(_percent(part.shift) for part in parts)),
    ]
    head = ("class", *numbers.splits, "small", "medium", "large", "side", "range", "w/h", "range")
    named = {**numbers.classes, "all": numbers.all} if len(numbers.classes) > 1 else numbers.classes
    width = terminal_width()
    classes = table(
        head, [(name, *_cells(boxes)) for name, boxes in named.items()], width, ("range", "range", "w/h", "side")
    )
    missing = left_out(classes, head)
    lines = [
        fit(f"{splits.source}: {splits.format}{drawn}"),
        table(("", *numbers.splits), rows, width),
        "",
        classes,
        *([f"{', '.join(missing)}: --json, or a wider terminal"] if missing else []),
        "",
        "small, medium, large: by area, COCO's limits of 32² and 96² pixels.",
        "side: √(width × height) in pixels. w/h: width by height. Of both the median,",
        "and the range of four fifths of the objects.",
    ]
    lines += [fit(f"{name}: no box in {' and '.join(without)}") for name, without in numbers.missing.items()]
    return "\n".join(lines)


def _cells(boxes: BoxStats) -> list[str | int]:
    shares = [_percent(part) for part in (boxes.small, boxes.medium, boxes.large)]
    side = [_number(boxes.side.median), _range(boxes.side, _number)]
    return [*boxes.boxes.values(), *shares, *side, _ratio(boxes.aspect.median), _range(boxes.aspect, _ratio)]


def _range(values: Quantiles, write: Callable[[float | None], str]) -> str:
    return "–" if values.tenth is None else f"{write(values.tenth)}–{write(values.nine_tenths)}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}%"
