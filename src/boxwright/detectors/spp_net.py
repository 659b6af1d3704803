"""SPP-net: the network runs once over the image; regions are pooled from its last map (He et al. 2014)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.backbones import build_backbone
from boxwright.backbones.features import Features
from boxwright.detectors.base import build_select, with_colors
from boxwright.detectors.proposed import ProposedDetector
from boxwright.detectors.region_stage import RegionHead, RegionStage, build_region_stage, mlp_head
from boxwright.layers.regions import PyramidPool
from boxwright.proposals import Propose

if TYPE_CHECKING:
    from boxwright.detectors.config import SPPNetConfig


class SPPNet(ProposedDetector):
    """features -> RegionStage, of which only the head learns (the paper's fine-tuning, section 4.1)."""

    def __init__(self, features: nn.Module, regions: RegionStage, propose: Propose) -> None:
        super().__init__(features.requires_grad_(False), regions, propose)

    def train(self, mode: bool = True) -> Self:
        """The features stay as they are, batch norms included."""
        super().train(mode)
        self.features.eval()
        return self


class ImagePyramid(nn.Module):
    """The last map of the image at several sizes, largest first: a region is read where it is about as large as what
    the network was trained on (section 4.1, multi-scale)."""

    def __init__(self, features: Features, zooms: tuple[int, ...]) -> None:
        super().__init__()
        self.features, self.zooms = features, zooms
        self.strides = tuple(features.strides[-1] // zoom for zoom in zooms)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Pixels (N, 3, H, W) to a map (N, C, zoom * H / stride, zoom * W / stride) per zoom."""
        sizes = [(zoom * pixels.shape[2], zoom * pixels.shape[3]) for zoom in self.zooms]
        return [self.features(F.interpolate(pixels, size, mode="bilinear"))[-1] for size in sizes]


def build(config: SPPNetConfig, num_classes: int, pretrained: bool) -> SPPNet:
    features = Features(with_colors(config, build_backbone(config.backbone, config.levels, pretrained)))
    maps = ImagePyramid(features, config.zooms)
    pool = PyramidPool(maps.strides, config.grids)
    numbers = features.channels[-1] * pool.cells
    # Maps that do not learn come in any scale; fully connected layers need a fixed one.
    hidden = nn.Sequential(nn.Flatten(), nn.LayerNorm(numbers), mlp_head(numbers, config.hidden))
    head = RegionHead(hidden, config.hidden, num_classes, config.class_agnostic)
    regions = build_region_stage(config, pool, head, build_select(config, num_classes))
    return SPPNet(maps, regions, config.build_proposer())
