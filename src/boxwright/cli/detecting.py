"""The work of `boxwright detect`: each image is read, predicted on, drawn, listed and written before the next one."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.cli.detect import Detect
from boxwright.cli.images import ImageFile
from boxwright.cli.table import table
from boxwright.data.image import ImageError
from boxwright.predict.files import CocoFile, yolo_lines
from boxwright.predict.predictor import InputImage, Result
from boxwright.units import counted
from boxwright.zoo import load

if TYPE_CHECKING:
    from boxwright.progress import Progress

_MANY = 10  # for more images the table has one row per image, and a progress bar is shown
_KEPT = (".jpg", ".jpeg", ".png", ".webp")  # formats of drawings; other images are drawn as JPEG

Sink = Callable[[Result], None]


def detect(options: Detect, model: Path, images: Sequence[ImageFile], failed: list[str]) -> int:
    """Exit status 1 if an image could not be read; the others are done.

    failed  a message for each source without an image, printed already
    """
    drawings = {} if options.no_draw else _drawings(options.out, images)
    predictor = load(model, options.device)
    records = []
    started = time.monotonic()
    with ExitStack() as stack:
        bar = None
        if len(images) > _MANY:
            from boxwright.progress import Progress  # lazily: rich costs a tenth of a second

            bar = stack.enter_context(Progress("detect", len(images)))
        readable = _readable([image.path for image in images], failed, bar)
        results = predictor.stream(readable, options.threshold, options.classes or None, options.batch)
        sinks = list(_sinks(options, {image.path: image.stem for image in images}, drawings, predictor.names, stack))
        for result in results:
            for sink in sinks:
                sink(result)
            records.append(result.to_dict())
    if records and not options.json:
        print(_table(records))
    print(_conclusion(options, records, len(failed), time.monotonic() - started), file=sys.stderr)
    return 1 if failed else 0


def _readable(paths: Iterable[Path], failed: list[str], bar: Progress | None) -> Iterator[InputImage]:
    """The images that can be read; the errors of the others are printed and added to `failed`."""
    for path in paths:
        try:
            yield InputImage.open(path)
        except ImageError as error:
            failed.append(str(error))
            print(f"boxwright detect: {error}", file=sys.stderr)
        if bar is not None:
            bar.update()


def _sinks(
    options: Detect, stems: dict[Path, Path], drawings: dict[Path, Path], names: tuple[str, ...], stack: ExitStack
) -> Iterator[Sink]:
    """A function for each output, to be called with each result; the files are closed with the stack."""
    if not options.no_draw:
        yield lambda result: _draw(result, drawings[_path(result)])
    if options.json:
        yield lambda result: print(json.dumps(result.to_dict()), flush=True)
    if options.json_file is not None:
        options.json_file.parent.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(options.json_file.open("w", encoding="utf-8"))
        yield lambda result: print(json.dumps(result.to_dict()), file=file, flush=True)
    if options.coco is not None:
        yield stack.enter_context(CocoFile(options.coco, names)).add
    if options.yolo is not None:
        folder = options.yolo
        _write(folder / "classes.txt", "".join(f"{name}\n" for name in names))
        yield lambda result: _write(_with_suffix(folder / stems[_path(result)], ".txt"), yolo_lines(result))


def _drawings(folder: Path, images: Sequence[ImageFile]) -> dict[Path, Path]:
    """The file that each image is drawn to. Raises ValueError where that is one of the images themselves."""
    originals = {image.path.resolve() for image in images}
    drawings = {}
    for path, stem in images:
        drawing = _with_suffix(folder / stem, path.suffix if path.suffix.lower() in _KEPT else ".jpg")
        if drawing.resolve() in originals:
            raise ValueError(f"the boxes would be drawn over {drawing} itself; give another --out")
        drawings[path] = drawing
    return drawings


def _with_suffix(stem: Path, suffix: str) -> Path:
    """The suffix is added, not replaced as in pathlib: the stem of my.cat.jpg is my.cat."""
    return stem.with_name(stem.name + suffix)


def _draw(result: Result, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    result.draw().save(path, quality=92, subsampling=0, compress_level=1)  # a PNG's level: far faster, little larger


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _path(result: Result) -> Path:
    assert result.path is not None  # all our images come from files
    return result.path


def _table(records: list[dict[str, Any]]) -> str:
    """A row per detection; where there are many images, a row per image."""
    if len(records) > _MANY:
        return table(("image", "found"), [(record["path"], _counted([record]) or "–") for record in records])
    rows = []
    for record in records:
        for detection in record["detections"]:
            box = map(round, detection["box"])
            rows.append((record["path"], detection["name"], f"{detection['score']:.3f}", *box))
        if not record["detections"]:
            rows.append((record["path"], "–", "", "", "", "", ""))
    return table(("image", "class", "score", "left", "top", "right", "bottom"), rows)


def _conclusion(options: Detect, records: list[dict[str, Any]], failures: int, seconds: float) -> str:
    parts = [f"found {_counted(records) or 'nothing'} in {counted(len(records), 'image')} in {seconds:.1f} s"]
    if failures:
        parts.append(f"{failures} could not be read")
    written = [None if options.no_draw or not records else options.out, options.json_file, options.coco, options.yolo]
    if any(written):
        parts.append(f"written: {', '.join(str(path) for path in written if path)}")
    return "; ".join(parts)


def _counted(records: list[dict[str, Any]]) -> str:
    counts = Counter(detection["name"] for record in records for detection in record["detections"])
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())
