"""What is known of other libraries' detectors: by full name, such as torchvision:fcos_resnet50_fpn.

A source is a module that has
    PUBLISHED                    name to `Published`, told without importing torch
    cached(published)            where its own library keeps the published file
    foreign(name)                the `Foreign` of that name
    read(path)                   the state dict in a file, executing nothing; raises `ForeignError`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from boxwright.data.preprocess import Preprocess
    from boxwright.detectors.config import DetectorConfig
    from boxwright.types import Detections

    State = dict[str, Tensor]
    Answer = Callable[[Sequence[np.ndarray]], list[Detections]]

SOURCES = {"torchvision": "boxwright.zoo.torchvision", "detectron2": "boxwright.zoo.detectron2"}


class ForeignError(ValueError):
    """These weights cannot be used; the message says why, in the names of the library they come from."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Weights that another library offers.

    name      the full name, source:model
    file      the published file's name
    url       where it is published
    licence   of the weights, as far as is known
    sha256    of the file, or its first digits; "" where nobody says
    norm_eps  of the batch norms, where this file wants another than its library's builder gives
    """

    name: str
    file: str
    url: str
    licence: str
    sha256: str = ""
    norm_eps: float | None = None


@dataclass(frozen=True, kw_only=True)
class Foreign(Published):
    """A detector of another library as one of ours.

    config      the value of `KINDS` that is the same function
    preprocess  what the library does to an image
    names       the classes of the published weights, in the order of our columns
    convert     a state dict of theirs and its number of classes (ours: without background) to ours
    threshold   the lowest score that the library itself gives
    classes     the number of classes of a state dict of theirs; None where it is always that of `names`
    reference   a state dict of theirs and its number of classes to the library's own model: RGB images, uint8
                (H, W, 3), to detections in their pixels, labels as ours; None where the library is not at hand
    """

    config: DetectorConfig
    preprocess: Preprocess
    names: tuple[str, ...]
    convert: Callable[[State, int], State]
    threshold: float = 0.05
    classes: Callable[[State], int] | None = None
    reference: Callable[[State, int], Answer] | None = None


def published() -> dict[str, Published]:
    """All that is known, by full name. Imports no torch."""
    return {about.name: about for source in SOURCES for about in module_of(source).PUBLISHED.values()}


def is_foreign(name: str) -> bool:
    """Whether the name begins with that of a source."""
    return name.partition(":")[0] in SOURCES and ":" in name


def look_up(name: str) -> Published:
    """Raises ForeignError with the names that are near."""
    source, colon, _ = name.partition(":")
    if source not in SOURCES or not colon:
        raise ForeignError(f"expected source:model with the source one of {', '.join(SOURCES)}, got '{name}'")
    known = {about.name: about for about in module_of(source).PUBLISHED.values()}
    if name not in known:
        near = get_close_matches(name, known, n=3) or sorted(known)
        raise ForeignError(f"there is no '{name}'; did you mean {' or '.join(near)}?")
    return known[name]


def module_of(name: str) -> ModuleType:
    """The module of a source, or of the source that a full name begins with."""
    return import_module(SOURCES[name.partition(":")[0]])


def check(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Raises ForeignError where names or shapes differ; both in the names of the library they come from."""
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    shapes = [
        f"{key} of {tuple(found[key].shape)} rather than {tuple(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    wrong = [("missing", missing), ("not expected", extra), ("of another shape", shapes)]
    if said := [f"{len(keys)} {how} ({_few(keys)})" for how, keys in wrong if keys]:
        raise ForeignError(f"these are not the weights of {what}, which has {len(wanted)} tensors: {', '.join(said)}")


def _few(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
