"""The simple feature pyramid of a plain vision transformer (Li et al. 2022, https://arxiv.org/abs/2203.16527)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class SimplePyramid(nn.Module):
    """One map, of level `level`, to maps of `levels`: section 3, without the convolutions to a common width.

    A level below is a transposed convolution and has half the channels, two levels below are two of them; a level above
    is a max pooling; the level itself stays as it is.
    """

    def __init__(self, channels: int, level: int, levels: Sequence[int]) -> None:
        super().__init__()
        if not set(levels) <= set(range(level - 2, level + 2)):
            raise ValueError(f"levels must be among {level - 2}..{level + 1} over level {level}, got {tuple(levels)}")
        self.channels = tuple(channels // 2 ** max(level - target, 0) for target in levels)
        self.scales = nn.ModuleList(_scale(channels, target - level) for target in levels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """One map (N, C, H, W) to a map (N, channels, h, w) per level."""
        (x,) = maps
        return [scale(x) for scale in self.scales]


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map (N, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        x = F.layer_norm(input.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


def _scale(channels: int, steps: int) -> nn.Module:
    """`steps` levels up, or down where it is negative."""
    if steps == 0:
        return nn.Identity()
    if steps == 1:
        return nn.MaxPool2d(2, ceil_mode=True)
    half = nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
    if steps == -1:
        return half
    quarter = nn.ConvTranspose2d(channels // 2, channels // 4, 2, stride=2)
    return nn.Sequential(half, ChannelNorm(channels // 2, eps=1e-6), nn.GELU(), quarter)
