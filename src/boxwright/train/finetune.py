"""Fine-tuning: copies the weights of a trained detector into a new one, rows of the heads by class name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from boxwright.backbones.features import Features
from boxwright.checkpoint import Loaded
from boxwright.detectors import Detector, FasterRCNN
from boxwright.detectors.anchor_stage import AnchorHead
from boxwright.detectors.fields import BackboneFields
from boxwright.detectors.r_fcn import ScoreMaps
from boxwright.detectors.region_stage import RegionHead
from boxwright.detectors.sliding_window import WindowHead

_MAX_LISTED = 12  # names that a report lists


@dataclass(frozen=True)
class Transfer:
    """What was copied from a source detector.

    kept      classes whose rows were copied
    started   classes that keep their initial values
    dropped   classes of the source that are not among the new ones
    renamed   the source's spelling of a kept class, where it differs
    taken     tensors copied, whole or in rows
    left      tensors that keep their initial values
    """

    kept: tuple[str, ...]
    started: tuple[str, ...]
    dropped: tuple[str, ...]
    renamed: dict[str, str]
    taken: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        kept = [f"{name} ('{self.renamed[name]}')" if name in self.renamed else name for name in self.kept]
        parts = [f"kept: {_listed(kept)}", f"initialized: {_listed(self.started)}", f"dropped: {_listed(self.dropped)}"]
        if self.left:
            parts.append(f"{len(self.left)} tensors initialized ({self.left[0]}, ...), {len(self.taken)} copied")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; of the tensors taken only their number."""
        return asdict(self) | {"taken": len(self.taken)}


class Rows(NamedTuple):
    """The layout of a layer's output channels: `outer` x `columns` x `inner`.

    A column is a class, background (the last), or all classes at once. Outer: the anchors of a cell. Inner: 1 logit or
    4 deltas, times the cells of a region in R-FCN.
    """

    outer: int
    columns: int
    inner: int


def class_rows(detector: Detector) -> dict[str, Rows]:
    """The layers with outputs per class, by name, without those of a region proposal network."""
    rpn_head = detector.proposer.head if isinstance(detector, FasterRCNN) else None
    layers: dict[str, Rows] = {}
    for name, module in detector.named_modules():
        if module is rpn_head:
            continue
        match module:
            case AnchorHead():
                anchors = module.logits.out_channels // module.columns
                rows = Rows(anchors, module.columns, 1), Rows(anchors, module.boxes, 4)
            case RegionHead():
                rows = Rows(1, module.logits.out_features, 1), Rows(1, module.deltas.out_features // 4, 4)
            case ScoreMaps():
                cells = module.pool.size**2
                columns, boxes = module.logits.out_channels // cells, module.deltas.out_channels // (4 * cells)
                rows = Rows(1, columns, cells), Rows(1, boxes, 4 * cells)
            case WindowHead():
                rows = (Rows(1, module.logits.out_channels, 1),)
            case _:
                continue
        layers |= {f"{name}.{layer}": outputs for layer, outputs in zip(("logits", "deltas"), rows, strict=False)}
    return layers


@torch.no_grad()
def transfer(detector: Detector, names: Sequence[str], source: Loaded) -> Transfer:
    """Copy every layer that fits from `source` into a detector for the classes `names`.

    Layers are matched by name and shape. Where both have a row for every class, rows are matched by class name, and
    background by background; box predictions for all classes at once are copied whole. The rest keeps its values.

    A detector of another kind takes the features: the backbone, and the pyramid where it is the same.

    Raises ValueError, before anything is copied, where the backbones differ.
    """
    new, old = detector.state_dict(), _offered(source.detector, detector)
    _check_backbone(new, old, detector, source)
    same = same_names(names, source.names)
    pairs = [(names.index(name), source.names.index(other)) for name, other in same.items()]
    rows_new, rows_old = class_rows(detector), class_rows(source.detector)
    layers: dict[str, list[str]] = {}  # the keys that both have
    for key in new:
        if key in old:
            layers.setdefault(key.rpartition(".")[0], []).append(key)
    taken: set[str] = set()
    by_class = False
    for layer, keys in layers.items():
        tensors = [(new[key], old[key]) for key in keys]
        rows, before = rows_new.get(layer), rows_old.get(layer)
        if rows and before and _has_classes(rows, len(names), before, len(source.names)):
            background = [(-1, -1)] if rows.columns > len(names) else []
            copied = _copy_rows(tensors, rows, before, pairs + background)
            by_class = by_class or (copied and layer.endswith("logits"))
        else:
            copied = _copy(tensors)
        if copied:
            taken.update(keys)
    if not by_class:
        same = {}
    return Transfer(
        kept=tuple(same),
        started=tuple(name for name in names if name not in same),
        dropped=tuple(name for name in source.names if name not in same.values()),
        renamed={name: other for name, other in same.items() if name != other},
        taken=tuple(key for key in new if key in taken),
        left=tuple(key for key, value in new.items() if key not in taken and value.is_floating_point()),
    )


def same_names(names: Sequence[str], others: Sequence[str]) -> dict[str, str]:
    """Those of `names` that are among `others`, and their spelling there.

    Equal names are matched first, then names that differ only in case, spaces, - and _: Dining Table and diningtable.
    """
    same = {name: name for name in names if name in others}
    remaining = {_bare(other): other for other in reversed(others) if other not in same}
    for name in names:
        if name not in same and _bare(name) in remaining:
            same[name] = remaining.pop(_bare(name))
    return {name: same[name] for name in names if name in same}


def _bare(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.casefold())


def _has_classes(rows: Rows, num_classes: int, before: Rows, num_classes_before: int) -> bool:
    """Whether both have a column for each class, and both or neither one of background.

    A single column of boxes on both sides, which may mean all classes, is not counted as one of a class.
    """
    background = rows.columns - num_classes
    one_box = rows.columns == before.columns == 1 and rows.inner > 1
    return background in (0, 1) and background == before.columns - num_classes_before and not one_box


def _copy_rows(tensors: list[tuple[Tensor, Tensor]], rows: Rows, before: Rows, pairs: list[tuple[int, int]]) -> bool:
    """Copy columns by `pairs` of indices (new, old) for each (new, old) tensor; nothing where one does not fit."""
    if (rows.outer, rows.inner) != (before.outer, before.inner):
        return False
    if any(new.shape[1:] != old.shape[1:] for new, old in tensors):
        return False
    for new, old in tensors:
        for column, column_before in pairs:
            new.unflatten(0, rows)[:, column] = old.unflatten(0, before)[:, column_before]
    return True


def _copy(tensors: list[tuple[Tensor, Tensor]]) -> bool:
    """Copy each (new, old) whole; nothing where one does not fit, as a bias is of no use without its weight."""
    if any(new.shape != old.shape for new, old in tensors):
        return False
    for new, old in tensors:
        new.copy_(old)
    return True


def _offered(source: Detector, detector: Detector) -> dict[str, Tensor]:
    """The state dict of `source` for `detector`: all, or its features under the name that they have there."""
    state = source.state_dict()
    if type(source) is type(detector):
        return state
    before, after = (f"{_name_of_features(model)}." for model in (source, detector))
    return {after + key.removeprefix(before): value for key, value in state.items() if key.startswith(before)}


def _name_of_features(detector: Detector) -> str:
    return next((name for name, module in detector.named_modules() if isinstance(module, Features)), "features")


def _check_backbone(new: dict[str, Tensor], old: dict[str, Tensor], detector: Detector, source: Loaded) -> None:
    start = f"{_name_of_features(detector)}.backbone."
    shapes = {key: value.shape for key, value in new.items() if key.startswith(start) and value.is_floating_point()}
    missing = [key for key, shape in shapes.items() if key not in old or old[key].shape != shape]
    if missing:
        config = source.config
        same = "name no detector, which takes its whole config"
        if isinstance(config, BackboneFields):
            backbone = f"{config.backbone} with levels {' '.join(map(str, config.levels))}"
            same = f"give the detector its backbone, {backbone}, or none, which takes its whole config"
        raise ValueError(
            f"{len(missing)} of the {len(shapes)} tensors of the backbone ({missing[0]}, ...) are not in the "
            f"{type(source.detector).__name__} to start from: {same}"
        )


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} classes" if len(names) > _MAX_LISTED else ", ".join(names) or "none"
