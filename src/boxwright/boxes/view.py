"""How one image came from another: resized, cropped, flipped, placed on a canvas, or several of these in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from boxwright.types import Size, Target

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class View:
    """An axis-aligned map of coordinates from one image to another: output = scale * source + offset, for x and for y.

    source  size of the image that boxes come from
    output  size of the image they go to
    scale   along x and y; a negative one mirrors that axis
    offset  along x and y, in pixels of the output

    Views compose: `a @ b` applies `b` first. Boxes are not clipped, so `back` is the exact inverse of `forward`.
    """

    source: Size
    output: Size
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def resize(cls, before: Size, after: Size) -> View:
        """The whole image at another size. Sizes are whole pixels, so the two scales differ slightly."""
        return cls(before, after, (after.width / before.width, after.height / before.height))

    @classmethod
    def crop(cls, source: Size, window: Sequence[int]) -> View:
        """The part of the image inside the window (x1, y1, x2, y2), whole pixels."""
        left, top, right, bottom = window
        return cls(source, Size(bottom - top, right - left), offset=(-left, -top))

    @classmethod
    def flip(cls, source: Size) -> View:
        """Left and right exchanged."""
        return cls(source, source, scale=(-1.0, 1.0), offset=(source.width, 0.0))

    @classmethod
    def place(cls, source: Size, canvas: Size, left: int, top: int) -> View:
        """The image on a canvas, its upper left corner at (left, top)."""
        return cls(source, canvas, offset=(left, top))

    def __matmul__(self, first: View) -> View:
        """`first`, then this view."""
        if first.output != self.source:
            raise ValueError(f"views compose where sizes agree: {first.output} came out, {self.source} goes in")
        (sx, sy), (x, y) = self.scale, self.offset
        scale = sx * first.scale[0], sy * first.scale[1]
        return View(first.source, self.output, scale, (sx * first.offset[0] + x, sy * first.offset[1] + y))

    def forward(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) of the source in pixels of the output, (..., 4)."""
        scale, offset = (boxes.new_tensor((x, y, x, y)) for x, y in (self.scale, self.offset))
        return self._ordered(boxes * scale + offset)

    def back(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) of the output in pixels of the source, (..., 4)."""
        inverse = 1 / self.scale[0], 1 / self.scale[1]
        scale, offset = (boxes.new_tensor((x, y, x, y)) for x, y in (inverse, self.offset))
        return self._ordered((boxes - offset) * scale)

    def move(self, target: Target) -> Target:
        """The objects of the source in pixels of the output; areas grow with both scales."""
        growth = abs(self.scale[0] * self.scale[1])
        return target.replace(boxes=self.forward(target.boxes), area=target.area * growth)

    def _ordered(self, corners: Tensor) -> Tensor:
        """Corners (..., 4) as boxes (..., 4): along a mirrored axis the two have changed places."""
        mirrored_x, mirrored_y = (scale < 0 for scale in self.scale)
        if not (mirrored_x or mirrored_y):
            return corners
        columns = [2, 1, 0, 3] if mirrored_x else [0, 1, 2, 3]
        if mirrored_y:
            columns[1], columns[3] = columns[3], columns[1]
        return corners[..., columns]
