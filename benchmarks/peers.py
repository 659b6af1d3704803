"""Detectors of torchvision and Detectron2 beside ours, for the other scripts: the same weights, images and steps."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from boxwright.detectors import Detector
from boxwright.types import Images, Target
from boxwright.zoo import detectron2, torchvision

CLASSES = 90
TORCHVISION = {
    "faster_rcnn": "fasterrcnn_resnet50_fpn",
    "retinanet": "retinanet_resnet50_fpn",
    "fcos": "fcos_resnet50_fpn",
    "mobilenet": "fasterrcnn_mobilenet_v3_large_320_fpn",
    "ssd": "ssd300_vgg16",
    "ssdlite": "ssdlite320_mobilenet_v3_large",
}
"""Our names of pairs, and torchvision's builders."""

DETECTRON2 = {"faster_rcnn": "faster_rcnn_R_50_FPN_1x", "retinanet": "retinanet_R_50_FPN_1x"}
"""The same, and configs of Detectron2's model zoo."""

LAST = {
    r"rpn\.head\.cls_logits|rpn_head\.objectness_logits": (0.0, 2.0),
    r"rpn\.head\.bbox_pred|rpn_head\.anchor_deltas": (0.0, 0.2),
    r"box_predictor\.cls_score": (0.0, 1.2),
    r"box_predictor\.bbox_pred": (0.0, 0.25),
    r"classification_head\.cls_logits|^head\.cls_score": (-6.0, 1.0),
    r"regression_head\.bbox_reg|^head\.bbox_pred": (0.3, 0.1),
    r"regression_head\.bbox_ctrness": (0.0, 1.0),
    r"classification_head\.module_list": (0.0, 0.9),
    r"regression_head\.module_list": (0.0, 0.5),
    r"(^|\.)logits$": (0.0, 1.0),
    r"(^|\.)deltas$": (0.0, 0.2),
    r"(^|\.)centerness$": (0.0, 1.0),
}
"""Last layers, theirs and ours, and the mean and deviation of their outputs."""


class Sides(NamedTuple):
    """Ours and a peer's with the same weights, and the same batch for both."""

    ours: Detector
    theirs: nn.Module
    images: Images
    targets: list[Target]
    their_images: list[Any]
    their_targets: list[dict[str, Tensor]]


def make_images(
    count: int, size: tuple[int, int], device: torch.device, classes: int = CLASSES, objects: int = 8
) -> tuple[Images, list[Target]]:
    """Smooth spots in noise, with so many objects each, and 60 proposals around and about."""
    noise = torch.Generator().manual_seed(0)
    height, width = size
    coarse = torch.rand(count, 3, max(2, height // 32), max(2, width // 32), generator=noise)
    pixels = 200 * F.interpolate(coarse, size, mode="bilinear") + 55 * torch.rand(count, 3, *size, generator=noise)
    whole, targets, proposals = torch.tensor([width, height]), [], []
    for _ in range(count):
        corner = 0.6 * torch.rand(objects, 2, generator=noise) * whole
        boxes = torch.cat([corner, corner + (0.1 + 0.3 * torch.rand(objects, 2, generator=noise)) * whole], 1)
        targets.append(Target(boxes, torch.randint(classes, (objects,), generator=noise)).to(device))
        near = boxes[:8].repeat(4, 1)
        near = near + 0.02 * width * (torch.rand(near.shape, generator=noise) - 0.5)
        corners = (torch.rand(60 - len(near), 2, 2, generator=noise) * whole).sort(dim=1).values.flatten(1)
        proposals.append(torch.cat([near, corners]).clamp(min=0).minimum(whole.repeat(2)))
    return Images(pixels, torch.tensor([size] * count), torch.stack(proposals)).to(device), targets


def settle(model: nn.Module, run: Callable[[], object]) -> None:
    """While `run` calls the model once: batch norms take their statistics, `LAST` layers get the outputs listed there.

    Without it the boxes of random weights are all alike, and their scores too. Residual branches become weaker than
    their shortcuts, as in trained networks: otherwise a random network amplifies rounding.
    """
    branches = {name for name, _ in model.named_modules() if name.endswith(("bn3", "conv3.norm"))}
    branches |= {
        f"{name}.block.{len(cast(nn.Sequential, block.block)) - 1}.1"
        for name, block in model.named_modules()
        if getattr(block, "use_res_connect", False)  # of torchvision's MobileNets
    }
    hooks: dict[nn.Module, Any] = {}

    def take_statistics(layer: Any, inputs: tuple[Tensor]) -> None:
        hooks.pop(layer).remove()
        layer.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        layer.running_var.copy_(inputs[0].var((0, 2, 3)))

    def scale(mean: float, deviation: float, layer: Any, _: object, output: Tensor) -> Tensor:
        hooks.pop(layer).remove()
        columns = output.transpose(0, 1).flatten(1)  # (channels, everywhere)
        factor = deviation / columns.std(1).clamp(min=1e-6)
        shift = mean - columns.mean(1) * factor
        layer.weight.mul_(factor.view(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias.mul_(factor).add_(shift)
        shape = (1, -1, *[1] * (output.ndim - 2))
        return output * factor.view(shape) + shift.view(shape)

    model.eval()
    for name, layer in model.named_modules():
        numbers = [numbers for pattern, numbers in LAST.items() if re.search(pattern, name)]
        if name in branches:
            nn.init.constant_(cast(Tensor, layer.weight), 0.1)
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        elif hasattr(layer, "running_var"):  # a frozen norm
            hooks[layer] = layer.register_forward_pre_hook(take_statistics)
        elif numbers and isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            hooks[layer] = layer.register_forward_hook(functools.partial(scale, *numbers[0]))
    with torch.no_grad():
        run()
        for name, values in model.named_buffers():
            if name.endswith("running_var"):
                values.clamp_(min=0.1 * float(values.mean()))  # the few cells of a coarse map may be alike by chance
    model.eval()


def freeze_norms(module: nn.Module) -> None:
    """Every batch norm becomes torchvision's frozen one, as where it trains from pretrained weights."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, eps=child.eps)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen.to(child.weight.device))
        else:
            freeze_norms(child)


def build_sides(
    name: str, count: int, size: tuple[int, int], device: torch.device, pre_nms_top_k: int = 0, objects: int = 8
) -> Sides:
    """torchvision's detector, ours from its weights, and `count` images.

    pre_nms_top_k  of the regions of Faster R-CNN; 0 for as many as an import has, so many that it is no limit, as in
                   torchvision
    """
    builder = TORCHVISION[name]
    softmax, regions = int(torchvision.NAMES[builder].softmax), name in ("faster_rcnn", "mobilenet")
    torch.manual_seed(0)
    options = torchvision.DEFAULTS if "ssd" in name else torchvision.Arguments(min_size=min(size), max_size=max(size))
    theirs: Any = torchvision.build(builder, CLASSES, arguments=options)
    theirs.to(device)
    if name == "faster_rcnn":  # as many proposals in training as in detection
        theirs.rpn._pre_nms_top_n["training"] = theirs.rpn._post_nms_top_n["training"] = 1000
    images, targets = make_images(count, size, device, objects=objects)
    images = images.replace(proposals=images.proposals[:, :0])
    their_images = list(images.pixels / 255)
    settle(theirs, lambda: theirs(their_images[:2]))
    config: Any = torchvision.configure(builder)
    if regions and pre_nms_top_k:
        config = replace(config, pre_nms_top_k=pre_nms_top_k)
    ours = config.build(CLASSES)
    state = {key: value.cpu() for key, value in theirs.state_dict().items()}
    ours.load_state_dict(torchvision.convert(builder, state, CLASSES))
    ours.to(device)
    if name != "ssdlite":  # the published one was not trained from frozen norms
        freeze_norms(theirs)
    learning = {key: parameter.requires_grad for key, parameter in ours.named_parameters()}
    for key, parameter in theirs.named_parameters():
        renamed = torchvision.rename(key, torchvision.NAMES[builder].prefixes)
        parameter.requires_grad_(learning.get(renamed, False))
    their_targets = [{"boxes": target.boxes, "labels": target.labels + softmax} for target in targets]
    return Sides(ours, theirs, images, targets, their_images, their_targets)


def build_detectron2(name: str, count: int, size: tuple[int, int]) -> Sides:
    """Detectron2's detector, ours from its weights, and `count` images. Raises ImportError where it is missing."""
    foreign, num_classes = detectron2.foreign(DETECTRON2[name]), 80
    torch.manual_seed(0)
    theirs = foreign.reference({}, num_classes).args[0]  # type: ignore[attr-defined]
    images, targets = make_images(count, size, torch.device("cpu"), num_classes)
    images = images.replace(proposals=images.proposals[:, :0])
    their_images = [{"image": pixels.flip(0)} for pixels in images.pixels]
    settle(theirs, lambda: theirs(their_images[:2]))
    ours: Any = foreign.config.build(num_classes)
    ours.load_state_dict(foreign.convert(theirs.state_dict(), num_classes))
    return Sides(ours, theirs, images, targets, their_images, [])


def precision(device: torch.device, name: str) -> AbstractContextManager[object]:
    """The arithmetic "bf16" or "fp32", as a context."""
    return torch.autocast(device.type, torch.bfloat16) if name == "bf16" else nullcontext()


def stepper(
    model: nn.Module, losses: Callable[[], dict[str, Tensor]], device: torch.device, arithmetic: str
) -> Callable[[], None]:
    """A training step of a plain model: forward, backward, the gradient's norm limited, AdamW."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision(device, arithmetic):
            total = torch.stack([value.float() for value in losses().values()]).sum()
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()

    return step


class Repeated:
    """Batches that are one and the same, for `Training`."""

    def __init__(self, images: Images, targets: list[Target], count: int) -> None:
        self.batch, self.count, self.dataset = (images, targets), count, range(count * len(images))
        self.batch_size, self.seed, self.rank, self.world = len(images), 0, 0, 1

    def __len__(self) -> int:
        return self.count

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Images, list[Target]]]:
        return iter([self.batch] * (self.count - start))
