"""`boxwright propose`: where objects may be, by selective search, computed once and kept."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from boxwright.cli.images import find_images
from boxwright.cli.table import table

if TYPE_CHECKING:  # --help is to answer without torch
    import numpy as np
    from torch import Tensor

    from boxwright.data.formats import Splits
    from boxwright.predict.propose import Proposed, Source

_COUNTS = (100, 500, 1000, 2000)
_THRESHOLDS = (0.5, 0.7)


@dataclass(frozen=True)
class Propose:
    """Search images for regions that may be objects, on all cores, and keep their boxes for training and detection.

    They are kept in $BOXWRIGHT_CACHE or ~/.cache/boxwright; an image that was searched before costs next to nothing.
    With a dataset, the share of its objects that proposals find is measured.
    """

    sources: Positional[Annotated[tuple[str, ...], arg(metavar="PATH ...", help_behavior_hint="")]] = ()
    """A dataset (its folder, COCO JSON or YOLO YAML); or images, folders with images and globs."""
    mode: Annotated[Literal["fast", "quality"], arg(metavar="fast|quality")] = "fast"
    """How thoroughly: quality takes about three times as long."""
    count: int = 2000
    """Proposals of an image, at most."""
    split: Annotated[str | None, arg(metavar="train|val|test", help_behavior_hint="")] = None
    """Only this part of a dataset."""
    workers: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Images searched at the same time; as many as there are cores if not given."""
    out: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the boxes to this .safetensors file; what an existing one has of other images stays in it."""
    draw: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Draw each image with its best proposals into this folder."""
    top: int = 20
    """How many proposals are drawn."""
    json: bool = False
    """Print the numbers as a JSON object."""

    def run(self) -> int:
        """Exit status 1 if an image could not be read; the others are done."""
        self._check()
        from boxwright.predict.propose import propose_all
        from boxwright.progress import Progress
        from boxwright.proposals import build_proposer, read_proposals, write_proposals

        propose = build_proposer("selective_search" if self.mode == "fast" else "selective_search_quality", self.count)
        boxes = read_proposals(self.out) if self.out is not None and self.out.exists() else {}
        sources, objects, failed = self._sources()
        tally = _Tally(failed)
        if not sources:
            return 1
        with Progress("propose", len(sources)) as bar:
            for place, proposed in enumerate(propose_all(propose, sources, self.workers)):
                tally.add(proposed, objects[place] if objects else None)
                if self.out is not None and not proposed.error:
                    boxes[proposed.key] = proposed.boxes
                if self.draw is not None and not proposed.error:
                    name = f"{place + 1:05}-{Path(str(proposed.source.path)).stem}.jpg"
                    _draw(proposed.source.read(), proposed.boxes[: self.top], self.draw / name)
                bar.update()
        if self.out is not None and tally.found:
            write_proposals(self.out, boxes, repr(propose))
        print(json.dumps(tally.numbers()) if self.json else tally.text())
        if tally.found:
            for written in filter(None, (self.out, self.draw)):
                print(f"written: {written}", file=sys.stderr)
        return 1 if failed else 0

    def _check(self) -> None:
        if not self.sources:
            raise ValueError("propose for which images? Name a dataset, or files, folders or globs")
        for name in ("count", "workers", "top"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} is 1 or more, got {value}")
        if self.out is not None and (self.out.suffix.lower() != ".safetensors" or self.out.is_dir()):
            raise ValueError(f"--out names a .safetensors file, got {self.out}")
        if self.draw is not None and self.draw.is_file():
            raise ValueError(f"--draw names a folder, and {self.draw} is a file; give another")

    def _sources(self) -> tuple[list[Source], list[Tensor], list[str]]:
        """The images; of a dataset the objects (G, 4) in each, else none; and a line about each path without any."""
        from boxwright.predict.propose import Source, sources_of

        splits = self._dataset()
        if splits is None:
            found, missing = find_images(self.sources, self.draw or Path("proposals"))
            return [Source(path) for path, _ in found], [], missing
        if self.split is not None and self.split not in splits:
            raise ValueError(f"{self.sources[0]} has no {self.split} part; it has {', '.join(splits)}")
        parts = [splits[part] for part in ([self.split] if self.split else splits)]
        targets = [part.target(index) for part in parts for index in range(len(part))]
        objects = [target.boxes[~(target.crowd | target.difficult)] for target in targets]
        return [source for part in parts for source in sources_of(part)], objects, []

    def _dataset(self) -> Splits | None:
        """None where images are named, which is what a folder without annotations has as well."""
        from boxwright.data.formats import DatasetError, open_dataset

        path = Path(self.sources[0])
        if len(self.sources) == 1 and path.suffix.lower() in (".json", ".yaml", ".yml"):
            return open_dataset(path)
        if len(self.sources) == 1 and path.is_dir():
            try:
                return open_dataset(path)
            except DatasetError:
                if self.split is not None:
                    raise
                _complain(f"{path} is no dataset, so its images are searched")
        if self.split is not None:
            raise ValueError(f"--split is for one dataset; {', '.join(self.sources)} is none")
        return None


class _Tally:
    """What came of the images so far."""

    def __init__(self, failed: list[str]) -> None:
        self.failed = failed
        for line in failed:
            _complain(line)
        self.started = time.monotonic()
        self.known = 0
        self.found: list[int] = []
        self.best: list[Tensor] = []

    def add(self, proposed: Proposed, objects: Tensor | None) -> None:
        if proposed.error:
            self.failed.append(proposed.error)
            _complain(proposed.error)
            return
        from boxwright.predict.propose import best_overlaps

        self.known += proposed.known
        self.found.append(len(proposed.boxes))
        if objects is not None:
            self.best.append(best_overlaps(proposed.boxes, objects, _COUNTS))

    def numbers(self) -> dict[str, Any]:
        """What --json prints; recall is there where objects are, by IoU and number of proposals."""
        numbers: dict[str, Any] = {
            "images": len(self.found),
            "known": self.known,
            "failed": self.failed,
            "seconds": round(time.monotonic() - self.started, 3),
            "proposals": sum(self.found) / max(1, len(self.found)),
        }
        objects = sum(best.shape[1] for best in self.best)
        if objects:
            numbers["objects"] = objects
            numbers["recall"] = {
                str(threshold): {
                    str(count): sum(int((best[row] >= threshold).sum()) for best in self.best) / objects
                    for row, count in enumerate(_COUNTS)
                }
                for threshold in _THRESHOLDS
            }
        return numbers

    def text(self) -> str:
        numbers = self.numbers()
        lines = [
            f"{numbers['images']} images in {numbers['seconds']:.1f} s, {self.known} of them known already; "
            f"{numbers['proposals']:.0f} proposals an image"
        ]
        if self.failed:
            lines.append(f"{len(self.failed)} could not be read")
        if "recall" in numbers:
            rows = [
                (f"IoU {threshold}", *(f"{100 * share:.1f}%" for share in shares.values()))
                for threshold, shares in numbers["recall"].items()
            ]
            lines.append(f"share of the {numbers['objects']} objects found with the first")
            lines.append(table(("", *map(str, _COUNTS)), rows))
        return "\n".join(lines)


def _draw(image: np.ndarray, boxes: np.ndarray, path: Path) -> None:
    """The boxes, each with its rank."""
    from boxwright.draw.boxes import draw_boxes

    path.parent.mkdir(parents=True, exist_ok=True)
    draw_boxes(image, boxes, [str(rank + 1) for rank in range(len(boxes))]).save(path, quality=90)


def _complain(line: str) -> None:
    print(f"boxwright propose: {line}", file=sys.stderr)
