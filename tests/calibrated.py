"""Detectors with random weights that give dozens of detections of varied classes in photographs, and photographs.

Batch norms take their statistics from images, and all other layers are scaled to outputs with a given mean and standard
deviation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CLASSES = 90

LAST = {
    "rpn.head.cls_logits": (0.0, 2.0),
    "rpn.head.bbox_pred": (0.0, 0.05),
    "roi_heads.box_predictor.cls_score": (0.0, 1.2),
    "roi_heads.box_predictor.bbox_pred": (0.0, 0.25),
    "head.classification_head.cls_logits": (-6.0, 1.0),
    "head.regression_head.bbox_reg": (0.3, 0.1),
    "head.regression_head.bbox_ctrness": (0.0, 1.0),
    **{f"head.classification_head.module_list.{level}": (0.0, 0.9 if level < 3 else 0.2) for level in range(6)},
    **{f"head.regression_head.module_list.{level}": (0.0, 0.5 if level < 3 else 0.1) for level in range(6)},
}
"""Names or prefixes of the last layers of torchvision's detectors, and the mean and deviation of their outputs. Those
of an SSD's coarsest levels are small: they have few cells for statistics."""


def photographs() -> dict[str, np.ndarray]:
    """Ten real photographs of different sizes, uint8 RGB, none wider or higher than 330 pixels."""
    from PIL import Image
    from skimage import data
    from sklearn.datasets import load_sample_images

    whole = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    whole |= {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}
    small = {
        name: np.asarray(Image.fromarray(photo).reduce(2), dtype=np.uint8) for name, photo in sorted(whole.items())
    }
    return small | {
        "astronaut's face": whole["astronaut"][0:256, 120:360],
        "chelsea's eyes": whole["chelsea"][60:200, 90:420],
        "cup": whole["coffee"][60:380, 120:330],
        "roofs": whole["china"][200:310, 300:630],
    }


def calibrate(model: Any, detect: Callable[[], object], background: float = 0.0) -> None:
    """Set the norms, and shift and scale all other layers, while `detect` calls the model on images.

    Every channel gets mean and deviation 1 (Salimans, Kingma 2016, "Weight Normalization", section 3), those of the
    last layers the values in `LAST`. Without it a random network amplifies rounding errors a thousandfold.

    background  is added to the first logit of a softmax: the more, the fewer detections
    """
    branches = {name for name, _ in model.named_modules() if name.endswith("bn3")}
    branches |= {f"{name}.block.{len(m.block) - 1}.1" for name, m in model.named_modules() if _has_shortcut(m)}
    with torch.no_grad(), ExitStack() as stack:
        for name, layer in model.named_modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
                layer.momentum = None
                layer.train()
                if name in branches:
                    layer.weight.fill_(0.1)  # in trained networks too, branches are weaker than their shortcuts
            elif isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                hook = _Standardise(*_mean_and_deviation(name, layer))
                stack.callback(layer.register_forward_hook(hook).remove)
        detect()
        for name, layer in model.named_modules():
            if name.endswith("cls_score"):
                layer.bias[0] += background
            elif re.fullmatch(r"head.classification_head.module_list.\d", name):
                last: Any = layer if isinstance(layer, nn.Conv2d) else layer[-1]
                last.bias.view(-1, model.head.classification_head.num_columns)[:, 0] += background
    model.eval()


def _has_shortcut(module: Any) -> bool:
    """Of MobileNet's blocks in torchvision."""
    return bool(getattr(module, "use_res_connect", False))


def _mean_and_deviation(name: str, layer: nn.Module) -> tuple[float, float]:
    last = [values for prefix, values in LAST.items() if name.startswith(prefix)]
    depthwise = getattr(layer, "groups", 1) > 1
    return last[0] if last and not depthwise else (1.0, 1.0)


class _Standardise:
    """A hook that rescales the weight, bias and output of a layer at the first call."""

    def __init__(self, mean: float, deviation: float) -> None:
        self.mean, self.deviation, self.done = mean, deviation, False

    def __call__(self, layer: nn.Module, _: object, output: Tensor) -> Tensor | None:
        if self.done:
            return None
        columns = output.transpose(0, 1).flatten(1)  # (C, everywhere)
        if columns.shape[1] < 2:
            return None
        self.done = True
        mean, deviation = columns.mean(1), columns.std(1)
        factor = self.deviation / deviation.clamp(min=0.1 * deviation.mean())
        shift = self.mean - mean * factor
        layer.weight *= factor.view(-1, *[1] * (layer.weight.ndim - 1))  # type: ignore[operator]
        layer.bias.mul_(factor).add_(shift)  # type: ignore[operator, union-attr]
        shape = (1, -1, *[1] * (output.ndim - 2))
        return output * factor.view(shape) + shift.view(shape)
