"""SPP-net: the network runs once over the image; regions are pooled from its last map (He et al. 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.detectors.base import Features
from boxwright.detectors.proposed import ProposedConfig, ProposedDetector
from boxwright.detectors.region_stage import RegionHead, RegionStage, mlp_head
from boxwright.layers.regions import PyramidPool
from boxwright.proposals import Propose


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


@dataclass(frozen=True)
class SPPNetConfig(ProposedConfig):
    """The numbers of an SPP-net."""

    proposer: str = "selective_search_quality"
    """selective_search, selective_search_quality, sliding_window, or a file that `boxwright propose` wrote."""
    proposals: int = 2000
    """Proposals an image, at most; each costs two connected layers only."""
    levels: tuple[int, ...] = (4,)
    """The level of the backbone whose map is pooled; level l has stride 2**l."""
    zooms: tuple[int, ...] = (2, 1)
    """Sizes at which the image is looked at, each half of the one before; (1,) is the paper's single scale."""
    grids: tuple[int, ...] = (6, 3, 2, 1)
    """Cells a side of each grid of the pyramid that a region is pooled to."""
    hidden: int = 512
    """Width of the two fully connected layers."""

    def build(self, classes: int, pretrained: bool = False) -> SPPNet:
        features = self.features(pretrained)
        magnified = ImagePyramid(features, self.zooms)
        pool = PyramidPool(magnified.strides, self.grids)
        numbers = features.channels[-1] * pool.cells
        # Maps that do not learn come in any scale; fully connected layers want theirs.
        hidden = nn.Sequential(nn.Flatten(), nn.LayerNorm(numbers), mlp_head(numbers, self.hidden))
        regions = self.regions(pool, RegionHead(hidden, self.hidden, classes, self.agnostic), classes)
        return SPPNet(magnified, regions, self.propose())
