"""Detectors of other libraries, by full name such as torchvision:fcos_resnet50_fpn.

A source is a module with
    PUBLISHED                    name to `Published`, without importing torch
    cached(published)            the path at which its own library caches the published file
    foreign(name, arguments)     the `Foreign` of that name, as built with these `Arguments`
    read(path)                   the tensors in a file by name, executing nothing; raises `ForeignError`
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

from boxwright.units import shown

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from boxwright.data.preprocess import Preprocess
    from boxwright.detectors.config import DetectorConfig
    from boxwright.types import Detections

    State = dict[str, Tensor]
    Detect = Callable[[Sequence[np.ndarray]], list[Detections]]
    """From a batch of images, uint8 RGB (H, W, 3), to the detections in each, in its pixels."""

SOURCES = {"torchvision": "boxwright.zoo.torchvision", "detectron2": "boxwright.zoo.detectron2"}


class ForeignError(ValueError):
    """These weights cannot be used; the message says why, with the original library's names of tensors."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What the original model was built with, where it is not its library's default: a state dict does not say it.

    min_size, max_size  pixels: what the shorter side of an image becomes, and how long the longer one may become
    anchor_sizes        pixels: the sides of the anchors, level by level, equally many on each
    aspect_ratios       height over width of the anchors, the same on all levels
    mean, std           of the pixels, as the library has them: red, green, blue in 0..1 in torchvision; blue, green,
                        red in 0..255 in Detectron2
    norm_eps            epsilon of the batch norms
    """

    min_size: int | None = None
    max_size: int | None = None
    anchor_sizes: tuple[float, ...] = ()
    aspect_ratios: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    norm_eps: float | None = None

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (0, 3):
                raise ForeignError(f"{name} takes three numbers, one for each colour; got {len(values)}")
        for name, pixels in (("min_size", self.min_size), ("max_size", self.max_size)):
            if pixels is not None and pixels < 1:
                raise ForeignError(f"{name} is a number of pixels, 1 or more; got {pixels}")
        if min((*self.std, *self.anchor_sizes, *self.aspect_ratios, 1.0)) <= 0:
            raise ForeignError("std, anchor_sizes and aspect_ratios are greater than 0")

    @classmethod
    def of(cls, origin: Mapping[str, Any]) -> Self:
        """Those in the metadata of a checkpoint."""
        known = {field.name: origin[field.name] for field in fields(cls) if field.name in origin}
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in known.items()
        }
        return cls(**values)

    def given(self) -> dict[str, Any]:
        """Those that are not the library's default."""
        return {name: value for name, value in asdict(self).items() if value not in (None, ())}

    def options(self, pixels: Callable[[tuple[float, ...]], tuple[float, ...]]) -> dict[str, Any]:
        """As options of a config. `pixels` makes of `mean` and `std` those of red, green and blue in 0..255."""
        options = {"anchor_sizes": self.anchor_sizes, "aspect_ratios": self.aspect_ratios}
        options |= {"pixel_mean": pixels(self.mean), "pixel_std": pixels(self.std)}
        return {name: value for name, value in options.items() if value}

    def refuse(self, model: str, *names: str) -> None:
        """Raises ForeignError where one of these is given: this model has it fixed."""
        if fixed := [name for name in names if name in self.given()]:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in fixed)
            raise ForeignError(f"{', '.join(fixed)} of {model} is fixed; leave out {options}")


@dataclass(frozen=True, kw_only=True)
class Published:
    """Published weights of another library.

    name      the full name, source:model
    file      the published file's name
    url       its address
    licence   of the weights, as far as is known
    sha256    of the file, or its first digits; "" if not published
    norm_eps  epsilon of the batch norms, if this file needs another than its library's builder sets
    """

    name: str
    file: str
    url: str
    licence: str
    sha256: str = ""
    norm_eps: float | None = None


@dataclass(frozen=True, kw_only=True)
class Foreign(Published):
    """A detector of another library, and how to convert it.

    config         builds the detector here that computes the same function
    preprocess     as the library preprocesses images
    names          the classes of the published weights, in the order of labels here
    logits         the original name of the weight of the classification layer, by which weights are found in a file
    convert        from an original state dict and its number of classes (without background) to that of `config`
    threshold      the library's own score threshold
    count_classes  the number of classes of an original state dict
    first_label    the library's label of class 0
    reference      from an original state dict and its number of classes to the library's own model, with labels as
                   here; raises ImportError if the library is not available
    """

    config: DetectorConfig
    preprocess: Preprocess
    names: tuple[str, ...]
    logits: str
    convert: Callable[[State, int], State]
    count_classes: Callable[[State], int]
    reference: Callable[[State, int], Detect]
    threshold: float = 0.05
    first_label: int = 0


def published() -> dict[str, Published]:
    """All known weights, by full name. Imports no torch."""
    return {about.name: about for source in SOURCES for about in module_of(source).PUBLISHED.values()}


def is_foreign(name: str) -> bool:
    """Whether the name starts with that of a source."""
    return name.partition(":")[0] in SOURCES and ":" in name


def look_up(name: str) -> Published:
    """Raises ForeignError for an unknown name, with similar ones."""
    source, colon, _ = name.partition(":")
    if source not in SOURCES or not colon:
        raise ForeignError(f"expected source:model with the source one of {', '.join(SOURCES)}, got '{name}'")
    known = {about.name: about for about in module_of(source).PUBLISHED.values()}
    if name not in known:
        near = get_close_matches(name, known, n=3) or sorted(known)
        raise ForeignError(f"there is no '{name}'; did you mean {' or '.join(near)}?")
    return known[name]


def module_of(name: str) -> ModuleType:
    """The module of a source, or of the source in a full name."""
    return import_module(SOURCES[name.partition(":")[0]])


def check(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raises ForeignError if names or shapes of tensors differ; both state dicts have the original library's names."""
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    shapes = [
        f"{key} of {tuple(state[key].shape)} rather than {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    wrong = [("missing", missing), ("not expected", extra), ("of another shape", shapes)]
    if faults := [f"{len(keys)} {how} ({few(keys)})" for how, keys in wrong if keys]:
        only_heads = not (missing or extra) and all(
            re.match(r"(proposal_generator\.rpn_|rpn\.)?head\.", key) for key in shapes
        )
        hint = "; for other anchors give --anchor-sizes and --aspect-ratios" if only_heads else ""
        raise ForeignError(f"not the weights of {what}, which has {len(expected)} tensors: {', '.join(faults)}{hint}")


def rows(value: Tensor) -> int:
    """How many rows a tensor has; 0 for a single number."""
    return len(value) if value.dim() else 0


def few(keys: Sequence[str]) -> str:
    """The first three."""
    return ", ".join(map(shown, keys[:3])) + (", ..." if len(keys) > 3 else "")
