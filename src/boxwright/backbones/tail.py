"""What a network has behind its map of stride 16, to be run on every region: Fast R-CNN's classifier, ResNet's C5.

Girshick 2015, https://arxiv.org/abs/1504.08083 (fully connected layers); He et al. 2016,
https://arxiv.org/abs/1512.03385, appendix A ("Networks on Conv feature maps").
"""

from __future__ import annotations

from torch import Tensor, nn

from boxwright.backbones.base import Classifier, Head, check_norm, keep
from boxwright.layers.conv import freeze_norms, run

REGION = 14
"""Cells of a region for a last stage: it leaves 7x7 of them, as the network has for an image of 224x224."""


class Tail(nn.Module):
    """Regions of the level-4 map (R, in_channels, size, size) to (R, channels, h, w): the classifier's last map.

    in_channels  of the backbone's level 4
    channels     of what comes out
    size         cells of a region: a last stage takes 14 and halves them; fully connected layers take 7, AlexNet's 6,
                 and give 1x1
    """

    in_channels: int
    channels: int
    size: int


class StagedTail(Tail):
    """The stages of a `Classifier` behind level 4 and its head. Parameters keep the network's names behind `body.`."""

    def __init__(self, network: Classifier, norm: str = "frozen") -> None:
        super().__init__()
        check_norm(norm)
        *_, level4 = (stage for stage in network.stages if stage.level == 4)
        behind = [stage for stage in network.stages if stage.level > 4]
        if not behind and network.head is None:
            raise ValueError(
                f"{type(network).__name__} ends at level 4, so nothing of it can run on every region; "
                "take a network such as resnet50 or vgg16"
            )
        head = network.head or Head(behind[-1].channels, ())
        self.connected = head.cells > 0
        stages = [] if self.connected else behind  # pooling a region takes the place of the last pooling
        self.names = [name for stage in stages for name in stage.modules] + list(head.modules)
        self.in_channels, self.channels, self.size = level4.channels, head.channels, head.cells or REGION
        keep(network, self.names)
        self.body = freeze_norms(network) if norm == "frozen" else network

    def forward(self, regions: Tensor) -> Tensor:
        """Regions (R, in_channels, size, size) to (R, channels, h, w); h = w = 1 after fully connected layers."""
        if self.connected:
            if regions.shape[2:] != (self.size, self.size):
                raise ValueError(
                    f"the fully connected layers of {type(self.body).__name__} take regions of {self.size}x{self.size} "
                    f"cells, got {regions.shape[2]}x{regions.shape[3]}"
                )
            regions = regions.flatten(1)
        x = run([self.body.get_submodule(name) for name in self.names], regions)
        return x[..., None, None] if self.connected else x
