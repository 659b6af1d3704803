"""Where the cells of a map lie."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from boxwright.backbones import Backbone


@pytest.fixture
def middle_of_what_sees() -> Callable[[Backbone, int], float]:
    """The middle of the cells that see a pixel on the diagonal of 256x256, in cells, along one side."""

    def middle(backbone: Backbone, pixel: int) -> float:
        for value in backbone.state_dict().values():
            value.abs_()  # so that no contribution is lost
        dark = torch.zeros(1, 3, 256, 256)
        bright = dark.clone()
        bright[..., pixel, pixel] = 1e3
        with torch.no_grad():
            seen = (backbone(bright)[0] - backbone(dark)[0])[0].sum(0) > 1e-3
        rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
        assert torch.equal(rows, columns) and rows.min() > 0 and rows.max() < len(seen) - 1
        return (rows.min() + rows.max()).item() / 2

    return middle
