"""Detectron2's model zoo: configs that compute the same functions, and the conversion of their weights.

Numbers and names are those of its configs (COCO-Detection/*.yaml and their bases), model_zoo.py and MODEL_ZOO.md at
https://github.com/facebookresearch/detectron2. Two differences are removed in the weights: images are BGR there, so the
first convolution is flipped; the anchors of a cell are ordered by size, then ratio there, and by ratio, then size here,
so the rows of the heads are permuted. All others are options in the configs below.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxwright.units import shown
from boxwright.untrusted import UntrustedError, limited
from boxwright.zoo import weights
from boxwright.zoo.coco import NAMES
from boxwright.zoo.foreign import Arguments, Foreign, ForeignError, Published, check, few, rows

if TYPE_CHECKING:
    import numpy as np

    from boxwright.boxes.anchors import AnchorGrid
    from boxwright.detectors.config import FasterRCNNConfig, FastRCNNConfig, RetinaNetConfig, RPNConfig
    from boxwright.proposals import Propose
    from boxwright.types import Detections
    from boxwright.zoo.foreign import Detect, State

    Config = FasterRCNNConfig | FastRCNNConfig | RetinaNetConfig | RPNConfig

LICENCE = "CC BY-SA 3.0 (MODEL_ZOO.md)"
SITE = "https://dl.fbaipublicfiles.com/detectron2/COCO-Detection"
FILES = {
    "faster_rcnn_R_50_C4_1x": "137257644/model_final_721ade.pkl",
    "faster_rcnn_R_50_DC5_1x": "137847829/model_final_51d356.pkl",
    "faster_rcnn_R_50_FPN_1x": "137257794/model_final_b275ba.pkl",
    "faster_rcnn_R_50_C4_3x": "137849393/model_final_f97cb7.pkl",
    "faster_rcnn_R_50_DC5_3x": "137849425/model_final_68d202.pkl",
    "faster_rcnn_R_50_FPN_3x": "137849458/model_final_280758.pkl",
    "faster_rcnn_R_101_C4_3x": "138204752/model_final_298dad.pkl",
    "faster_rcnn_R_101_DC5_3x": "138204841/model_final_3e0943.pkl",
    "faster_rcnn_R_101_FPN_3x": "137851257/model_final_f6e8b1.pkl",
    "faster_rcnn_X_101_32x8d_FPN_3x": "139173657/model_final_68b088.pkl",
    "retinanet_R_50_FPN_1x": "190397773/model_final_bfca0b.pkl",
    "retinanet_R_50_FPN_3x": "190397829/model_final_5bd44e.pkl",
    "retinanet_R_101_FPN_3x": "190397697/model_final_971ab9.pkl",
    "fast_rcnn_R_50_FPN_1x": "137635226/model_final_e5f7ce.pkl",
    "rpn_R_50_C4_1x": "137258005/model_final_450694.pkl",
    "rpn_R_50_FPN_1x": "137258492/model_final_02ce48.pkl",
}
PUBLISHED = {
    name: Published(
        name=f"detectron2:{name}", file=file.rpartition("/")[2], url=f"{SITE}/{name}/{file}", licence=LICENCE
    )
    for name, file in FILES.items()
}

BACKBONES = {"R_50": "resnet50_msra", "R_101": "resnet101_msra", "X_101_32x8d": "resnext101_32x8d"}
MEAN = (123.675, 116.28, 103.53)
STD = {"X_101_32x8d": (58.395, 57.12, 57.375)}
"""RGB, if not 1: Caffe's networks have the scale in their first convolution."""
SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)

LOGITS = {
    "faster_rcnn": "roi_heads.box_predictor.cls_score.weight",
    "fast_rcnn": "roi_heads.box_predictor.cls_score.weight",
    "retinanet": "head.cls_score.weight",
    "rpn": "proposal_generator.rpn_head.objectness_logits.weight",
}
"""The weight of the classification layer by kind of detector."""

DEFAULTS = Arguments()
"""The values of its configs."""

RENAMED = (
    (r"^regions\.head\.hidden\.backbone\.body", "roi_heads"),
    (r"\bbn(\d)\b", r"conv\1.norm"),
    (r"\bdownsample\.0\b", "shortcut"),
    (r"\bdownsample\.1\b", "shortcut.norm"),
    (r"^proposer\.head\.class_tower\.0", "proposal_generator.rpn_head.conv"),
    (r"^proposer\.head\.logits", "proposal_generator.rpn_head.objectness_logits"),
    (r"^proposer\.head\.deltas", "proposal_generator.rpn_head.anchor_deltas"),
    (r"^regions\.head\.hidden\.1\b", "roi_heads.box_head.fc1"),
    (r"^regions\.head\.hidden\.3\b", "roi_heads.box_head.fc2"),
    (r"^regions\.head\.logits", "roi_heads.box_predictor.cls_score"),
    (r"^regions\.head\.deltas", "roi_heads.box_predictor.bbox_pred"),
    (r"^anchors\.head\.class_tower", "head.cls_subnet"),
    (r"^anchors\.head\.box_tower", "head.bbox_subnet"),
    (r"^anchors\.head\.logits", "head.cls_score"),
    (r"^anchors\.head\.deltas", "head.bbox_pred"),
)
"""Regular expressions of names here to those of Detectron2, for names that do not depend on the config."""


def cached(published: Published) -> Path:
    """The published file in the cache of Detectron2."""
    folder = os.environ.get("FVCORE_CACHE", "~/.torch/iopath_cache")
    return Path(os.path.expanduser(folder), published.url.split("/", 3)[3])


def foreign(name: str, arguments: Arguments = DEFAULTS) -> Foreign:
    """One of `PUBLISHED`, ready to be converted.

    arguments  values of its config: INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST, MODEL.ANCHOR_GENERATOR.SIZES and
               ASPECT_RATIOS, MODEL.PIXEL_MEAN and PIXEL_STD
    """
    from boxwright.data.preprocess import Preprocess

    about = PUBLISHED[name.removeprefix("detectron2:")]
    name = about.name.removeprefix("detectron2:")
    config, kind = configure(name), re.split("_(?=[RX]_)", name)[0]
    arguments.refuse(name, "norm_eps", *(("anchor_sizes", "aspect_ratios") if kind == "fast_rcnn" else ()))
    config = replace(config, **arguments.options(lambda values: values[::-1]))
    fill: Any = config.pixel_mean  # three numbers
    divisor = 32 if getattr(config, "variant", "fpn") == "fpn" else 1
    return Foreign(
        **vars(about),
        config=config,
        preprocess=Preprocess(
            short=arguments.min_size or 800,
            long=arguments.max_size or 1333,
            divisor=divisor,
            fill=fill,
            resample="pillow",
        ),
        names=("object",) if kind == "rpn" else tuple(NAMES.values()),
        logits=LOGITS[kind],
        convert=partial(convert, config, about.name),
        threshold=0.0 if kind == "rpn" else 0.05,  # a network of proposals has none
        count_classes=count_classes,
        reference=partial(reference, name, config, arguments),
    )


def configure(name: str) -> Config:
    """The config of a name such as faster_rcnn_R_50_FPN_1x."""
    from boxwright.detectors import FasterRCNNConfig, FastRCNNConfig, RetinaNetConfig, RPNConfig

    model, variant, _ = name.rsplit("_", 2)
    kind, depth = re.split("_(?=[RX]_)", model)
    known: dict[str, Any] = {
        "backbone": BACKBONES[depth],
        "pixel_mean": MEAN,
        "pixel_std": STD.get(depth, (1.0, 1.0, 1.0)),
        "convention": "detectron2",
    }
    if kind == "retinanet":
        sizes = tuple(size * 2 ** (step / 3) for size in SIZES for step in range(3))
        known |= {"assignment": "max_iou", "class_loss": "focal", "box_loss": "smooth_l1", "head_norm": "none"}
        return RetinaNetConfig(**known, channels=256, extra_from="backbone", anchor_sizes=sizes)
    fpn = variant == "FPN"
    known |= {"levels": (2, 3, 4, 5), "channels": 256} if fpn else {"variant": variant.lower()}
    if kind == "rpn":
        top_k = 1000 if fpn else 12000
        return RPNConfig(**known, anchor_sizes=SIZES, proposals=2000, rpn_pre_nms_top_k=top_k)
    # There is no top-k there; at most 19 scores of a region pass 0.05, since they sum to 1.
    known |= {"region_samples": 512, "proposals": 1000, "pre_nms_top_k": 19 * 1000}
    known |= {} if variant == "C4" else {"hidden": 1024}
    if kind == "fast_rcnn":
        return FastRCNNConfig(**known)
    return FasterRCNNConfig(**known, anchor_sizes=SIZES, rpn_pre_nms_top_k=1000 if fpn else 6000)


def read(path: str | Path) -> State:
    """The weights in a .pkl of the model zoo, or all tensors in a .pth of its trainer.

    Executes nothing. Raises ForeignError if the file is damaged, refers to more than arrays, or has no detector.
    """
    if Path(path).suffix != ".pkl":
        return weights.read(path)
    from boxwright.untrusted.pickles import read_pickle  # imports numpy, which listing models does not need

    try:
        content = read_pickle(path)
        if not isinstance(content, dict):
            raise ForeignError(f"{path}: expected a dict with weights under 'model', got a {type(content).__name__}")
        if content.get("matching_heuristics") or "model" not in content:
            raise ForeignError(
                f"{path} has weights in Caffe2's layout, or of a backbone alone such as R-50.pkl: expected a detector "
                f"of the model zoo, a model_final_*.pkl; its keys are {few(sorted(map(str, content)))}"
            )
        return _tensors(path, content["model"])
    except UntrustedError as error:
        raise ForeignError(str(error)) from error


def _tensors(path: str | Path, arrays: Any) -> State:
    """The arrays as tensors; one that has several names is copied once."""
    import numpy as np
    import torch

    if not isinstance(arrays, dict):
        raise ForeignError(f"{path}: expected names to arrays under 'model', got a {type(arrays).__name__}")
    for key, value in arrays.items():
        if not isinstance(value, np.ndarray):
            raise ForeignError(f"{path}: expected an array of numbers for {shown(key)}, got a {type(value).__name__}")
    arrays = limited(((str(key), value) for key, value in arrays.items()), path)
    copies = {id(value): value for value in arrays.values()}
    copies = {key: value.astype(value.dtype.newbyteorder("="), order="C") for key, value in copies.items()}
    return {key: torch.from_numpy(copies[id(value)]) for key, value in arrays.items()}


def count_classes(state: State) -> int:
    """The number of classes, from the rows of the head."""
    if (logits := state.get("head.cls_score.weight")) is not None:
        return rows(logits) // max(1, rows(state.get("head.bbox_pred.weight", logits)) // 4)
    if (logits := state.get("roi_heads.box_predictor.cls_score.weight")) is not None:
        return rows(logits) - 1
    if "proposal_generator.rpn_head.objectness_logits.weight" in state:
        return 1
    raise ForeignError(
        "these are not the weights of a Detectron2 detector: expected head.cls_score.weight or "
        f"roi_heads.box_predictor.cls_score.weight, found {few(sorted(state))}"
    )


def reference(name: str, config: Config, arguments: Arguments, state: State, num_classes: int) -> Detect:
    """Detectron2's own model with this state dict, on the CPU; a Fast R-CNN has the proposals of ours.

    Raises ImportError where Detectron2 is not installed.
    """
    from detectron2 import model_zoo  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]
    from detectron2.modeling import build_model  # pyright: ignore[reportMissingImports]

    from boxwright.boxes.anchors import anchor_sizes
    from boxwright.detectors import FastRCNNConfig

    cfg = model_zoo.get_config(f"COCO-Detection/{name}.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = num_classes
    cfg.INPUT.MIN_SIZE_TEST = arguments.min_size or cfg.INPUT.MIN_SIZE_TEST
    cfg.INPUT.MAX_SIZE_TEST = arguments.max_size or cfg.INPUT.MAX_SIZE_TEST
    cfg.MODEL.PIXEL_MEAN = list(arguments.mean) or cfg.MODEL.PIXEL_MEAN
    cfg.MODEL.PIXEL_STD = list(arguments.std) or cfg.MODEL.PIXEL_STD
    anchors = cfg.MODEL.ANCHOR_GENERATOR
    if arguments.anchor_sizes:
        anchors.SIZES = [list(sizes) for sizes in anchor_sizes(anchors.SIZES, (), arguments.anchor_sizes)]
    if arguments.aspect_ratios:
        anchors.ASPECT_RATIOS = [list(arguments.aspect_ratios)]
    model = build_model(cfg).eval()
    model.load_state_dict(state, strict=False)  # some versions keep buffers in it, which `convert` checks
    return partial(detect, model, cfg.INPUT, config.build_proposer() if isinstance(config, FastRCNNConfig) else None)


def detect(model: Any, sizes: Any, propose: Propose | None, images: Sequence[np.ndarray]) -> list[Detections]:
    """The detections of a Detectron2 model in a batch of RGB images, uint8 (H, W, 3), as its DefaultPredictor has them.

    sizes    MIN_SIZE_TEST and MAX_SIZE_TEST
    propose  from an image to the proposals of a Fast R-CNN
    """
    import torch
    from detectron2.data.transforms import ResizeShortestEdge  # pyright: ignore[reportMissingImports]
    from detectron2.structures import Boxes, Instances  # pyright: ignore[reportMissingImports]

    from boxwright.types import Detections

    inputs: list[dict[str, Any]] = []
    for image in images:
        resize = ResizeShortestEdge([sizes.MIN_SIZE_TEST] * 2, sizes.MAX_SIZE_TEST).get_transform(image)
        pixels = torch.from_numpy(resize.apply_image(image[:, :, ::-1]).astype("float32")).permute(2, 0, 1)
        inputs.append({"image": pixels, "height": image.shape[0], "width": image.shape[1]})
        if propose is not None:
            proposals = Instances(tuple(pixels.shape[1:]))
            proposals.proposal_boxes = Boxes(torch.as_tensor(resize.apply_box(propose(image)), dtype=torch.float32))
            proposals.proposal_boxes.clip(proposals.image_size)
            inputs[-1]["proposals"] = proposals[proposals.proposal_boxes.nonempty()]
    with torch.inference_mode():
        outputs = model(inputs)
    found = []
    for output in outputs:
        if (instances := output.get("instances")) is not None:
            found.append(Detections(instances.pred_boxes.tensor, instances.scores, instances.pred_classes))
        else:
            boxes, logits = output["proposals"].proposal_boxes.tensor, output["proposals"].objectness_logits
            found.append(Detections(boxes, logits.sigmoid(), torch.zeros(len(boxes), dtype=torch.int64)))
    return found


def convert(config: Config, name: str, state: State, num_classes: int) -> State:
    """Detectron2's state dict as that of `config.build(num_classes)`.

    Raises ForeignError with the differences, in Detectron2's names.
    """
    import torch

    with torch.device("meta"):  # whether the shapes fit is known before there is memory for them
        detector = config.build(num_classes)
    grid, expected = _anchors_of(detector), detector.state_dict()
    original = {key: original_name(key, config) for key in expected}
    # Numbers of the config, which some versions of Detectron2 store beside the weights.
    is_buffer = re.compile(r"pixel_(mean|std)$|.*anchor_generator\.cell_anchors\.").match
    buffers = {key: value for key, value in state.items() if is_buffer(key)}
    weights = {key: value for key, value in state.items() if key not in buffers}
    check(weights, {original[key]: value for key, value in expected.items()}, name)
    _check_buffers(buffers, config, grid, name)

    converted = {key: state[original[key]].float() for key in expected}
    first = "features.backbone.body.conv1.weight"
    converted[first] = converted[first].flip(1)
    if grid is not None:
        cell = (len(grid.sizes[0]), len(grid.ratios), -1)
        for key in converted:
            if re.match(r"(proposer|anchors)\.head\.(logits|deltas)\.", key):
                converted[key] = converted[key].unflatten(0, cell).transpose(0, 1).flatten(0, 2)
    return {key: value.contiguous() for key, value in converted.items()}


def original_name(key: str, config: Config) -> str:
    """Detectron2's name of a tensor."""
    network = "backbone.bottom_up" if getattr(config, "variant", "fpn") == "fpn" else "backbone"
    key = re.sub(r"^features\.backbone\.body(?=\.(conv|bn)1)", f"{network}.stem", key)
    key = key.replace("features.backbone.body", network)
    for pattern, replacement in RENAMED:
        key = re.sub(pattern, replacement, key)
    for pattern, replacement, first in (
        (r"\blayer", "res", 1),
        (r"^features\.neck\.lateral\.", "backbone.fpn_lateral", config.levels[0]),
        (r"^features\.neck\.output\.", "backbone.fpn_output", config.levels[0]),
        (r"^features\.neck\.extra\.", "backbone.top_block.p", config.levels[-1] + 1),
    ):
        if match := re.search(pattern + r"(\d)", key):
            key = f"{key[: match.start()]}{replacement}{int(match[1]) + first}{key[match.end() :]}"
    return key


def _anchors_of(detector: Any) -> AnchorGrid | None:
    """The anchors of a Faster R-CNN or a RetinaNet; a Fast R-CNN has none."""
    stage = getattr(detector, "proposer", None) or getattr(detector, "anchors", None)
    return None if stage is None else stage.anchors


def _check_buffers(buffers: State, config: Config, grid: AnchorGrid | None, name: str) -> None:
    """Raises ForeignError if the weights were trained with another normalisation or other anchors."""
    import torch

    of_config = {key: list(reversed(getattr(config, key))) for key in ("pixel_mean", "pixel_std")}
    if grid is not None:
        for level, sizes in enumerate(grid.sizes):
            halves = [(s / r**0.5 / 2, s * r**0.5 / 2) for s in sizes for r in grid.ratios]
            of_config[f"anchor_generator.cell_anchors.{level}"] = [side for w, h in halves for side in (-w, -h, w, h)]
    for key, value in buffers.items():
        stored = value.flatten().float()
        expected = torch.tensor(of_config.get(key.removeprefix("proposal_generator."), []))
        if stored.shape != expected.shape or not torch.allclose(stored, expected, atol=1e-2):
            starts = [[round(number, 2) for number in numbers.tolist()[:4]] for numbers in (stored, expected)]
            raise ForeignError(
                f"the weights were not trained as {name}: {key} begins {starts[0]}, expected {starts[1]}; give "
                f"--{'anchor-sizes and --aspect-ratios' if 'anchor' in key else key.removeprefix('pixel_')}"
            )
