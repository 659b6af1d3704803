"""From the rows of a reader to a Dataset: real image sizes, boxes in pixels of the files, and what was wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np

from boxwright.data.dataset import Dataset, Strings
from boxwright.data.formats.reading import BoxRow, ImageRow, Problem, Reading, unreadable
from boxwright.data.image import ImageError, read_header
from boxwright.data.threads import in_threads
from boxwright.types import Size

_FAR = 1e30
"""More pixels than any image has, which float32 still holds."""

_SLIGHT = 0.02
"""The relative difference of annotated and real sizes below which boxes are taken as they are."""

_MOST_BOXES = 20_000
"""Of an image. Training compares each with tens of thousands of anchors, which takes 4 GB for so many."""


def build(reading: Reading, names: Sequence[str] | None = None) -> tuple[Dataset, list[Problem]]:
    """The dataset without broken boxes and images, and all problems, including those of the reading.

    Sizes are those of the files, whose headers are read. Where the annotated size has the same shape but is another,
    the image was resized after it was annotated, and its boxes are scaled to the file. Where it has another shape, the
    image is left out unless its boxes show that only the size is wrong. An image with more than 20,000 boxes is left
    out. Boxes are clipped to the image.
    """
    names = tuple(reading.names if names is None else names)
    problems = list(reading.problems)
    rows = reading.boxes
    numbers = chain.from_iterable(row.box for row in rows)
    raw = np.fromiter(numbers, np.float64, 4 * len(rows)).reshape(-1, 4)
    owners = np.array([row.image for row in rows], np.int64)
    sizes, scales, kept_images = _real_sizes(reading, raw, owners, problems)
    kept_images &= ~_crowded(reading.images, owners, problems)
    in_pixels = kept_images[owners]
    if not reading.measured:
        in_pixels &= ~_in_shares(rows, raw, np.where(in_pixels[:, None], sizes[owners], 0), problems)
    with np.errstate(over="ignore"):  # what is infinite is reported below
        raw *= np.tile(scales[owners][:, ::-1], 2)

    limits = np.tile(sizes[owners][:, ::-1], 2)  # (M, 4) width, height, width, height
    clipped = np.clip(raw, 0, limits).astype(np.float32)
    with np.errstate(invalid="ignore"):
        usable = (clipped[:, 2:] > clipped[:, :2]).all(1) & np.isfinite(raw).all(1) & in_pixels
    for i in np.flatnonzero(in_pixels & (~usable | (np.abs(clipped - raw) > 1).any(1))):
        problems.append(_box_problem(rows[i]._replace(box=tuple(raw[i])), Size(*sizes[owners[i]].tolist())))

    kept = np.flatnonzero(usable)
    kept = kept[np.argsort(owners[kept], kind="stable")]
    boxes = clipped[kept]
    sides = boxes[:, 2:] - boxes[:, :2]
    given = np.array([math.nan if row.area is None else row.area for row in rows], np.float64)[kept]
    with np.errstate(over="ignore"):
        given *= scales[owners[kept]].prod(axis=1)
    label_of = {name: label for label, name in enumerate(names)}
    dataset = Dataset(
        names=names,
        paths=Strings.pack(image.path for image in reading.images),
        ids=_column_of_ids([image.id for image in reading.images]),
        sizes=sizes,
        offsets=np.concatenate([[0], np.cumsum(np.bincount(owners[kept], minlength=len(sizes)))]).astype(np.int64),
        boxes=boxes,
        labels=np.array([label_of[row.name] for row in rows], np.int64)[kept],
        crowd=np.array([row.crowd for row in rows], bool)[kept],
        difficult=np.array([row.difficult for row in rows], bool)[kept],
        area=np.where(np.abs(given) < _FAR, given, sides[:, 0] * sides[:, 1]).astype(np.float32),
    )
    return (dataset if kept_images.all() else dataset.select(np.flatnonzero(kept_images))), problems


def _real_sizes(
    reading: Reading, boxes: np.ndarray, owners: np.ndarray, problems: list[Problem]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each image, the height and width of the frame of its boxes (N, 2) int64, the factors from the annotated to
    that frame (N, 2), and whether it is kept (N,).

    The frame is the upright image, or the image as stored where only that has the annotated shape.
    """
    images = reading.images
    annotated = np.array([image.size or (0, 0) for image in images], np.int64).reshape(-1, 2)
    known = (annotated > 0).all(axis=1)
    upright, stored, kept = annotated.copy(), annotated.copy(), np.ones(len(images), bool)
    asked = np.flatnonzero(~known) if reading.measured else np.arange(len(images))
    headers = list(in_threads(_header_sizes, [images[i].path for i in asked.tolist()]))
    unread = [header for header in headers if isinstance(header, Problem)]
    problems += unread
    if unread:
        readable = np.array([not isinstance(header, Problem) for header in headers])
        kept[asked[~readable]] = False
        asked = asked[readable]
    sizes = np.array([header for header in headers if not isinstance(header, Problem)], np.int64).reshape(-1, 4)
    upright[asked], stored[asked] = sizes[:, :2], sizes[:, 2:]
    known &= kept
    annotated[~known] = upright[~known]

    reach = np.zeros((len(images), 2))  # the greatest y and x of the boxes
    finite = np.isfinite(boxes).all(axis=1)
    np.maximum.at(reach, owners[finite], boxes[finite][:, [3, 2]])
    far = (reach > 1.05 * annotated + 1).any(axis=1)  # not by a few pixels only, as careless boxes reach outside
    as_stored = _same_shape(annotated, stored) & ~_same_shape(annotated, upright) & ~far
    frame = np.where(as_stored[:, None], stored, upright)

    other = known & (np.abs(frame - annotated) > 1).any(axis=1)
    resized = other & _same_shape(annotated, frame)
    drawn = resized & (reach > 0).any(axis=1)
    if np.count_nonzero(far & drawn) > 0.1 * np.count_nonzero(drawn):
        fits = resized  # the boxes are those of the files, and only the sizes are wrong
        resized = np.zeros_like(resized)
    else:
        fits = (reach > annotated + 1).any(axis=1) | (reach == 0).all(axis=1)
    fits = fits & (reach <= frame + 1).all(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = frame / annotated
    slight = (np.abs(factors - 1) <= _SLIGHT).all(axis=1)
    swapped = (annotated == frame[:, ::-1]).all(axis=1)
    unclear = other & ~resized & ~fits & ~slight & ~swapped
    kept &= ~unclear

    if resized.any():
        problems.append(_resized(images, annotated, frame, np.flatnonzero(resized)))
    for i in np.flatnonzero(known & ~resized & (annotated != upright).any(axis=1)):
        turned = bool((annotated[i] == upright[i, ::-1]).all())
        problems.append(_wrong_size(images[i], upright[i], turned, bool(unclear[i])))
    return frame, np.where(resized[:, None], factors, 1.0), kept


def _crowded(images: list[ImageRow], owners: np.ndarray, problems: list[Problem]) -> np.ndarray:
    """Which images (N,) have more boxes than training can hold."""
    counts = np.bincount(owners, minlength=len(images))
    for i in np.flatnonzero(counts > _MOST_BOXES):
        image = images[i]
        message = f"{image.path} has {counts[i]:,} boxes, and training holds at most {_MOST_BOXES:,} of an image"
        mend = "correct the annotations, or cut the image into tiles"
        problems.append(Problem("too many boxes", image.file, image.line, message, mend))
    return counts > _MOST_BOXES


def _header_sizes(path: str) -> tuple[int, int, int, int] | Problem:
    """Height and width of the upright image, and of the image as it is stored, from the file's header only."""
    try:
        header = read_header(path)
    except ImageError as error:
        return unreadable(path, error)
    (height, width), (stored_height, stored_width) = header.upright, header.stored
    return height, width, stored_height, stored_width


def _same_shape(sizes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether one size is the other times a factor, rounded to pixels; (N,) of two (N, 2)."""
    rows, longer = np.arange(len(sizes)), sizes.argmax(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = (others[rows, longer] / sizes[rows, longer])[:, None]
        forth, back = np.abs(sizes * factor - others), np.abs(others / factor - sizes)
    return np.logical_or((forth <= 1).all(axis=1), (back <= 1).all(axis=1))


def _resized(images: list[ImageRow], annotated: np.ndarray, frame: np.ndarray, resized: np.ndarray) -> Problem:
    first = resized[0]
    image, (height, width) = images[first], annotated[first]
    message = f"{len(resized)} images are not of the size they are annotated as, such as {image.path}, which is "
    message += f"{frame[first, 1]}×{frame[first, 0]} and not {width}×{height}; their boxes are scaled to the files"
    mend = "nothing to do if the images were resized after they were annotated; otherwise correct the sizes"
    return Problem("boxes scaled", image.file, image.line, message, mend)


def _wrong_size(image: ImageRow, upright: np.ndarray, turned: bool, unclear: bool) -> Problem:
    assert image.size is not None
    message = f"annotated as {image.size.width}×{image.size.height}, but {image.path} is {upright[1]}×{upright[0]}"
    if unclear:
        message += ", of another shape, so that its boxes may be elsewhere; it is left out"
        return Problem("wrong size", image.file, image.line, message, "put the annotated image there", "error")
    reason = "drawn before EXIF orientation was applied" if turned else "those of an earlier version of the image"
    mend = f"correct the size, and check the boxes: they may be {reason}"
    return Problem("wrong size", image.file, image.line, message, mend)


def _in_shares(rows: list[BoxRow], boxes: np.ndarray, sizes: np.ndarray, problems: list[Problem]) -> np.ndarray:
    """Which boxes (M,) are written in shares of the image, 0 to 1, and not in pixels; `sizes` (M, 2) of their images.

    In pixels they would lie within the first pixel. The second pixel counts if all boxes lie there: a width is then
    taken for a right edge, or the other way round.
    """
    with np.errstate(invalid="ignore"):
        judged = (sizes > 8).all(axis=1) & np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        starts, ends = boxes[:, :2].max(axis=1), boxes[:, 2:].max(axis=1)
        limit = 2.02 if (starts[judged] <= 1.01).all() and (ends[judged] <= 2.02).all() else 1.01
        shares = judged & (ends <= limit)
    if shares.any():
        row = rows[np.flatnonzero(shares)[0]]
        message = f"expected boxes in pixels, {shares.sum()} of {len(rows)} look like shares of the image, 0 to 1"
        mend = "multiply x by the image's width and y by its height"
        problems.append(Problem("box in shares", row.file, row.line, message, mend))
    return shares


def _box_problem(row: BoxRow, size: Size) -> Problem:
    x1, y1, x2, y2 = row.box
    text = f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) of class {row.name}"
    if not all(map(math.isfinite, row.box)):
        return Problem("not a number", row.file, row.line, f"{text} is not finite", "draw the box again or remove it")
    first, last = np.array([(x1, y1), (x2, y2)]).clip(-_FAR, _FAR).astype(np.float32)
    if (last <= first).any():
        message = f"{text} is {x2 - x1:g} wide and {y2 - y1:g} high; both must be above 0"
        return Problem("degenerate box", row.file, row.line, message, "draw the box again or remove it")
    disjoint = x1 >= size.width or y1 >= size.height or x2 <= 0 or y2 <= 0
    how, mend = ("lies outside", "remove it") if disjoint else ("reaches outside", "clip it to the image")
    message = f"{text} {how} its image of {size.width}×{size.height}"
    return Problem("box outside image", row.file, row.line, message, mend, "error" if disjoint else "warning")


def _column_of_ids(ids: list[int | str]) -> np.ndarray | Strings:
    if all(isinstance(value, int) and abs(value) < 2**63 for value in ids):
        return np.array(ids, np.int64)
    return Strings.pack(str(value) for value in ids)
