"""What `boxwright detect` does: every image read, looked at, drawn, listed and written before the next one."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.cli.detect import Detect
from boxwright.cli.images import Found, find_images
from boxwright.cli.table import table
from boxwright.data.image import ImageError
from boxwright.predict.files import CocoFile, yolo_lines
from boxwright.predict.predictor import InputImage, Result
from boxwright.zoo import load

if TYPE_CHECKING:
    from boxwright.progress import Progress

_MANY = 10
"""From more images than this the table has one row per image, and a progress bar shows how far it is."""

_KEPT = (".jpg", ".jpeg", ".png", ".webp")
"""Formats that the drawn image shares with the original; others become JPEG."""

Sink = Callable[[Result], None]


def detect(options: Detect) -> int:
    """Exit status 1 if an image could not be read; the others are done."""
    eaten = next((name for name in options.classes if Path(name).is_file()), None)
    if eaten is not None:
        raise ValueError(f"--classes takes all names up to the next option, {eaten} too; name the images before it")
    _check_places(options)
    found, failed = find_images(options.sources, options.out)
    for line in failed:
        _complain(line)
    if not found:
        return 1
    places = {path: place for path, place in found}
    if not options.no_draw:
        _refuse_to_overwrite(options, found)
    predictor = load(options.model, options.device)
    records = []
    started = time.monotonic()
    with ExitStack() as stack:
        images = _readable(places, failed, stack.enter_context(_progress(len(found))))
        results = predictor.stream(images, options.threshold, options.classes or None, options.batch)
        sinks = list(_sinks(options, places, predictor.names, stack))
        for result in results:
            for sink in sinks:
                sink(result)
            records.append(result.to_dict())
    if records and not options.json:
        print(_table(records))
    print(_conclusion(options, records, len(failed), time.monotonic() - started), file=sys.stderr)
    return 1 if failed else 0


def _readable(paths: Iterable[Path], failed: list[str], bar: Progress | None) -> Iterator[InputImage]:
    """The images that can be read; the others are named on stderr and in `failed`."""
    for path in paths:
        try:
            yield InputImage.open(path)
        except ImageError as error:
            failed.append(str(error))
            _complain(str(error))
        if bar is not None:
            bar.update()


def _progress(images: int) -> AbstractContextManager[Progress | None]:
    if images <= _MANY:
        return nullcontext()
    from boxwright.progress import Progress  # lazily: rich costs a tenth of a second

    return Progress("detect", images)


def _sinks(options: Detect, places: dict[Path, Path], names: tuple[str, ...], stack: ExitStack) -> Iterator[Sink]:
    """What is to be done with each result; the files are closed with the stack."""
    if not options.no_draw:
        yield lambda result: _draw(result, _drawn(options, Found(_path(result), places[_path(result)])))
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
        yield lambda result: _write(_with_suffix(folder / places[_path(result)], ".txt"), yolo_lines(result))


def _check_places(options: Detect) -> None:
    """Before the work, for a COCO file is written at its end."""
    for option, folder in (("--out", None if options.no_draw else options.out), ("--yolo", options.yolo)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise ValueError(f"{option} names a folder, and {folder} is a file; give another")
    for option, file in (("--json-file", options.json_file), ("--coco", options.coco)):
        if file is not None and file.is_dir():
            raise ValueError(f"{option} names a file, and {file} is a folder; name a file in it")


def _refuse_to_overwrite(options: Detect, found: list[Found]) -> None:
    originals = {path.resolve() for path, _ in found}
    for one in found:
        if _drawn(options, one).resolve() in originals:
            raise ValueError(f"the boxes would be drawn over {_drawn(options, one)} itself; give another --out")


def _drawn(options: Detect, one: Found) -> Path:
    suffix = one.path.suffix
    return _with_suffix(options.out / one.place, suffix if suffix.lower() in _KEPT else ".jpg")


def _with_suffix(place: Path, suffix: str) -> Path:
    """Added, not exchanged as pathlib does: the place of my.cat.jpg is my.cat."""
    return place.with_name(place.name + suffix)


def _draw(result: Result, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    result.draw().save(path, quality=92, subsampling=0, compress_level=1)  # a PNG's level: far faster, little larger


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _path(result: Result) -> Path:
    assert result.path is not None  # all our images come from files
    return result.path


def _complain(line: str) -> None:
    print(f"boxwright detect: {line}", file=sys.stderr)


def _table(records: list[dict[str, Any]]) -> str:
    """A row per detection; where there are many images, a row per image."""
    if len(records) > _MANY:
        return table(("image", "found"), [(record["path"], _counted([record]) or "–") for record in records])
    rows = []
    for record in records:
        for one in record["detections"]:
            rows.append((record["path"], one["name"], f"{one['score']:.3f}", *(round(side) for side in one["box"])))
        if not record["detections"]:
            rows.append((record["path"], "–", "", "", "", "", ""))
    return table(("image", "class", "score", "left", "top", "right", "bottom"), rows)


def _conclusion(options: Detect, records: list[dict[str, Any]], failures: int, seconds: float) -> str:
    images = "1 image" if len(records) == 1 else f"{len(records)} images"
    parts = [f"found {_counted(records) or 'nothing'} in {images} in {seconds:.1f} s"]
    if failures:
        parts.append(f"{failures} could not be read")
    written = [None if options.no_draw or not records else options.out, options.json_file, options.coco, options.yolo]
    if any(written):
        parts.append(f"written: {', '.join(str(path) for path in written if path)}")
    return "; ".join(parts)


def _counted(records: list[dict[str, Any]]) -> str:
    counts = Counter(one["name"] for record in records for one in record["detections"])
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())
