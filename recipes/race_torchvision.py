"""torchvision's Faster R-CNN, trained by torchvision's own losses, as an external model in a race against ours.

    python recipes/race_torchvision.py --data my_dataset/ --epochs 6

It gets heads, assignment, RoI align and suppression as torchvision has them by default, over the backbone, pyramid and
anchors of ours, as many proposals and samples, and the images, augmentation, optimiser and epochs that all cells get.
In the race it is called as its users call it: open the file, call the model.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from boxwright import checkpoint
from boxwright.backbones.features import Features
from boxwright.bench import ExternalModel, Race, Rules, grid, race
from boxwright.boxes.anchors import AnchorGrid
from boxwright.data.augment import PRESETS
from boxwright.data.batch import Batches
from boxwright.data.dataset import Dataset
from boxwright.data.formats import open_dataset
from boxwright.data.image import read_image
from boxwright.detectors import Detector, FasterRCNNConfig
from boxwright.train.config import TrainConfig
from boxwright.train.loop import train
from boxwright.types import Images, Losses, Target


class Maps(nn.Module):
    """Backbone and pyramid as torchvision takes them: a dictionary of maps, and their width."""

    def __init__(self, features: Features, channels: int) -> None:
        super().__init__()
        self.backbone, self.neck, self.out_channels = features.backbone, features.neck, channels

    def forward(self, pixels: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict((str(level), features) for level, features in enumerate(self.neck(self.backbone(pixels))))


class Learner(Detector):
    """torchvision's model behind `Detector.loss`, for our training loop. Its labels begin at 1."""

    def __init__(self, model: FasterRCNN) -> None:
        super().__init__()
        self.model = model

    def compute_loss(self, images: Images, targets: list[Target]) -> Losses:
        arrays = [image[:, :height, :width] / 255 for image, (height, width) in
                    zip(images.pixels, images.sizes.tolist(), strict=True)]  # fmt: skip
        return self.model(arrays, [{"boxes": target.boxes, "labels": target.labels + 1} for target in targets])


def build(num_classes: int, size: int) -> FasterRCNN:
    """Of our backbone, pyramid and anchors; everything else is torchvision's."""
    config = FasterRCNNConfig()
    ours = config.build(num_classes, pretrained=True)
    features, anchors = ours.features, ours.proposer.anchors
    assert isinstance(features, Features) and isinstance(anchors, AnchorGrid)
    mean, std = ([value / 255 for value in values.flatten().tolist()] for values in (features.mean, features.std))
    levels = [str(level) for level in range(len(config.levels))]
    return FasterRCNN(
        Maps(features, config.channels),
        num_classes + 1,
        min_size=size,
        max_size=round(1.3 * size),
        image_mean=mean,
        image_std=std,
        rpn_anchor_generator=AnchorGenerator(anchors.sizes, (anchors.ratios,) * len(anchors.sizes)),
        rpn_post_nms_top_n_train=config.proposals,
        rpn_post_nms_top_n_test=config.proposals,
        box_batch_size_per_image=config.region_samples,
        box_roi_pool=MultiScaleRoIAlign(levels, 7, 2, canonical_scale=int(config.canonical_size)),
    )


def learn(dataset: Dataset, size: int, epochs: int, path: Path) -> FasterRCNN:
    """Trained, or loaded if it was trained before."""
    torch.manual_seed(0)
    model = build(len(dataset.names), size)
    if path.is_file():
        model.load_state_dict(checkpoint.read(path)[0])
        return model.eval()
    (cell,) = grid(["faster_rcnn"], sizes=[size])
    batches = Batches(dataset, cell.preprocess, PRESETS["standard"], batch_size=8)
    for epoch in train(Learner(model), batches, TrainConfig(epochs=epochs)):
        print(f"torchvision, epoch {epoch.number}: loss {epoch.losses['total']:.3f}, {epoch.seconds:.0f} s", flush=True)
        averaged = {key.removeprefix("model."): value for key, value in epoch.training.weights().items()}
    model.load_state_dict(averaged)
    checkpoint.write(path, averaged, {"model": "torchvision's FasterRCNN"})
    return model.eval()


def main(
    data: Path, epochs: int = 6, size: int = 320, seeds: int = 1, out: Path = Path("runs/race-torchvision")
) -> Race:
    """torchvision's Faster R-CNN against ours and our SSD."""
    model = learn(open_dataset(data)["train"], size, epochs, out / "torchvision.safetensors")

    @torch.inference_mode()
    def detect(path: Path) -> tuple[Tensor, Tensor, Tensor]:
        image = torch.from_numpy(read_image(path)).permute(2, 0, 1) / 255
        found = model([image])[0]
        return found["boxes"], found["scores"], found["labels"] - 1

    cells = [*grid(["ssd", "faster_rcnn"], sizes=[size]), ExternalModel("torchvision-faster_rcnn", detect)]
    return race(cells, data, Rules(seeds=seeds, workers=0), TrainConfig(epochs=epochs), out=out, report_images=0)


if __name__ == "__main__":
    tyro.cli(main)
