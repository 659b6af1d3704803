"""The work of `boxwright detect`: each image is read, predicted on, drawn, listed and written before the next one."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from boxwright.checkpoint import describe
from boxwright.cli.detect import Detect
from boxwright.cli.images import STDIN, ImageFile, save_drawing
from boxwright.cli.table import table
from boxwright.data.image import ImageError
from boxwright.files import Outputs
from boxwright.predict.files import CocoFile, yolo_lines
from boxwright.predict.predictor import InputImage, Result
from boxwright.terminal import fit, say, terminal_width
from boxwright.units import counted, fraction
from boxwright.zoo import check_precision, load

if TYPE_CHECKING:
    from boxwright.progress import Progress

_MANY = 10  # for more images the table has one row per image, and a progress bar is shown

Sink = Callable[[Result], object]


def detect(options: Detect, model: Path, images: Sequence[ImageFile], outputs: Outputs, failed: list[str]) -> int:
    """Exit status 1 if an image could not be read or drawn; the others are done.

    outputs  has checked the files that will be written
    failed   a message for each source without an image, printed already
    """
    predictor = load(model, options.device, options.precision)
    predictor = predictor.with_selection(options.nms, options.agnostic_nms, options.max_detections)
    many = len(images) > _MANY
    counts: Counter[str] = Counter()
    done, rows, undrawn = 0, [], []
    started = time.monotonic()
    with ExitStack() as stack:
        bar = None
        if many:
            from boxwright.progress import Progress  # lazily: rich costs a tenth of a second

            bar = stack.enter_context(Progress("detect", len(images)))
        readable = _readable([image.path for image in images], failed, bar)
        results = predictor.stream(readable, options.threshold, options.classes or None, options.batch)
        files = {image.path: image for image in images}
        sinks = list(_sinks(options, files, predictor.names, outputs, undrawn, stack))
        for result in results:
            for sink in sinks:
                sink(result)
            counts.update(result.label_names)
            done += 1
            if not options.json:
                rows += _rows(result, many)
    if rows:
        head = ("image", "found") if many else ("image", "class", "score", "left", "top", "right", "bottom")
        print(table(head, rows, terminal_width()))
        print(fit(_at_score(predictor.threshold, options.threshold)))
    found = ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
    parts = [f"found {found} in {counted(done, 'image')} in {time.monotonic() - started:.1f} s"]
    parts += [f"{len(failed)} could not be read"] if failed else []
    parts += [f"{len(undrawn)} could not be drawn"] if undrawn else []
    written = [None if options.no_draw or not done else options.out, options.json_file, options.coco, options.yolo]
    if options.precision != "fp32":
        parts.append(check_precision(describe(model), options.precision, options.model))
    parts += [f"written: {', '.join(str(path) for path in written if path)}"] if any(written) else []
    say("; ".join(parts))
    return 1 if failed or undrawn else 0


def _at_score(usual: float, given: float | None) -> str:
    """The score threshold of the table: that of the model, or --threshold."""
    if given is not None:
        return f"at score ≥ {fraction(given)} (--threshold)"
    return f"at score ≥ {fraction(usual)} (the model's own; --threshold changes it)"


def _readable(paths: Iterable[Path], failed: list[str], bar: Progress | None) -> Iterator[InputImage]:
    """The images that can be read; the errors of the others are printed and added to `failed`."""
    for path in paths:
        try:
            yield InputImage.open(path) if path != STDIN else replace(InputImage.open(_stdin()), path=path)
        except ImageError as error:
            failed.append(str(error))
            say(f"boxwright detect: {error}")
        if bar is not None:
            bar.update()


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise ImageError("<stdin>: expected an image, but standard input is closed; pipe an image into it")
    return sys.stdin.buffer


def _sinks(
    options: Detect, files: dict[Path, ImageFile], names: tuple[str, ...], outputs: Outputs, undrawn: list[str],
    stack: ExitStack,
) -> Iterator[Sink]:  # fmt: skip
    """A function for each output, to be called with each result; the files are closed with the stack."""
    if not options.no_draw:
        yield lambda result: _draw(result, files[_path(result)], options.out, outputs, undrawn)
    if options.json:
        yield lambda result: print(json.dumps(result.to_dict()), flush=True)
    if options.json_file is not None:
        add = stack.enter_context(outputs.stream(options.json_file))
        yield lambda result: add(json.dumps(result.to_dict()))
    if options.coco is not None:
        outputs.begin(options.coco)
        stack.enter_context(outputs.writing(options.coco))
        yield stack.enter_context(CocoFile(options.coco, names)).add
    if options.yolo is not None:
        folder, scores = options.yolo, options.yolo_scores
        outputs.write(folder / "classes.txt", "".join(f"{name}\n" for name in names))
        yield lambda result: outputs.write(files[_path(result)].output(folder, ".txt"), yolo_lines(result, scores))


def _draw(result: Result, image: ImageFile, folder: Path, outputs: Outputs, undrawn: list[str]) -> None:
    """One that cannot be drawn is printed and counted."""
    try:
        save_drawing(result.draw(), image.drawing(folder), outputs, "--out")
    except ValueError as error:
        undrawn.append(f"{image.path}: {error}")
        say(f"boxwright detect: {undrawn[-1]}")


def _path(result: Result) -> Path:
    assert result.path is not None  # all our images have one
    return result.path


def _rows(result: Result, many: bool) -> Iterator[tuple[object, ...]]:
    """A row per detection; where there are many images, a row per image."""
    if many:
        yield result.path, result.summary() if len(result) else "–"
        return
    for detection in result.to_dict()["detections"]:
        yield result.path, detection["name"], f"{detection['score']:.3f}", *map(round, detection["box"])
    if not len(result):
        yield result.path, "–", "", "", "", "", ""
