"""The compiled operators: torchvision's kernels, each as an operator whose shapes outside are static.

What depends on values (survivors of suppression, regions of a level) is handled inside. On CUDA no shape depends on a
value inside either, so that a CUDA graph can hold the operators; the host waits once or twice a suppression, to read
whether the mask is final, and not at all `without_waiting`. Importing this file registers all of them, which an
exported program needs:

    boxwright::nms_mask       greedy suppression of a batch within groups, as a mask (`nms_mask`)
    boxwright::roi_align      bilinear samples, their mean per cell (He et al. 2017, "Mask R-CNN", section 3)
    boxwright::roi_pool       the maximum per cell of whole features (Girshick 2015, "Fast R-CNN", section 2.1)
    boxwright::ps_roi_align   as roi_align; every cell reads channels of its own (Dai et al. 2016, "R-FCN", section 3)
    boxwright::ps_roi_pool    the mean per cell of whole features; every cell reads channels of its own
    boxwright::warp           regions of the pixels resampled to height x width, without a gradient (`layers/warp.py`)
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

# The low-level registration: torch.library.custom_op would import torch._dynamo, seconds, at the first call.
_library = torch.library.Library("boxwright", "FRAGMENT")


@functools.cache
def load_compiled_ops() -> None:
    """Register `torch.ops.torchvision.*` without `import torchvision`, which takes seconds (it imports torch._dynamo).

    Raises ImportError when torchvision is missing, has no compiled operators, or was built for another torch.
    """
    if hasattr(torch.ops.torchvision, "nms"):
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("boxwright needs torchvision's compiled operators: pip install torchvision")
    folder = Path(spec.submodule_search_locations[0])
    libraries = sorted(path for path in folder.glob("_C*") if path.suffix in (".so", ".pyd", ".dylib"))
    if not libraries:
        raise ImportError(
            f"expected torchvision's compiled operators as {folder}/_C*.so, found no such file; "
            "reinstall torchvision from a wheel: pip install --force-reinstall torchvision"
        )
    for library in libraries:
        try:
            torch.ops.load_library(library)
        except OSError as error:
            raise ImportError(
                f"torch {torch.__version__} cannot load {library}: {error}; install the torchvision that belongs to it"
            ) from error


def nms_mask(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float, most: int | None = None
) -> Tensor:
    """Which boxes of a batch survive greedy suppression among the boxes of their own image and group.

    boxes   (N, K, 4) xyxy, K boxes for each of N images
    scores  (N, K), in any order; of equal scores the first wins
    groups  (N, K) int64: only boxes of one group suppress each other, e.g. their class; all 0 for class-agnostic NMS
    valid   (N, K) bool: the others, and those that are not finite, are neither kept nor suppress anything
    most    of the survivors of an image keep only so many, the best; the others are not computed, which saves time
    returns (N, K) bool
    """
    check_iou_threshold(iou_threshold)
    if boxes.ndim != 3 or boxes.shape[2] != 4 or not scores.shape == groups.shape == valid.shape == boxes.shape[:2]:
        raise ValueError(
            f"nms_mask takes boxes (N, K, 4) and scores, groups, valid (N, K), got {tuple(boxes.shape)} and "
            f"{tuple(scores.shape)}, {tuple(groups.shape)}, {tuple(valid.shape)}"
        )
    return torch.ops.boxwright.nms_mask(boxes, scores, groups, valid, iou_threshold, most)


def check_iou_threshold(iou_threshold: float) -> None:
    """Raises ValueError for a number outside 0..1."""
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"an IoU threshold lies in 0..1, got {iou_threshold}")


def _nms_mask(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float, most: int | None = None
) -> Tensor:
    load_compiled_ops()
    boxes, scores = boxes.double(), scores.double()
    valid = valid & boxes.isfinite().all(-1) & ~scores.isnan()
    keep = torch.zeros_like(valid)
    for image in range(len(boxes)):
        rows = valid[image].nonzero()[:, 0]
        if len(rows):
            rows = rows[scores[image, rows].argsort(descending=True, stable=True)]
            keep[image, _survivors(boxes[image], scores[image], groups[image], rows, iou_threshold, most)] = True
    return keep


def _nms_mask_on_the_cpu(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, *numbers) -> Tensor:
    return _nms_mask(boxes.cpu(), scores.cpu(), groups.cpu(), valid.cpu(), *numbers).to(boxes.device)


def _survivors(
    boxes: Tensor, scores: Tensor, groups: Tensor, rows: Tensor, iou_threshold: float, most: int | None
) -> Tensor:
    """The first `most` of `rows`, best first, that survive.

    Which of the best rows survive does not depend on later ones: take few, then twice as many until they suffice.
    """
    count = len(rows) if most is None else 2 * most
    while True:
        front = rows[:count]
        apart = _set_groups_apart(boxes[front], groups[front])
        kept = front[torch.ops.torchvision.nms(apart, scores[front], iou_threshold)[:most]]
        if len(kept) == most or count >= len(rows):
            return kept
        count *= 2


def _set_groups_apart(boxes: Tensor, groups: Tensor) -> Tensor:
    """Boxes (C, 4) with every group shifted apart, so that boxes of different groups never overlap.

    In float64: in float32 the shift would cost the boxes of the last groups of a large image several bits.
    """
    span = boxes.max() - boxes.min() + 1
    return boxes + (groups * span)[:, None]


def _static_nms_mask(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float, most: int | None = None
) -> Tensor:
    """As `_nms_mask`, in shapes that depend on no value. It compares all pairs of boxes of an image.

    It tries the best boxes first: 2 `most` of them where the host may ask whether they suffice, and then all; elsewhere
    3 `most`, and it notes if they did not. Above `_WHOLE` boxes, all are compared by `_nms_mask`.
    """
    if not valid.numel():
        return torch.zeros_like(valid)
    sound = valid & boxes.isfinite().all(-1) & ~scores.isnan()
    order = torch.where(sound, scores, -torch.inf).argsort(dim=1, descending=True, stable=True)  # (N, K)
    ranked = torch.where(sound[..., None], boxes, 0.0).double().gather(1, order[..., None].expand_as(boxes))
    group, alive, count = groups.gather(1, order), sound.gather(1, order), valid.shape[1]
    enough = count if most is None else most
    front = min(max(2 * enough, _FRONT) if _may_wait(boxes) else max(3 * enough, _FRONT_UNSEEN), _WHOLE)
    if front < count:
        kept, changed = _pass(_suppresses(ranked[:, :front], group[:, :front], iou_threshold), alive[:, :front])
        unfinished = changed | ((kept.sum(1) < enough) & alive[:, front:].any(1)).any()
        _note(unfinished)
        if not _may_wait(boxes) or not unfinished:
            return _first(kept, order, enough)
        if count > _WHOLE:
            return _nms_mask(boxes, scores, groups, valid, iou_threshold, most)
    return _first(_settle(_suppresses(ranked, group, iou_threshold), alive), order, enough)


def _first(kept: Tensor, order: Tensor, most: int) -> Tensor:
    """The first `most` that are kept (N, C) of the first rows of an order (N, K), as a mask (N, K) of all rows."""
    nothing = torch.zeros_like(order, dtype=torch.bool)
    return nothing.scatter(1, order[:, : kept.shape[1]], kept & (kept.cumsum(1) <= most))


def _suppresses(boxes: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Boxes (N, K, 4), best first, and groups (N, K) to (N, K, K) bfloat16: 1 where the row suppresses the column."""
    together = max(1, _PAIRS // max(1, boxes.shape[1] ** 2))  # images: each step is an array of all their pairs
    if len(boxes) > together:
        parts = zip(boxes.split(together), groups.split(together), strict=True)
        return torch.cat([_suppresses(*part, iou_threshold) for part in parts])
    x1, y1, x2, y2 = boxes.unbind(-1)
    across = torch.minimum(x2[:, :, None], x2[:, None]) - torch.maximum(x1[:, :, None], x1[:, None])
    down = torch.minimum(y2[:, :, None], y2[:, None]) - torch.maximum(y1[:, :, None], y1[:, None])
    overlap, area = across.clamp(min=0) * down.clamp(min=0), (x2 - x1) * (y2 - y1)
    too_much = overlap / (area[:, :, None] + area[:, None] - overlap) > iou_threshold
    rank = torch.arange(boxes.shape[1], device=boxes.device)
    return (too_much & (groups[:, :, None] == groups[:, None]) & (rank[:, None] < rank)).to(torch.bfloat16)


_FRONT = 256  # boxes tried at least: fewer take no less time
_FRONT_UNSEEN = 1024  # the same where nothing can be tried a second time
_PAIRS = 2**25  # compared at once: 270 MB for each number of a pair
_WHOLE = 5000  # boxes of an image, the best, whose pairs are compared: 200 MB for each number of a pair
_PASSES = 32  # between two looks of the host at the result; few images need more than ten

_unsettled: ContextVar[list[Tensor] | None] = ContextVar("unsettled", default=None)


@contextmanager
def without_waiting() -> Iterator[list[Tensor]]:
    """Within, nothing on CUDA waits for the device, as a CUDA graph demands. Suppression makes so many passes as nearly
    always suffice; the list gets a scalar bool of each, True where they did not, and the mask may be wrong."""
    noted: list[Tensor] = []
    before = _unsettled.set(noted)
    try:
        yield noted
    finally:
        _unsettled.reset(before)


def _note(unfinished: Tensor) -> None:
    """Within `without_waiting`, remember a scalar bool."""
    if (noted := _unsettled.get()) is not None:
        noted.append(unfinished)


def _may_wait(tensor: Tensor) -> bool:
    """Whether a value may be read on the host: not while a graph is made."""
    if torch.compiler.is_compiling() or _unsettled.get() is not None:
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def _settle(suppresses: Tensor, alive: Tensor) -> Tensor:
    """Which boxes survive, (N, K) bool: those that no survivor suppresses.

    suppresses  (N, K, K) of 0 and 1: the row suppresses the column, which comes later
    alive       (N, K) bool: the others are out

    It is a fixed point: start with all that are alive, and take again and again those that none of the last ones
    suppresses. It is reached after as many passes as the longest chain of suppressions has links.
    """
    kept = None
    while True:
        kept, changed = _pass(suppresses, alive, kept)
        _note(changed)
        if not _may_wait(kept) or not changed:
            return kept


def _pass(suppresses: Tensor, alive: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`_PASSES` passes of `_settle` from the last ones kept on; and a scalar bool, whether the last one changed any."""
    first = before = alive.to(suppresses.dtype)
    after = first if kept is None else kept.to(suppresses.dtype)
    for _ in range(_PASSES):
        before, after = after, torch.where(torch.bmm(after[:, None], suppresses)[:, 0] > 0, 0.0, first)
    return after > 0, (before != after).any()


_library.define(
    "nms_mask(Tensor boxes, Tensor scores, Tensor groups, Tensor valid, float iou_threshold, int? most=None) -> Tensor"
)
_library.impl("nms_mask", _nms_mask, "CompositeExplicitAutograd")
_library.impl("nms_mask", _static_nms_mask, "CUDA")
_library.impl("nms_mask", _nms_mask_on_the_cpu, "MPS")  # which has no float64


@torch.library.register_fake("boxwright::nms_mask", lib=_library)
def _shape_of_nms_mask(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, iou_threshold: float, most: int | None = None
) -> Tensor:
    return torch.empty_like(valid)


def _warp(pixels: Tensor, regions: Tensor, height: int, width: int) -> Tensor:
    load_compiled_ops()
    return torch.ops.torchvision.roi_align(pixels, regions, 1.0, height, width, 0, True)


_library.define("warp(Tensor pixels, Tensor regions, int height, int width) -> Tensor")
_library.impl("warp", _warp, "CompositeExplicitAutograd")


@torch.library.register_fake("boxwright::warp", lib=_library)
def _shape_of_warp(pixels: Tensor, regions: Tensor, height: int, width: int) -> Tensor:
    return pixels.new_empty(regions.shape[0], pixels.shape[1], height, width)


def _sum_rows(maps: list[Tensor], regions: Tensor, level: Tensor, scales: list[float], size: int, *numbers) -> Tensor:
    """`boxwright::roi_align` as sums of rows of one table, which has a row of C channels for each feature of each map.

    A sample is the weighted sum of four rows, and a cell that of its samples': a bag of an embedding. Channels-last
    maps are such tables as they lie in memory, and torchvision's kernel would copy them first.
    """
    tables = [features.permute(0, 2, 3, 1).flatten(0, 2) for features in maps]
    indices, weights = _rows_read([features.shape for features in maps], regions, level, scales, size, *numbers)
    table = tables[0] if len(tables) == 1 else torch.cat(tables)
    pooled = F.embedding_bag(indices, table, per_sample_weights=weights, mode="sum")
    return pooled.view(len(regions), size, size, maps[0].shape[1]).permute(0, 3, 1, 2).contiguous()  # as is promised


def _spread_rows(
    gradient: Tensor, regions: Tensor, level: Tensor, scales: list[float], shapes: list[int], size: int, *numbers
) -> list[Tensor]:
    """The gradient of `_sum_rows`, channels-last maps: a sparse matrix of its weights times the gradients of cells."""
    of_maps = [shapes[start : start + 4] for start in range(0, len(shapes), 4)]
    indices, weights = _rows_read(of_maps, regions, level, scales, size, *numbers)
    cells = gradient.permute(0, 2, 3, 1).flatten(0, 2)  # (R * size * size, C)
    lengths = [images * height * width for images, _, height, width in of_maps]
    places = torch.stack([indices.flatten(), torch.arange(len(cells)).repeat_interleave(indices.shape[1])])
    spread = torch.sparse_coo_tensor(places, weights.flatten(), (sum(lengths), len(cells)), check_invariants=False)
    tables = torch.sparse.mm(spread, cells).split(lengths)
    sizes = [(images, height, width, channels) for images, channels, height, width in of_maps]
    return [table.view(size).permute(0, 3, 1, 2) for table, size in zip(tables, sizes, strict=True)]


def _rows_read(
    shapes: Sequence[Sequence[int]], regions: Tensor, level: Tensor, scales: list[float], size: int, *numbers
) -> tuple[Tensor, Tensor]:
    """The rows of the table of maps (N, C, h, w) that each cell sums, and their weights: (R * size * size, samples)."""
    heights, widths = torch.tensor([shape[2:] for shape in shapes])[level].unbind(1)
    starts = torch.tensor([0, *(images * height * width for images, _, height, width in shapes)]).cumsum(0)
    ends = regions[:, 1:] * torch.tensor(scales)[level, None]
    rows, row_weights = _bilinear(ends[:, 1::2], heights, size, *numbers)
    columns, column_weights = _bilinear(ends[:, ::2], widths, size, *numbers)
    rows += (regions[:, 0].to(torch.int64) * heights)[:, None, None]  # behind the images before
    rows = rows * widths[:, None, None] + starts[level, None, None]
    indices = rows[:, :, None, :, None] + columns[:, None, :, None, :]  # (R, size, size, 2 * sampling, 2 * sampling)
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    return indices.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2)


def _bilinear(ends: Tensor, lengths: Tensor, cells: int, sampling: int, aligned: bool) -> tuple[Tensor, Tensor]:
    """Along one axis: the two features beside each sample of a cell, and the share of each in the cell's mean.

    ends     (R, 2): where the regions begin and end, in features
    lengths  (R,): of the maps they are read from, in features
    returns indices and weights (R, cells, 2 * sampling); the weights of samples beyond the features are 0
    """
    start, end = (ends - 0.5 if aligned else ends)[..., None, None].unbind(1)  # (R, 1, 1)
    length = lengths[:, None, None]
    cell = (end - start if aligned else (end - start).clamp(min=1.0)) / cells
    number, sample = torch.arange(cells)[:, None], torch.arange(sampling) + 0.5
    at = start + number * cell + sample * cell / sampling
    inside = (at >= -1) & (at <= length)
    at = torch.where(inside, at, 0.0).clamp(min=0).minimum(length - 1)
    low = at.to(torch.int64)
    share = at - low
    index = torch.stack([low, (low + 1).minimum(length - 1)], -1)
    weights = torch.stack([1 - share, share], -1) * inside[..., None] / sampling
    return index.flatten(2), weights.flatten(2)


def _only(here: Tensor, regions: Tensor) -> Tensor:
    """Regions (R, 5) of which all but those chosen (R,) lie far outside of any map, where nothing is read."""
    image, boxes = regions.split_with_sizes([1, 4], 1)
    return torch.cat([image, torch.where(here[:, None], boxes, -1e6)], 1)


def _ps_roi_align(
    maps: Tensor, regions: Tensor, scale: float, size: int, _: int, sampling: int
) -> tuple[Tensor, Tensor]:
    """As torchvision's operator, whose kernel for CUDA waits for the device: RoI align with a region for each cell.

    The channels that a cell reads are an image of their own.
    """
    cells, channels = size * size, maps.shape[1] // (size * size)
    images = maps.unflatten(1, (channels, cells)).transpose(1, 2).flatten(0, 1)  # (N * cells, channels, h, w)
    image, corner, end = regions.split_with_sizes([1, 2, 2], 1)
    number = torch.arange(cells, device=regions.device)
    column_row = torch.stack([number % size, number // size], 1)  # (cells, 2)
    side = (end - corner)[:, None] / size
    starts = corner[:, None] + column_row * side  # (R, cells, 2)
    of_cells = torch.cat([image[:, None] * cells + number[:, None], starts, starts + side], 2)
    pooled = torch.ops.torchvision.roi_align(images, of_cells.flatten(0, 1), scale, 1, 1, sampling, True)
    pooled = pooled.view(len(regions), cells, channels).transpose(1, 2).unflatten(2, (size, size))
    sources = torch.arange(maps.shape[1], dtype=torch.int32, device=maps.device).view(channels, size, size)
    return pooled.contiguous(), sources.expand(pooled.shape).contiguous()


def _define_pooling(name: str, options: str = "", *, sensitive: bool = False, returns_sources: bool = True) -> None:
    """`boxwright::name` and its gradient over a pyramid, by torchvision's operators of that name for one map.

    maps             a tensor (N, C, h, w) per level
    regions          (R, 5): image, then a box in pixels
    level            (R,): the map each region is read from
    scales           of each map: features per pixel
    size             cells per side; out come (R, C, size, size)
    options          further numbers that torchvision's operator takes, as they stand in a schema
    sensitive        position-sensitive: each of the size * size cells reads channels of its own, C // (size * size)
                     come out
    returns_sources  a second result of the same shape: the feature or channel that each number came from
    """

    def empty(maps: list[Tensor], regions: Tensor, size: int) -> tuple[Tensor, ...]:
        channels = maps[0].shape[1] // (size * size if sensitive else 1)
        pooled = maps[0].new_empty(regions.shape[0], channels, size, size)
        return (pooled, torch.empty_like(pooled, dtype=torch.int32)) if returns_sources else (pooled,)

    def sums_rows(tensor: Tensor, *numbers: int) -> bool:
        """Whether this is RoI align on a CPU with a fixed number of samples, which `_sum_rows` computes."""
        return name == "roi_align" and tensor.is_cpu and numbers[0] > 0

    def forward(maps: list[Tensor], regions: Tensor, level: Tensor, scales: list[float], size: int, *numbers):
        if not maps[0].is_contiguous() and sums_rows(maps[0], *numbers):  # channels-last
            return _sum_rows(maps, regions, level, scales, size, *numbers)
        load_compiled_ops()
        kernel = getattr(torch.ops.torchvision, name)
        if len(maps) == 1:
            return kernel(maps[0], regions, scales[0], size, size, *numbers)
        results = empty(maps, regions, size)
        for index, (features, scale) in enumerate(zip(maps, scales, strict=True)):
            rows = (level == index).nonzero()[:, 0]
            parts = kernel(features, regions[rows], scale, size, size, *numbers)
            for result, part in zip(results, parts if returns_sources else (parts,), strict=True):
                result[rows] = part
        return results if returns_sources else results[0]

    def static_forward(maps: list[Tensor], regions: Tensor, level: Tensor, scales: list[float], size: int, *numbers):
        """As `forward`: every level pools all regions, those of other levels far outside of its map, which is fast."""
        load_compiled_ops()
        kernel: Callable = _ps_roi_align if name == "ps_roi_align" else getattr(torch.ops.torchvision, name)
        results: list[Tensor] = []
        for index, (features, scale) in enumerate(zip(maps, scales, strict=True)):
            here = level == index
            parts = kernel(features, _only(here, regions), scale, size, size, *numbers)
            parts = list(parts) if returns_sources else [parts]
            pairs = zip(parts, results, strict=True)
            results = [torch.where(here[:, None, None, None], *pair) for pair in pairs] if index else parts
        return tuple(results) if returns_sources else results[0]

    def shape_of_forward(maps: list[Tensor], regions: Tensor, level: Tensor, scales: list[float], size: int, *_):
        results = empty(maps, regions, size)
        return results if returns_sources else results[0]

    def gradients_by(choose: Callable, gradient: Tensor, regions: Tensor, level: Tensor, *rest) -> list[Tensor]:
        """Of each map, by torchvision's kernel; `choose` takes a level's part of gradient, regions and sources."""
        load_compiled_ops()
        kernel = getattr(torch.ops.torchvision, f"_{name}_backward")
        sources, (scales, shapes, size, *numbers) = rest[:returns_sources], rest[returns_sources:]
        gradients = []
        for index, scale in enumerate(scales):
            shape = shapes[4 * index : 4 * index + 4]
            tail = (*numbers, *shape) if returns_sources else (*shape, *numbers)  # torchvision's orders
            chosen = choose(level == index, gradient, regions, *sources)
            gradients.append(kernel(*chosen, scale, size, size, *tail))
        return gradients

    def backward(gradient: Tensor, *rest) -> list[Tensor]:
        """The gradient (R, C, size, size) to those of the maps; `shapes` has four numbers for each of them."""
        if sums_rows(gradient, *rest[5:]):
            return _spread_rows(gradient, *rest)
        return gradients_by(lambda here, *tensors: [tensor[here] for tensor in tensors], gradient, *rest)

    def static_backward(*given) -> list[Tensor]:
        def choose(here: Tensor, gradient: Tensor, regions: Tensor, *sources: Tensor) -> tuple[Tensor, ...]:
            of_level = (s if sensitive else torch.where(here[:, None, None, None], s, -1) for s in sources)
            return gradient, _only(here, regions), *of_level

        return gradients_by(choose, *given)

    def shape_of_backward(gradient: Tensor, *rest) -> list[Tensor]:
        shapes = rest[returns_sources + 3]
        empty = [gradient.new_empty(shapes[start : start + 4]) for start in range(0, len(shapes), 4)]
        if sums_rows(gradient, *rest[5:]):
            return [features.contiguous(memory_format=torch.channels_last) for features in empty]
        return empty

    def save(ctx, inputs: tuple, output: Tensor | tuple[Tensor, Tensor]) -> None:
        maps, regions, level, *ctx.numbers = inputs
        ctx.shapes = [number for features in maps for number in features.shape]
        ctx.save_for_backward(regions, level, *output[1:] if returns_sources else ())

    def differentiate(ctx, gradient: Tensor, *_) -> tuple:
        operator = getattr(torch.ops.boxwright, f"{name}_backward")
        scales, *rest = ctx.numbers
        gradients = operator(gradient, *ctx.saved_tensors, scales, ctx.shapes, *rest)
        return gradients, None, None, *(None for _ in ctx.numbers)

    sources = " Tensor sources," if returns_sources else ""
    results = "(Tensor, Tensor)" if returns_sources else "Tensor"
    _library.define(
        f"{name}(Tensor[] maps, Tensor regions, Tensor level, float[] scales, int size{options}) -> {results}"
    )
    _library.define(
        f"{name}_backward(Tensor gradient, Tensor regions, Tensor level,{sources} float[] scales, SymInt[] shapes,"
        f" int size{options}) -> Tensor[]"
    )
    _library.impl(name, forward, "CompositeExplicitAutograd")
    _library.impl(f"{name}_backward", backward, "CompositeExplicitAutograd")
    _library.impl(name, static_forward, "CUDA")
    _library.impl(f"{name}_backward", static_backward, "CUDA")
    torch.library.register_fake(f"boxwright::{name}", shape_of_forward, lib=_library)
    torch.library.register_fake(f"boxwright::{name}_backward", shape_of_backward, lib=_library)
    torch.library.register_autograd(f"boxwright::{name}", differentiate, setup_context=save, lib=_library)


_define_pooling("roi_align", ", int sampling, bool aligned", returns_sources=False)
_define_pooling("roi_pool")
_define_pooling("ps_roi_align", ", int sampling", sensitive=True)
_define_pooling("ps_roi_pool", sensitive=True)
