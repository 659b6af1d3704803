"""Pixels to the maps that heads read: normalisation, backbone, and a neck such as a feature pyramid.

Feature pyramid network: Lin et al. 2017, https://arxiv.org/abs/1612.03144.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.backbones.base import Backbone
from boxwright.layers.conv import run


class Neck(nn.Module):
    """Maps of a backbone, fine to coarse, to the maps that heads read.

    channels, strides  a number per map that comes out
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]


class FeaturePyramid(Neck):
    """Maps of a backbone, fine to coarse, to as many maps of equal width, and `extra` coarser ones behind them.

    in_channels   channels of the incoming maps
    out_channels  channels of every outgoing map
    strides       strides of the incoming maps; `.strides` has those of the outgoing ones
    extra         number of further levels, each half the size of the one before
    how           what makes them: "pool" takes every second cell of the coarsest map (Faster R-CNN's P6);
                  "conv" are 3x3 convolutions of stride 2, from the pyramid's coarsest map (P6 and P7 of FCOS and of
                  torchvision's RetinaNet); "conv_c5" are the same from the backbone's coarsest (Lin et al. 2017b,
                  Detectron2, torchvision's RetinaNet v2)
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, strides: Sequence[int], extra: int = 0,
        how: Literal["pool", "conv", "conv_c5"] = "pool",
    ) -> None:  # fmt: skip
        super().__init__()
        if how not in ("pool", "conv", "conv_c5"):
            raise ValueError(f"how must be pool, conv or conv_c5, got {how!r}")
        if len(strides) != len(in_channels):
            raise ValueError(f"{len(in_channels)} maps came with {len(strides)} strides; give one for each")
        self.how = how
        self.strides = (*strides, *(strides[-1] * 2**step for step in range(1, extra + 1)))
        self.channels = (out_channels,) * len(self.strides)
        self.lateral = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in in_channels)
        self.output = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels)
        self.pools = extra if how == "pool" else 0
        first = in_channels[-1] if how == "conv_c5" else out_channels
        self.extra = nn.ModuleList(
            nn.Conv2d(out_channels if step else first, out_channels, 3, stride=2, padding=1)
            for step in range(extra - self.pools)
        )
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d) and conv.bias is not None:
                nn.init.kaiming_uniform_(conv.weight, a=1)
                nn.init.zeros_(conv.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (N, C, h, w) of the backbone to maps (N, out_channels, h, w), `extra` of them behind."""
        merged = [run([conv], x) for conv, x in zip(self.lateral, maps, strict=True)]  # (N, out_channels, H / s, W / s)
        for fine in range(len(merged) - 2, -1, -1):
            merged[fine] = merged[fine] + F.interpolate(merged[fine + 1], size=merged[fine].shape[-2:])
        out = [run([conv], x) for conv, x in zip(self.output, merged, strict=True)]
        for _ in range(self.pools):
            out.append(F.max_pool2d(out[-1], 1, stride=2))
        x = maps[-1] if self.how == "conv_c5" else out[-1]
        for step, conv in enumerate(self.extra):
            x = run([conv], F.relu(x) if step else x)
            out.append(x)
        return out


class Features(nn.Module):
    """Pixels to maps: normalisation, backbone, and a neck such as a feature pyramid.

    channels, strides  a number per map that comes out
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, neck: Neck | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Identity() if neck is None else neck
        self.channels, self.strides = (neck or backbone).channels, (neck or backbone).strides
        self.register_buffer("mean", torch.tensor(backbone.pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.pixel_std).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """RGB 0..255 (N, 3, H, W) to a map (N, C, h, w) per level."""
        return self.neck(self.backbone((pixels - self.mean) / self.std))
