"""Fast R-CNN: shared features that learn, regions pooled from them, class and box in one loss (Girshick 2015)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from boxwright.backbones import build_tail
from boxwright.detectors.anchor_stage import tower
from boxwright.detectors.base import Features
from boxwright.detectors.proposed import ProposedConfig, ProposedDetector
from boxwright.detectors.region_stage import GlobalAveragePool, RegionConfig, RegionHead, RegionStage, mlp_head
from boxwright.layers.regions import RegionAlign, RegionPool


class FastRCNN(ProposedDetector):
    """features -> RegionStage: the whole network but the proposals learns at once."""


@dataclass(frozen=True)
class SharedConfig(RegionConfig):
    """The numbers of regions that share the features of their image, whoever proposes them."""

    variant: Literal["fpn", "c4", "dc5"] = "fpn"
    """What is shared: a pyramid; the map of stride 16, the last stage of the backbone being the head of every region;
    or the map of that last stage, dilated to stride 16. The latter two ignore `levels`."""
    pool: Literal["align", "pool"] = "align"
    """Pooling of regions: bilinear samples, or the maximum of whole features as in the paper."""
    channels: int = 128
    """Channels of the pyramid."""
    canonical: float = 224.0
    """Regions of this many pixels across are pooled from stride 16, larger ones from coarser maps (FPN, eq. 1)."""
    hidden: int = 512
    """Width of the fully connected layers of the head, which c4 has not."""
    head_layers: int = 2
    """How many of these there are."""
    head_convolutions: int = 0
    """3x3 convolutions before them."""

    def shared(self, pretrained: bool) -> Features:
        """What the regions share: the pyramid or the one map."""
        if self.variant == "fpn":
            return self.pyramid(pretrained, self.channels, extra=1, how="pool")
        if self.variant not in ("c4", "dc5"):
            raise ValueError(f"the variants are fpn, c4 and dc5, got {self.variant!r}")
        level = 4 if self.variant == "c4" else 5
        return replace(self, levels=(level,)).features(pretrained, dilated=self.variant == "dc5")

    def region_stage(self, features: Features, classes: int, pretrained: bool) -> RegionStage:
        """Pooling from what is shared, and the head."""
        if self.variant == "c4":
            tail = build_tail(self.backbone, pretrained, self.norm)
            size, hidden, width = tail.size, GlobalAveragePool(tail), tail.channels
        else:
            size, width = 7, self.hidden
            hidden = mlp_head(features.channels[0] * size * size, width, self.head_layers)
            if self.head_convolutions:
                hidden = nn.Sequential(tower(features.channels[0], self.head_convolutions), hidden)
        if self.pool not in ("align", "pool"):
            raise ValueError(f"pool is align or pool, got {self.pool!r}")
        strides, habits = self.read(features), self.habits()
        if self.pool == "align":
            pool = RegionAlign(strides, size, habits.sampling, self.canonical, habits.aligned)
        else:
            pool = RegionPool(strides, size, self.canonical)
        return self.regions(pool, RegionHead(hidden, width, classes, self.agnostic), classes)

    def read(self, features: Features) -> tuple[int, ...]:
        """Strides of the maps that regions are read from: the backbone's, of two alike the first."""
        return tuple(dict.fromkeys(features.strides[: len(self.levels)]))


@dataclass(frozen=True)
class FastRCNNConfig(SharedConfig, ProposedConfig):
    """The numbers of a Fast R-CNN. The paper's: `variant="c4"`, `pool="pool"` on a VGG-16, 2000 proposals."""

    def build(self, classes: int, pretrained: bool = False) -> FastRCNN:
        features = self.shared(pretrained)
        return FastRCNN(features, self.region_stage(features, classes, pretrained), self.propose())
