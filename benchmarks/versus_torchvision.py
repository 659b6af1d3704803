"""Time of our Faster R-CNN and RetinaNet against torchvision's: inference, and a training step.

    python benchmarks/versus_torchvision.py --rounds 20 --size 320 416

Both sides have the same weights in copies of the same backbone, pyramid and heads, the same anchors, equal numbers of
proposals, samples and slots, and the same images; only the detector differs. Each round runs both once, in alternating
order. A ratio is torchvision's time over ours in the same round (above 1: ours is faster), printed as its median and
quartiles. The logit layers have random weights of high variance, so that NMS gets as many boxes as its limits allow.
`--clock cpu` measures the CPU time of this process, for a busy machine.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TheirFasterRCNN
from torchvision.models.detection import RetinaNet as TheirRetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from boxwright.boxes.anchors import AnchorGrid
from boxwright.detectors import Detector, FasterRCNNConfig, RetinaNetConfig
from boxwright.types import Images, Target

CLASSES = 20


class Maps(nn.Module):
    """Our backbone and pyramid with torchvision's interface: a dictionary of maps, and their number of channels."""

    def __init__(self, features: nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(features.get_submodule("backbone"))
        self.neck = copy.deepcopy(features.get_submodule("neck"))
        self.out_channels = channels

    def forward(self, pixels: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict((str(index), x) for index, x in enumerate(self.neck(self.backbone(pixels))))


def faster_rcnns(backbone: str, size: list[int]) -> tuple[Detector, nn.Module]:
    """Our detector and torchvision's, with torchvision's convention for anchors and RoI align."""
    config = FasterRCNNConfig(backbone=backbone, convention="torchvision")
    ours = config.build(CLASSES)
    anchors = ours.proposer.anchors
    randomize(ours.get_submodule("regions.head.logits"), 0.3)
    theirs = TheirFasterRCNN(
        Maps(ours.features, config.channels),
        rpn_anchor_generator=generator(anchors),
        rpn_pre_nms_top_n_train=ours.proposer.select.pre_nms_top_k,
        rpn_pre_nms_top_n_test=ours.proposer.select.pre_nms_top_k,
        rpn_post_nms_top_n_train=config.proposals,
        rpn_post_nms_top_n_test=config.proposals,
        rpn_batch_size_per_image=config.rpn_samples,
        box_roi_pool=MultiScaleRoIAlign(
            [str(index) for index in range(len(config.levels))], 7, 2, canonical_scale=int(config.canonical_size)
        ),
        box_head=TwoMLPHead(config.channels * 49, config.hidden),
        box_predictor=FastRCNNPredictor(config.hidden, CLASSES + 1),
        box_batch_size_per_image=config.region_samples,
        box_detections_per_img=config.max_detections,
        **preprocessing(ours.features, size),
    )
    copy_weights(theirs, "rpn.head.conv.0.0", ours, "proposer.head.class_tower.0")
    copy_weights(theirs, "rpn.head.cls_logits", ours, "proposer.head.logits")
    copy_weights(theirs, "rpn.head.bbox_pred", ours, "proposer.head.deltas")
    copy_weights(theirs, "roi_heads.box_head.fc6", ours, "regions.head.hidden.1")
    copy_weights(theirs, "roi_heads.box_head.fc7", ours, "regions.head.hidden.3")
    # Background is the first class in torchvision and the last here; only torchvision has deltas for it.
    copy_weights(theirs, "roi_heads.box_predictor.cls_score", ours, "regions.head.logits", lambda rows: rows.roll(1, 0))
    copy_weights(
        theirs,
        "roi_heads.box_predictor.bbox_pred",
        ours,
        "regions.head.deltas",
        lambda rows: torch.cat([torch.zeros_like(rows[:4]), rows]),
    )
    return ours, theirs


def retinanets(backbone: str, size: list[int]) -> tuple[Detector, nn.Module]:
    """Our detector and torchvision's, with torchvision's convention for anchors."""
    config = RetinaNetConfig(backbone=backbone, head_norm="none", convention="torchvision")
    ours = config.build(CLASSES)
    anchors = ours.anchors.anchors
    randomize(ours.get_submodule("anchors.head.logits"), 2.0)
    theirs = TheirRetinaNet(
        Maps(ours.features, config.channels),
        CLASSES,
        anchor_generator=generator(anchors),
        topk_candidates=ours.anchors.select.pre_nms_top_k,
        detections_per_img=config.max_detections,
        **preprocessing(ours.features, size),
    )
    for their, our in (("classification", "class"), ("regression", "box")):
        for layer in range(config.depth):
            copy_weights(theirs, f"head.{their}_head.conv.{layer}.0", ours, f"anchors.head.{our}_tower.{2 * layer}")
    copy_weights(theirs, "head.classification_head.cls_logits", ours, "anchors.head.logits")
    copy_weights(theirs, "head.regression_head.bbox_reg", ours, "anchors.head.deltas")
    return ours, theirs


PAIRS = {"faster_rcnn": faster_rcnns, "retinanet": retinanets}


def generator(anchors: object) -> AnchorGenerator:
    assert isinstance(anchors, AnchorGrid)
    return AnchorGenerator(anchors.sizes, (anchors.ratios,) * len(anchors.sizes))


def preprocessing(features: nn.Module, size: list[int]) -> dict[str, Any]:
    """torchvision's arguments for our normalization and no resizing."""
    mean, std = (features.get_buffer(name).flatten().tolist() for name in ("mean", "std"))
    return {"image_mean": mean, "image_std": std, "min_size": min(size), "max_size": max(size)}


def randomize(layer: nn.Module, deviation: float) -> None:
    nn.init.normal_(layer.get_parameter("weight"), std=deviation)


def copy_weights(
    theirs: nn.Module, their: str, ours: nn.Module, our: str, change: Callable[[Tensor], Tensor] = lambda rows: rows
) -> None:
    """Copies the weights of one layer."""
    weights = {name: change(rows) for name, rows in ours.get_submodule(our).state_dict().items()}
    theirs.get_submodule(their).load_state_dict(weights)


def make_images(count: int, size: tuple[int, int], device: torch.device) -> tuple[Images, list[Target]]:
    """Images of noise, with eight objects each."""
    height, width = size
    noise = torch.Generator().manual_seed(0)
    pixels = torch.rand(count, 3, height, width, generator=noise) * 255
    whole, targets = torch.tensor([width, height]), []
    for _ in range(count):
        corner = 0.6 * torch.rand(8, 2, generator=noise) * whole
        extent = (0.1 + 0.3 * torch.rand(8, 2, generator=noise)) * whole
        labels = torch.randint(CLASSES, (8,), generator=noise)
        targets.append(Target(torch.cat([corner, corner + extent], 1), labels).to(device))
    return Images(pixels, torch.tensor([size] * count)).to(device), targets


def compare(title: str, ours: Callable[[], object], theirs: Callable[[], object], options: argparse.Namespace) -> None:
    """Times both in a number of rounds, in alternating order, and prints the medians and the ratio."""
    sides = (ours, theirs)
    for run in sides * 2:
        run()
    times: tuple[list[float], list[float]] = ([], [])
    for round in range(options.rounds):
        for side in (0, 1) if round % 2 else (1, 0):
            times[side].append(seconds(sides[side], options))
    ratios = [their / our for our, their in zip(*times, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    our, their = (1000 * statistics.median(column) for column in times)
    print(f"{title:34}{our:9.1f} ms{their:9.1f} ms    {middle:.2f} ({low:.2f} to {high:.2f})", flush=True)


def seconds(run: Callable[[], object], options: argparse.Namespace) -> float:
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    started = clock()
    run()
    if options.device.startswith("cuda"):
        torch.cuda.synchronize()
    return clock() - started


def step(model: nn.Module, losses: dict[str, Tensor]) -> None:
    model.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()


def race(name: str, ours: Detector, theirs: nn.Module, options: argparse.Namespace) -> None:
    """Times inference of one image and of a batch, then training steps."""
    images, targets = make_images(options.batch, tuple(options.size), torch.device(options.device))
    first = name == "faster_rcnn"  # there torchvision numbers the classes from 1
    their_targets = [{"boxes": target.boxes, "labels": target.labels + first} for target in targets]

    theirs.eval()
    with torch.inference_mode():
        ours_found = [len(detections) for detections in ours.detect(images)]
        their_found = [len(detections["boxes"]) for detections in theirs(list(images.pixels))]
        print(f"{name} finds {ours_found}, torchvision's {their_found}")
        for batch in (images[:1], images):
            title = f"{name} inference, batch {len(batch)}"
            compare(
                title, lambda batch=batch: ours.detect(batch), lambda batch=batch: theirs(list(batch.pixels)), options
            )
    theirs.train()
    compare(
        f"{name} training, batch {len(images)}",
        lambda: step(ours, ours.loss(images, targets)),
        lambda: step(theirs, theirs(list(images.pixels), their_targets)),
        options,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", nargs="+", default=list(PAIRS), choices=PAIRS)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=[320, 416], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size, machine = "x".join(map(str, options.size)), f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, {machine}, {options.threads} threads")
    print(f"{options.backbone}, {size}, {options.device}, {options.clock} time, {options.rounds} rounds")
    print(f"{'':34}{'ours':>12}{'theirs':>12}    ratio")
    for name in options.detectors:
        torch.manual_seed(0)
        ours, theirs = (side.to(options.device) for side in PAIRS[name](options.backbone, options.size))
        race(name, ours, theirs, options)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
