"""From a picture of any size to the size a detector works on, with the exact way back for boxes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from boxwright.boxes.convert import clip, scale
from boxwright.types import Size

Mode = Literal["short_side", "long_side", "letterbox", "stretch"]


@dataclass(frozen=True)
class Resize:
    """What happened to one picture: its size before and after.

    Sizes are whole pixels, so height and width change by slightly different factors; boxes follow each exactly.
    """

    before: Size
    after: Size

    def forward(self, boxes: Tensor) -> Tensor:
        """Boxes (N, 4) of the original picture in pixels of the resized one."""
        return scale(boxes, self.after.width / self.before.width, self.after.height / self.before.height)

    def back(self, boxes: Tensor) -> Tensor:
        """Boxes (N, 4) of the resized picture in pixels of the original one, clipped to it."""
        boxes = scale(boxes, self.before.width / self.after.width, self.before.height / self.after.height)
        return clip(boxes, self.before)


@dataclass(frozen=True)
class Preprocess:
    """How pictures are resized, with antialiased bilinear interpolation; part of every checkpoint.

    mode         short_side: the shorter side becomes `short`, or less where the longer would pass `long`;
                 long_side: the longer side becomes `long`;
                 letterbox: as large as fits into `height` x `width`, the aspect kept, the rest filled;
                 stretch: `height` x `width`, the aspect lost. These two give batches of one static shape.
    divisor      batches are padded at the right and the bottom to a multiple of this
    fill         grey level of the padding
    """

    mode: Mode = "short_side"
    short: int = 320
    long: int = 512
    height: int = 512
    width: int = 512
    divisor: int = 32
    fill: int = 114

    def __post_init__(self) -> None:
        if self.mode not in ("short_side", "long_side", "letterbox", "stretch"):
            raise ValueError(f"mode is one of short_side, long_side, letterbox, stretch; got {self.mode!r}")
        for name in ("short", "long", "height", "width", "divisor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is a number of pixels from 1 up; got {getattr(self, name)}")
        if self.mode == "short_side" and self.long < self.short:
            raise ValueError(f"long is at least short; got short={self.short} and long={self.long}")
        if not 0 <= self.fill <= 255:
            raise ValueError(f"fill is a grey level 0..255; got {self.fill}")

    def __call__(self, image: np.ndarray, zoom: float = 1.0) -> tuple[np.ndarray, Resize]:
        """The uint8 picture (H, W, 3) resized, and the way there and back."""
        before = Size(*image.shape[:2])
        after = self.size(before, zoom)
        return resize(image, after), Resize(before, after)

    def size(self, before: Size, zoom: float = 1.0) -> Size:
        """The size a picture gets.

        `zoom` makes it so many times as large as usual: where the canvas is fixed at most as large, elsewhere such
        that the side that counts is a multiple of `divisor`, which saves padding.
        """
        height, width = before
        if self.mode == "stretch":
            return Size(self.height, self.width)
        if self.mode == "short_side":
            factor = self._stepped(self.short, zoom) * min(self.short / min(before), self.long / max(before))
        elif self.mode == "long_side":
            factor = self._stepped(self.long, zoom) * self.long / max(before)
        else:
            factor = min(zoom, 1.0) * min(self.height / height, self.width / width)
        return Size(max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5)))

    def canvas(self, sizes: Iterable[Size]) -> Size:
        """Height and width that a batch of resized pictures of these sizes is padded to."""
        if self.mode in ("letterbox", "stretch"):
            height, width = self.height, self.width
        else:
            heights, widths = zip(*sizes, strict=True)
            height, width = max(heights), max(widths)
        return Size(-(-height // self.divisor) * self.divisor, -(-width // self.divisor) * self.divisor)

    def _stepped(self, side: int, zoom: float) -> float:
        """The zoom nearest to the given one that makes `side` a multiple of the divisor."""
        return zoom if zoom == 1 else max(1, round(zoom * side / self.divisor)) * self.divisor / side

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"Preprocess knows {sorted(known)}, got also {unknown}; update boxwright to read this")
        return cls(**values)


def resize(image: np.ndarray, size: Size) -> np.ndarray:
    """A uint8 picture (H, W, 3) at another size, bilinear with antialiasing."""
    if image.shape[:2] == size:
        return image
    # On uint8 this is Pillow's resize to within two grey levels, in half the time.
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)  # (1, 3, H, W)
    resized = interpolate(pixels, size=tuple(size), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).contiguous().numpy()
