"""The cells of a race: a grid of meta-architectures, backbones, input sizes and numbers of proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from typing import Any

from boxwright.data.preprocess import Preprocess
from boxwright.detectors import DETECTORS
from boxwright.detectors.config import DetectorConfig, name_of
from boxwright.detectors.fields import BackboneFields

_LONGEST = 1.3  # times the shorter side, as `boxwright train` has it: 320 to 416 pixels


@dataclass(frozen=True)
class Cell:
    """A detector to be trained and raced: meta-architecture x backbone x input size x number of proposals.

    name        unique in a race; also the name of its folder
    config      of the detector
    preprocess  how images are resized
    """

    name: str
    config: DetectorConfig
    preprocess: Preprocess

    @property
    def detector(self) -> str:
        return name_of(self.config)

    @property
    def backbone(self) -> str:
        """ "" for a detector that has none."""
        return self.config.backbone if isinstance(self.config, BackboneFields) else ""

    @property
    def size(self) -> int:
        """The shorter side of an image, in pixels."""
        size = self.preprocess
        return {"short_side": size.short, "long_side": size.long}.get(size.mode, min(size.height, size.width))

    @property
    def proposals(self) -> int | None:
        """None for a detector that has none."""
        return getattr(self.config, "proposals", None)


def grid(
    detectors: Sequence[str],
    backbones: Sequence[str] = ("efficientnet_lite0",),
    sizes: Sequence[int] = (320,),
    proposals: Sequence[int] = (),
) -> list[Cell]:
    """Every detector at every size, with every backbone and every number of proposals where it has such.

    sizes      shorter sides in pixels; the longer side is 1.3 times that at most
    proposals  each detector's own number if empty

    Raises ValueError for an unknown detector or backbone, and for cells that are the same.
    """
    unknown = [name for name in detectors if name not in DETECTORS]
    if unknown or not detectors:
        raise ValueError(f"detectors are some of {', '.join(DETECTORS)}; got {', '.join(unknown) or 'none'}")
    for what, least, values in (("sizes", 32, sizes), ("proposals", 1, proposals)):
        if any(value < least for value in values):
            raise ValueError(f"{what} are {least} or more, got {' '.join(map(str, values))}")
    from boxwright.backbones.build import BACKBONES  # imports torch, which the errors above do without

    for name in (name for name in backbones if name not in BACKBONES):
        import timm

        if not timm.is_model(name.removeprefix("timm:").partition(".")[0]):
            known = ", ".join(BACKBONES)
            raise ValueError(f"there is no backbone {name!r}, neither among {known} nor in timm.list_models()")
    cells = []
    for detector in detectors:
        options = {field.name for field in fields(DETECTORS[detector])}
        with_backbones = backbones if "backbone" in options else (None,)
        with_proposals = proposals if "proposals" in options and proposals else (None,)
        for backbone, size, count in product(with_backbones, sizes, with_proposals):
            chosen = {"backbone": backbone, "proposals": count}
            config = DETECTORS[detector](**{option: value for option, value in chosen.items() if value is not None})
            several = count is not None and len(proposals) > 1
            name = "-".join(filter(None, [detector, backbone, str(size), f"p{count}" if several else ""]))
            cells.append(Cell(as_folder(name), config, Preprocess(short=size, long=round(_LONGEST * size))))
    repeated = sorted({cell.name for cell in cells if sum(cell.name == other.name for other in cells) > 1})
    if repeated:
        raise ValueError(f"every cell is in a race once; {', '.join(repeated)} came more often")
    return cells


def as_folder(name: str) -> str:
    """A name without characters that a folder's cannot have."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def configure(name: str, **options: Any) -> DetectorConfig:
    """A detector's config with those of the options that it has."""
    known = {field.name for field in fields(DETECTORS[name])}
    return DETECTORS[name](**{option: value for option, value in options.items() if option in known})


def differences(configs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The fields of each config (a dataclass) that are not the same in all of them."""
    options = {name: asdict(config) for name, config in configs.items()}
    first = next(iter(options.values()), {})
    common = {key for key in first if all(key in fields and fields[key] == first[key] for fields in options.values())}
    return {name: {key: value for key, value in fields.items() if key not in common}
            for name, fields in options.items()}  # fmt: skip
