"""From an image of any size to the size a detector works on. Imports torch and numpy only to resize."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from boxwright.boxes.view import View
from boxwright.typed import check_fields, within
from boxwright.types import Size

if TYPE_CHECKING:
    import numpy as np

Mode = Literal["short_side", "long_side", "letterbox", "stretch"]
Resample = Literal["antialias", "plain", "pillow"]
Rounding = Literal["nearest", "floor"]

LONGEST_SIDE = 16_384
"""Pixels of a resized image; one of this height and width takes 3 GB in float32."""


@dataclass(frozen=True)
class Preprocess:
    """How images are resized, by bilinear interpolation; part of every checkpoint.

    mode         short_side: the shorter side becomes `short`, or less where the longer would pass `long`;
                 long_side: the longer side becomes `long`;
                 letterbox: as large as fits into `height` x `width`, the aspect kept, the rest filled;
                 stretch: `height` x `width`, the aspect lost. These two give batches of one static shape.
    divisor      batches are padded at the right and the bottom to a multiple of this
    fill         the padding: a grey level, or one level for each of red, green and blue. The pixel mean of the model
                 becomes zeros once it is subtracted
    resample     antialias: to whole grey levels, what shrinks is smoothed;
                 plain: every new pixel from the four around it alone, not rounded (torchvision's detectors);
                 pillow: as antialias, to the last bit as Pillow does it (Detectron2), but far slower
    rounding     nearest: sides become the nearest whole number of pixels (Detectron2's ResizeShortestEdge);
                 floor: the next smaller one (torchvision's GeneralizedRCNNTransform)
    """

    mode: Mode = "short_side"
    short: int = 320
    long: int = 512
    height: int = 512
    width: int = 512
    divisor: int = 32
    fill: int | tuple[float, float, float] = 114
    resample: Resample = "antialias"
    rounding: Rounding = "nearest"

    def __post_init__(self) -> None:
        check_fields(type(self), {name: value for name, value in vars(self).items() if name != "fill"})
        within(1, LONGEST_SIDE, short=self.short, long=self.long, height=self.height, width=self.width)
        within(1, 1024, divisor=self.divisor)
        if self.mode == "short_side" and self.long < self.short:
            raise ValueError(f"long is at least short; got short={self.short} and long={self.long}")
        if isinstance(self.fill, list):  # what JSON makes of a tuple
            object.__setattr__(self, "fill", tuple(self.fill))
        levels = self._levels
        numbers = all(isinstance(level, (int, float)) and 0 <= level <= 255 for level in levels)
        if len(levels) not in (1, 3) or not numbers:
            raise ValueError(f"fill is a grey level 0..255, or three of them as (red, green, blue); got {self.fill}")

    def __call__(self, image: np.ndarray, zoom: float = 1.0) -> tuple[np.ndarray, View]:
        """The uint8 image (H, W, 3) resized, in `dtype`, and the view from it to the resized one."""
        before = Size(*image.shape[:2])
        after = self.size(before, zoom)
        return resize(image, after, self.resample).astype(self.dtype, copy=False), View.resize(before, after)

    @property
    def dtype(self) -> type[np.uint8] | type[np.float32]:
        """Of resized images and their padding: float32, still 0..255, where uint8 would have to round."""
        import numpy as np

        whole = all(level == int(level) for level in self._levels)
        return np.uint8 if whole and self.resample != "plain" else np.float32

    @property
    def _levels(self) -> tuple[float, ...]:
        return self.fill if isinstance(self.fill, tuple) else (self.fill,)

    @property
    def sides(self) -> tuple[int, int]:
        """The numbers of `--size`: `short` and `long`; of letterbox and stretch `height` and `width`."""
        return (self.height, self.width) if self._is_static else (self.short, self.long)

    def with_sides(self, first: int, second: int) -> Self:
        """The same with other `sides`."""
        if self._is_static:
            return replace(self, height=first, width=second)
        return replace(self, short=first, long=second)

    @property
    def _is_static(self) -> bool:
        return self.mode in ("letterbox", "stretch")

    def size(self, before: Size, zoom: float = 1.0) -> Size:
        """The size an image gets.

        `zoom` makes it so many times as large as usual: where the canvas is fixed at most as large, elsewhere such
        that the side that counts is a multiple of `divisor`, which saves padding.
        """
        if self.mode == "stretch":
            return Size(self.height, self.width)
        half = 0.5 if self.rounding == "nearest" else 0.0
        height, width = self._sides(before, zoom)
        return Size(max(1, int(height + half)), max(1, int(width + half)))

    def _sides(self, before: Size, zoom: float) -> tuple[float, float]:
        """Height and width before they are rounded."""
        height, width = before
        if self.mode == "letterbox":
            factor = min(zoom, 1.0) * min(self.height / height, self.width / width)
        elif self.mode == "long_side":
            factor = self._stepped(self.long, zoom) / max(before)
        else:
            short = self._stepped(self.short, zoom)
            long = self.long * short / self.short
            if self.rounding == "floor":  # torchvision 0.29; scripted or years older, its float32 may tip a pixel
                factor = min(short / min(before), long / max(before))
            else:  # in Detectron2's two steps: where half a pixel is left over, the last bit decides
                factor = short / min(before)
                height, width = (short, factor * width) if height < width else (factor * height, short)
                factor = min(1.0, long / max(height, width))
        return height * factor, width * factor

    def canvas(self, sizes: Iterable[Size]) -> Size:
        """Height and width that a batch of resized images of these sizes is padded to."""
        if self._is_static:
            height, width = self.height, self.width
        else:
            heights, widths = zip(*sizes, strict=True)
            height, width = max(heights), max(widths)
        return Size(-(-height // self.divisor) * self.divisor, -(-width // self.divisor) * self.divisor)

    def _stepped(self, side: int, zoom: float) -> int:
        """The multiple of the divisor nearest to the side times the zoom."""
        return side if zoom == 1 else max(1, round(zoom * side / self.divisor)) * self.divisor

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"Preprocess has {sorted(known)}, got also {unknown!s:.200}; update boxwright")
        return cls(**values)


def resize(image: np.ndarray, size: Size, resample: Resample = "antialias") -> np.ndarray:
    """A uint8 image (H, W, 3) at another size; `resample` as in `Preprocess`, where plain gives float32."""
    if image.shape[:2] == size:
        return image
    import numpy as np

    if resample == "pillow":
        from PIL import Image

        return np.array(Image.fromarray(image).resize((size.width, size.height), Image.Resampling.BILINEAR))
    import torch
    from torch.nn.functional import interpolate

    # On uint8, antialias is Pillow's resize to within two grey levels, in less than half the time.
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)  # (1, 3, H, W)
    if resample == "plain":
        pixels = pixels.float()
    resized = interpolate(pixels, size=tuple(size), mode="bilinear", antialias=resample == "antialias")
    return resized[0].permute(1, 2, 0).contiguous().numpy()
