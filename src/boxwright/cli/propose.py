"""`boxwright propose`: proposals of selective search, computed once and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from boxwright.cli.arguments import DataFormat, MaxMegapixels, check_at_least, check_folder, chosen_splits
from boxwright.cli.images import Found, find_images, save_drawing
from boxwright.cli.table import table
from boxwright.files import Outputs
from boxwright.lock import hold_all
from boxwright.terminal import fit, say
from boxwright.units import counted

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from torch import Tensor

    from boxwright.data.dataset import Dataset
    from boxwright.predict.propose import Source
    from boxwright.proposals import CachedProposer

_COUNTS = (100, 500, 1000, 2000)
_THRESHOLDS = (0.5, 0.7)


@dataclass(frozen=True)
class Propose:
    """Search images for regions that may be objects, on all cores, and keep their boxes for training and detection.

    The boxes are kept in $BOXWRIGHT_CACHE or ~/.cache/boxwright; an image is searched only once. For a dataset, the
    recall is measured: the share of its objects that the proposals find.
    """

    sources: Positional[Annotated[tuple[str, ...], arg(metavar="PATH ...", help_behavior_hint="")]] = ()
    """A dataset (its folder, COCO JSON, YOLO YAML or CSV); or images, folders of images and globs."""
    format: DataFormat = None
    max_megapixels: MaxMegapixels = None
    mode: Annotated[Literal["fast", "quality"], arg(metavar="fast|quality")] = "fast"
    """Of selective search; quality finds more and takes about three times as long."""
    count: int = 2000
    """Proposals of an image at most."""
    split: Annotated[str | None, arg(metavar="train|val|test", help_behavior_hint="")] = None
    """Only this split of the dataset."""
    workers: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Images searched at the same time; the number of cores if not given."""
    out: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the boxes to this .safetensors file; an existing file keeps its boxes of other images."""
    draw: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Draw each image with its best proposals to this folder."""
    top: int = 20
    """Proposals drawn on each image."""
    json: bool = False
    """Print the numbers as a JSON object."""

    def run(self) -> int:
        """Exit status 1 if an image could not be read; the others are done."""
        self._check()
        with hold_all([self.draw], [self.out]):
            return self._propose()

    def _propose(self) -> int:
        datasets = self._datasets()
        excluded = self.draw or Path("proposals")
        images, failed, left_out = Found([], [], "") if datasets else find_images(self.sources, excluded)
        for message in [*failed, *filter(None, [left_out])]:
            say(f"boxwright propose: {message}")
        if not datasets and not images:
            return 1
        from boxwright.predict.propose import Source, best_overlaps, propose_all, sources_of
        from boxwright.progress import Progress
        from boxwright.proposals import CachedProposer, build_proposer, read_proposals, write_proposals

        sources = [Source(path) for path, _ in images] + [s for dataset in datasets for s in sources_of(dataset)]
        paths = [Path(str(source.path)) for source in sources]
        outputs, drawings = Outputs(paths), []
        if self.draw is not None:
            drawings = [self.draw / f"{number:05}-{path.stem}.jpg" for number, path in enumerate(paths, 1)]
            outputs.check("--draw", drawings)
        objects = [boxes for dataset in datasets for boxes in _objects(dataset)]
        propose = build_proposer("selective_search" if self.mode == "fast" else "selective_search_quality", self.count)
        assert isinstance(propose, CachedProposer)  # as selective search always is
        kept = read_proposals(self.out, to_extend=True) if self.out is not None and self.out.exists() else {}
        counts, known, overlaps, done = [], 0, [], list[Source]()
        started = time.monotonic()
        with Progress("propose", len(sources)) as bar, _naming_the_cache(propose, done):
            for index, proposed in enumerate(propose_all(propose, sources, self.workers)):
                bar.update()
                if proposed.error:
                    failed.append(proposed.error)
                    say(f"boxwright propose: {proposed.error}")
                    continue
                counts.append(len(proposed.boxes))
                done.append(proposed.source)
                known += proposed.known
                if objects:
                    assert proposed.view is not None  # of an image that was read
                    overlaps.append(best_overlaps(proposed.boxes, proposed.view.forward(objects[index]), _COUNTS))
                if self.out is not None:
                    kept[proposed.key] = proposed.boxes
                if self.draw is not None:
                    drawing = _draw(proposed.source.read(), proposed.boxes[: self.top])
                    try:
                        save_drawing(drawing, drawings[index], outputs, "--draw")
                    except ValueError as error:
                        failed.append(f"{paths[index]}: {error}")
                        say(f"boxwright propose: {failed[-1]}")
        numbers = {"images": len(counts), "known": known, "failed": failed}
        numbers |= {"seconds": round(time.monotonic() - started, 3), "proposals": sum(counts) / max(1, len(counts))}
        numbers |= _recall(overlaps)
        print(json.dumps(numbers) if self.json else fit(_text(numbers)))
        if self.out is not None and counts:
            with _naming_the_cache(propose, done):
                write_proposals(self.out, kept, repr(propose))
        for path in filter(None, (self.out, self.draw) if counts else ()):
            say(f"written: {path}")
        return 1 if failed else 0

    def _check(self) -> None:
        if not self.sources:
            raise ValueError("no images. Name a dataset, or files, folders or globs")
        check_at_least(1, count=self.count, workers=self.workers, top=self.top)
        if self.out is not None and (self.out.suffix.lower() != ".safetensors" or self.out.is_dir()):
            raise ValueError(f"--out names a .safetensors file, got {self.out}")
        check_folder("--draw", self.draw)

    def _datasets(self) -> list[Dataset]:
        """The splits of the dataset; [] where images are named, also by a folder without annotations."""
        path, splits = Path(self.sources[0]), None
        annotations = path.suffix.lower() in (".json", ".yaml", ".yml", ".csv")
        if len(self.sources) == 1 and (annotations or path.is_dir()):
            from boxwright.data.formats import DatasetError, open_dataset

            try:
                splits = open_dataset(path, format=self.format)
            except DatasetError:
                if annotations or self.split is not None or self.format is not None:
                    raise
                say(f"boxwright propose: {path} is no dataset, so its images are searched")
        if splits is None:
            if self.split is not None or self.format is not None:
                option = "--format" if self.split is None else "--split"
                raise ValueError(f"{option} is for one dataset; {', '.join(self.sources)} is none")
            return []
        return [splits[name] for name in chosen_splits(path, splits, self.split)]


@contextmanager
def _naming_the_cache(propose: CachedProposer, done: list[Source]) -> Iterator[None]:
    """An error gets a note that the boxes of the images so far are in the cache, if they are."""
    try:
        yield
    except BaseException as error:
        if done and propose.has(done[-1].read()):
            error.add_note("the boxes so far are in the cache, and the same command goes on after them")
        raise


def _objects(dataset: Dataset) -> list[Tensor]:
    """The objects (G, 4) in each image that recall is measured on, without crowds and difficult ones."""
    targets = map(dataset.target, range(len(dataset)))
    return [target.boxes[~(target.crowd | target.difficult)] for target in targets]


def _recall(overlaps: list[Tensor]) -> dict[str, Any]:
    """The number of objects and their recall by IoU and number of proposals; {} without objects.

    overlaps  (C, G) best overlaps of each image
    """
    objects = sum(best.shape[1] for best in overlaps)
    if not objects:
        return {}
    recall = {
        str(threshold): {
            str(count): sum(int((best[row] >= threshold).sum()) for best in overlaps) / objects
            for row, count in enumerate(_COUNTS)
        }
        for threshold in _THRESHOLDS
    }
    return {"objects": objects, "recall": recall}


def _text(numbers: dict[str, Any]) -> str:
    lines = [
        f"{counted(numbers['images'], 'image')} in {numbers['seconds']:.1f} s, {numbers['known']} of them cached; "
        f"{numbers['proposals']:.0f} proposals an image"
    ]
    if numbers["failed"]:
        lines.append(f"{len(numbers['failed'])} could not be read or drawn")
    if "recall" in numbers:
        rows = []
        for threshold, recalls in numbers["recall"].items():
            rows.append((f"IoU {threshold}", *(f"{100 * recall:.1f}%" for recall in recalls.values())))
        lines.append(f"share of the {numbers['objects']} objects found with the first")
        lines.append(table(("", *map(str, _COUNTS)), rows))
    return "\n".join(lines)


def _draw(image: np.ndarray, boxes: np.ndarray) -> PIL.Image.Image:
    """The boxes, each with its rank."""
    from boxwright.draw.boxes import draw_boxes

    return draw_boxes(image, boxes, [str(rank + 1) for rank in range(len(boxes))])
