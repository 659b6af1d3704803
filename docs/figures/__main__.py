"""Draws the figures of docs/learn: `python docs/figures`, or `python docs/figures NAME ...` for some of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import basics
import dense
import proposing
import regions
import torch

FIGURES = {
    "task": basics.task,
    "localizer": basics.localizer,
    "windows": basics.windows,
    "suppression": basics.suppression,
    "selective_search": proposing.selective_search,
    "warped": proposing.warped,
    "pyramid": regions.pyramid,
    "pooling": regions.pooling,
    "anchors": proposing.anchors,
    "variants": regions.variants,
    "position_sensitive": regions.position_sensitive,
    "default_boxes": dense.default_boxes,
    "focal": dense.focal_loss,
    "center": dense.center,
}


def main(names: Sequence[str]) -> int:
    if unknown := [name for name in names if name not in FIGURES]:
        print(f"there is no figure {', '.join(unknown)}; there are {', '.join(FIGURES)}")
        return 2
    torch.manual_seed(0)
    for name in names or FIGURES:
        FIGURES[name]()
        print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
