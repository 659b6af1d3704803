"""R-CNN: every proposal is cut out, warped to the input of a classifier, and classified (Girshick et al. 2014).

The paper trains three times: the network with a softmax, a linear SVM per class on its features, and ridge regressions
from features to boxes. Here the softmax stays and the boxes learn with it; the SVMs are not built. They were worth some
points of AP because they had stricter positives and hard negatives (appendix B), and Fast R-CNN's softmax did without
them (its section 5.4); they would need the features of every region of all images on disk, and another training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from boxwright.detectors.proposed import ProposedConfig, ProposedDetector
from boxwright.detectors.region_stage import GlobalAveragePool, RegionHead
from boxwright.detectors.select import best, least_background
from boxwright.layers.warp import WarpRegions

CHOICES = {"threshold": best, "least_background": least_background}


class RCNN(ProposedDetector):
    """pixels -> RegionStage, whose head is a whole network that runs on every region."""


def nothing_shared(pixels: Tensor) -> list[Tensor]:
    """Every region begins with the pixels (N, 3, H, W)."""
    return [pixels]


@dataclass(frozen=True)
class RCNNConfig(ProposedConfig):
    """The numbers of an R-CNN. The paper's: 227 pixels, 2000 proposals, an AlexNet."""

    proposals: int = 300
    """Proposals an image, at most; each costs a pass through the network."""
    region_samples: int = 16
    """Proposals an image to learn from, a quarter of them positive: a batch of eight has the paper's 32 and 96."""
    warp: int = 128
    """Side of the warped regions, in pixels."""
    context: int = 16
    """Of these, how many at each side show what lies around the proposal."""
    chunk: int = 32
    """Regions of an image that go through the network at once."""
    choose: Literal["threshold", "least_background"] = "threshold"
    """What comes out: every class that scores more than `score`; or the `detections` regions least likely background,
    each as its best class."""

    def build(self, classes: int, pretrained: bool = False) -> RCNN:
        if self.choose not in CHOICES:
            raise ValueError(f"choose is {' or '.join(CHOICES)}, got {self.choose!r}")
        network = self.features(pretrained)
        rule = replace(self, score=(0.0,)) if self.choose == "least_background" else self
        regions = rule.regions(
            pool=WarpRegions(self.warp, self.context, fill=network.backbone.pixel_mean),
            head=RegionHead(GlobalAveragePool(network), network.channels[-1], classes, self.agnostic),
            classes=classes,
            choose=CHOICES[self.choose],
            chunk=self.chunk,
        )
        return RCNN(nothing_shared, regions, self.propose())
