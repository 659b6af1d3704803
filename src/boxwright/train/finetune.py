"""Fine-tuning: weights of a trained detector into a new one, the heads' rows by the names of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from boxwright.checkpoint import Loaded
from boxwright.detectors import Detector, FasterRCNN
from boxwright.detectors.anchor_stage import AnchorHead
from boxwright.detectors.base import Features
from boxwright.detectors.r_fcn import ScoreMaps
from boxwright.detectors.region_stage import RegionHead
from boxwright.detectors.sliding_window import WindowHead

_FEW = 12  # names that a report spells out


@dataclass(frozen=True)
class Transfer:
    """What a detector has from another.

    kept      classes whose rows it took
    started   classes that it learns from nothing
    dropped   classes of the other that it does not know
    renamed   how the other spells a class that was kept, where that differs
    taken     tensors taken, whole or in rows
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
        parts = [f"kept: {_listed(kept)}", f"started: {_listed(self.started)}", f"left behind: {_listed(self.dropped)}"]
        if self.left:
            parts.append(f"{len(self.left)} tensors start anew ({self.left[0]}, ...), {len(self.taken)} do not")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; of the tensors taken only how many."""
        return {
            "kept": list(self.kept),
            "started": list(self.started),
            "dropped": list(self.dropped),
            "renamed": self.renamed,
            "taken": len(self.taken),
            "left": list(self.left),
        }


class Rows(NamedTuple):
    """How the output channels of a layer lie: `outer` times `columns` times `inner`.

    A column is a class, background (the last), or all classes at once. Outer are the anchors of a cell; inner are the
    numbers of a class: 1 logit or 4 deltas, times the cells of a region in R-FCN.
    """

    outer: int
    columns: int
    inner: int


def class_rows(detector: Detector) -> dict[str, Rows]:
    """The layers with outputs per class, by name. Those of a region proposal network are none of them."""
    of_proposals = detector.proposer.head if isinstance(detector, FasterRCNN) else None
    layers: dict[str, Rows] = {}
    for name, module in detector.named_modules():
        if module is of_proposals:
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
    """Copy from `source` into a detector for the classes `names` every layer that fits.

    Layers are matched by name and shape. Where both have a row for every class, rows are matched by the name of the
    class, and that of the background goes to the background; box predictions for all classes at once are copied whole.
    The rest keeps its values. Names are the same if they are equal, or else but for case, spaces, - and _.

    A detector of another kind takes the features: the backbone, and the pyramid where it is the same.

    Raises ValueError, with the detector as it was, where its backbone is another: the rest is of no use without it.
    """
    new, old = detector.state_dict(), _offered(source.detector, detector)
    _check_backbone(new, old, detector, source)
    same = same_names(names, source.names)
    pairs = [(names.index(name), source.names.index(other)) for name, other in same.items()]
    mine, theirs = class_rows(detector), class_rows(source.detector)
    taken: set[str] = set()
    by_class = False
    for layer, keys in _layers(new).items():
        tensors = [(new[key], old[key]) for key in keys if key in old]
        if not tensors:
            continue
        rows, before = mine.get(layer), theirs.get(layer)
        if rows and before and _has_classes(rows, len(names), before, len(source.names)):
            background = [(-1, -1)] if rows.columns > len(names) else []
            took = _copy_rows(tensors, rows, before, pairs + background)
            by_class = by_class or (took and layer.endswith("logits"))
        else:
            took = _copy(tensors)
        if took:
            taken.update(key for key in keys if key in old)
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
    """Which of `names` are among `others`, and how they are spelled there.

    A name that is there takes its own. Of what remains, names are the same that differ in case, spaces, - and _ only:
    traffic_light and "traffic light", Dining Table and diningtable.
    """
    same = {name: name for name in names if name in others}
    remaining = {_bare(other): other for other in reversed(others) if other not in same}
    for name in names:
        if name not in same and _bare(name) in remaining:
            same[name] = remaining.pop(_bare(name))
    return {name: same[name] for name in names if name in same}


def _bare(name: str) -> str:
    return "".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _has_classes(rows: Rows, num_classes: int, before: Rows, num_classes_before: int) -> bool:
    """Whether both have a column for each class, and both or neither one of background.

    With one class on both sides, a single column of boxes may mean all classes; then it is the same to both.
    """
    background = rows.columns - num_classes
    one_box = rows.columns == before.columns == 1 and rows.inner > 1
    return background in (0, 1) and background == before.columns - num_classes_before and not one_box


def _copy_rows(tensors: list[tuple[Tensor, Tensor]], rows: Rows, before: Rows, pairs: list[tuple[int, int]]) -> bool:
    """The columns that `pairs` name, ours and theirs, of each (ours, theirs), unless something does not fit."""
    if (rows.outer, rows.inner) != (before.outer, before.inner):
        return False
    if any(value.shape[1:] != other.shape[1:] for value, other in tensors):
        return False
    for value, other in tensors:
        ours, theirs = value.unflatten(0, rows), other.unflatten(0, before)
        for column, column_before in pairs:
            ours[:, column] = theirs[:, column_before]
    return True


def _copy(tensors: list[tuple[Tensor, Tensor]]) -> bool:
    """Each (ours, theirs) whole, unless one does not fit: a bias is of no use without its weight."""
    if any(value.shape != other.shape for value, other in tensors):
        return False
    for value, other in tensors:
        value.copy_(other)
    return True


def _layers(state: dict[str, Tensor]) -> dict[str, list[str]]:
    """The keys of a state dict by the module that has them."""
    layers: dict[str, list[str]] = {}
    for key in state:
        layers.setdefault(key.rpartition(".")[0], []).append(key)
    return layers


def _offered(source: Detector, detector: Detector) -> dict[str, Tensor]:
    """What `source` has for `detector`: all, or its features under the name that they have there."""
    state = source.state_dict()
    if type(source) is type(detector):
        return state
    before, after = (f"{_name_of_features(each)}." for each in (source, detector))
    return {after + key.removeprefix(before): value for key, value in state.items() if key.startswith(before)}


def _name_of_features(detector: Detector) -> str:
    return next((name for name, module in detector.named_modules() if isinstance(module, Features)), "features")


def _check_backbone(new: dict[str, Tensor], old: dict[str, Tensor], detector: Detector, source: Loaded) -> None:
    start = f"{_name_of_features(detector)}.backbone."
    wanted = {key: value.shape for key, value in new.items() if key.startswith(start) and value.is_floating_point()}
    missing = [key for key, shape in wanted.items() if key not in old or old[key].shape != shape]
    if missing:
        had = source.config
        raise ValueError(
            f"{len(missing)} of the {len(wanted)} tensors of the backbone ({missing[0]}, ...) are not in the "
            f"{type(source.detector).__name__} to start from: give the detector its backbone, {had.backbone} with "
            f"levels {' '.join(map(str, had.levels))}, or none, which takes its whole config"
        )


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} classes" if len(names) > _FEW else ", ".join(names) or "none"
