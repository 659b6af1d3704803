"""Detectron2's files: read, renamed and reordered; and the errors for other files."""

from __future__ import annotations

import os
import pickle
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from boxwright.detectors import FastRCNNConfig
from boxwright.zoo import detectron2
from boxwright.zoo.convert import _original
from boxwright.zoo.foreign import Arguments, ForeignError, look_up
from boxwright.zoo.weights import find

State = dict[str, Tensor]
FPN = "detectron2:faster_rcnn_R_50_FPN_3x"
C4 = "detectron2:faster_rcnn_R_50_C4_1x"


@pytest.fixture(scope="module")
def config() -> Any:
    """That of the FPN with few channels."""
    return replace(detectron2.foreign(FPN).config, channels=8, hidden=8)


@pytest.fixture(scope="module")
def state(config: Any) -> State:
    """Weights for it in Detectron2's names, of three classes."""
    tensors = config.build(3).state_dict()
    return {detectron2.original_name(key, config): value + 0.1 for key, value in tensors.items()}


def convert(config: Any, state: State) -> State:
    return detectron2.convert(config, FPN, state, detectron2.count_classes(state))


def zoo_file(path: Path, state: dict[str, Any], **more: Any) -> Path:
    arrays = {key: value.numpy() for key, value in state.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo", **more}, protocol=2))
    return path


def test_what_is_published() -> None:
    about = look_up(FPN)
    assert about.url == (
        "https://dl.fbaipublicfiles.com/detectron2/COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl"
    )
    assert about.file == "model_final_280758.pkl" and about.licence.startswith("CC BY-SA 3.0")
    kinds = [name.partition("_R_")[0].partition("_X_")[0] for name in detectron2.PUBLISHED]
    assert {kind: kinds.count(kind) for kind in kinds} == {"faster_rcnn": 10, "retinanet": 3, "fast_rcnn": 1, "rpn": 2}
    assert len({about.url for about in detectron2.PUBLISHED.values()}) == len(kinds)


def test_the_cache_of_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    folder = tmp_path / "detectron2" / "COCO-Detection" / "faster_rcnn_R_50_FPN_3x" / "137849458"
    assert detectron2.cached(look_up(FPN)) == folder / "model_final_280758.pkl"


def test_thresholds() -> None:
    """Those of Detectron2's configs. All proposals of an RPN are its output."""
    thresholds = {detectron2.foreign(name).threshold for name in detectron2.PUBLISHED if not name.startswith("rpn")}
    assert thresholds == {0.05}
    assert detectron2.foreign("rpn_R_50_FPN_1x").threshold == detectron2.foreign("rpn_R_50_C4_1x").threshold == 0.0


def test_names() -> None:
    fpn, c4 = (detectron2.configure(name.removeprefix("detectron2:")) for name in (FPN, C4))
    retinanet = detectron2.configure("retinanet_R_50_FPN_1x")
    for config, name, original in (
        (fpn, "features.backbone.body.bn1.running_var", "backbone.bottom_up.stem.conv1.norm.running_var"),
        (fpn, "features.backbone.body.layer3.5.bn2.bias", "backbone.bottom_up.res4.5.conv2.norm.bias"),
        (fpn, "features.neck.lateral.0.weight", "backbone.fpn_lateral2.weight"),
        (fpn, "regions.head.hidden.3.bias", "roi_heads.box_head.fc2.bias"),
        (c4, "features.backbone.body.layer1.0.downsample.1.weight", "backbone.res2.0.shortcut.norm.weight"),
        (c4, "regions.head.hidden.backbone.body.layer4.0.conv1.weight", "roi_heads.res5.0.conv1.weight"),
        (c4, "proposer.head.class_tower.0.bias", "proposal_generator.rpn_head.conv.bias"),
        (retinanet, "features.neck.output.0.weight", "backbone.fpn_output3.weight"),
        (retinanet, "features.neck.extra.1.weight", "backbone.top_block.p7.weight"),
        (retinanet, "anchors.head.box_tower.6.bias", "head.bbox_subnet.6.bias"),
    ):
        assert detectron2.original_name(name, config) == original


def test_colours_and_anchors_are_reordered() -> None:
    """From BGR to RGB; and of 5 sizes in 3 ratios, the original's 4th anchor, size 1 in ratio 0, is the 2nd here."""
    config = cast(Any, detectron2.foreign(C4).config)
    tensors = config.build(1).state_dict()
    state = {detectron2.original_name(key, config): value for key, value in tensors.items()}
    stem, rpn = "backbone.stem.conv1.weight", "proposal_generator.rpn_head"
    state[stem] = torch.arange(3.0).view(1, 3, 1, 1).expand(64, 3, 7, 7)
    state[f"{rpn}.objectness_logits.bias"] = torch.arange(15.0)
    state[f"{rpn}.anchor_deltas.bias"] = torch.arange(60.0)
    converted = detectron2.convert(config, C4, state, 1)
    assert converted["features.backbone.body.conv1.weight"][0, :, 0, 0].tolist() == [2, 1, 0]
    order = [0, 3, 6, 9, 12, 1, 4, 7, 10, 13, 2, 5, 8, 11, 14]
    assert converted["proposer.head.logits.bias"].tolist() == order
    deltas = converted["proposer.head.deltas.bias"].tolist()
    assert deltas == [4 * anchor + side for anchor in order for side in range(4)]
    assert state[stem][0, :, 0, 0].tolist() == [0, 1, 2]  # the original state is unchanged


def test_images() -> None:
    """Padding is the mean, which normalises to zero; only a feature pyramid needs sides divisible by 32."""
    fpn, c4, x101 = (detectron2.foreign(name) for name in (FPN, C4, "faster_rcnn_X_101_32x8d_FPN_3x"))
    config, x101_config = cast(Any, fpn.config), cast(Any, x101.config)
    assert fpn.preprocess.fill == config.pixel_mean == (123.675, 116.28, 103.53)
    assert (fpn.preprocess.divisor, c4.preprocess.divisor) == (32, 1)
    assert config.pixel_std == (1, 1, 1) and x101_config.pixel_std == (58.395, 57.12, 57.375)
    assert fpn.names[0] == "person" and fpn.names[-1] == "toothbrush" and len(fpn.names) == 80


@pytest.mark.parametrize("trainer", [False, True])
def test_from_file_to_detector(tmp_path: Path, config: Any, state: State, trainer: bool) -> None:
    """A .pkl of the zoo, and a .pth of the trainer, which contains buffers beside the weights."""
    anchors = {f"proposal_generator.anchor_generator.cell_anchors.{level}": cell for level, cell in enumerate(CELLS)}
    pixels = {"pixel_mean": torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    if trainer:
        path = tmp_path / "model_0000009.pth"
        optimizer = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.02}]}
        torch.save({"model": state | anchors | pixels, "optimizer": optimizer, "iteration": 9}, path)
    else:
        path = zoo_file(tmp_path / "model_final_280758.pkl", state | anchors)
    content = find(detectron2.read(path), detectron2.LOGITS["faster_rcnn"]).state
    assert detectron2.count_classes(content) == 3
    detector = config.build(3)
    detector.load_state_dict(convert(config, content))
    torch.testing.assert_close(
        detector.features.backbone.body.conv1.weight, state["backbone.bottom_up.stem.conv1.weight"].flip(1)
    )
    fc1 = detector.get_parameter("regions.head.hidden.1.weight")
    assert torch.equal(fc1, state["roi_heads.box_head.fc1.weight"])


CELLS = [
    size * torch.tensor([[-(2**0.5), -(0.5**0.5)], [-1.0, -1.0], [-(0.5**0.5), -(2**0.5)]]).repeat(1, 2)
    / 2
    * torch.tensor([1, 1, -1, -1])
    for size in (32, 64, 128, 256, 512)
]  # fmt: skip
"""The anchors around (0, 0), by level, with height / width .5, 1, 2."""


def test_another_model(config: Any, state: State) -> None:
    """One error lists missing and unexpected tensors in Detectron2's names."""
    with pytest.raises(ForeignError, match=r"not the weights of .*C4_1x.* missing \(backbone\.res2.*not expected"):
        detectron2.foreign(C4).convert(state, 3)
    less = {key: value for key, value in state.items() if key != "backbone.fpn_lateral3.bias"}
    with pytest.raises(ForeignError, match=r"1 missing \(backbone\.fpn_lateral3\.bias\)$"):
        convert(config, less)
    with pytest.raises(ForeignError, match=r"1 not expected \(roi_heads\.mask_head\.deconv\.weight\)$"):
        convert(config, state | {"roi_heads.mask_head.deconv.weight": torch.zeros(1)})
    wide = state | {"roi_heads.box_head.fc1.bias": torch.zeros(9)}
    with pytest.raises(ForeignError, match=r"roi_heads\.box_head\.fc1\.bias of \(9,\) rather than \(8,\)"):
        convert(config, wide)
    with pytest.raises(ForeignError, match=r"expected head\.cls_score\.weight or roi_heads\."):
        detectron2.count_classes({"fc.weight": torch.zeros(2, 2)})


def test_weights_of_another_config(config: Any, state: State) -> None:
    key = "proposal_generator.anchor_generator.cell_anchors.1"
    with pytest.raises(
        ForeignError,
        match=rf"trained as .*: {re.escape(key)} begins \[-22\.63, .*expected \[-45\.25.*give --anchor-sizes",
    ):
        convert(config, state | {key: CELLS[0]})
    with pytest.raises(ForeignError, match=r"pixel_mean begins \[123\.68, .*expected \[103\.53.*give --mean$"):
        convert(config, state | {"pixel_mean": torch.tensor([123.675, 116.28, 103.53])})


def test_files_without_a_detector(tmp_path: Path) -> None:
    path = tmp_path / "R-50.pkl"
    backbone = {"stem.conv1.weight": torch.zeros(2)}
    for file in (zoo_file(path, backbone, matching_heuristics=True), path):
        with pytest.raises(ForeignError, match=r"R-50\.pkl has weights .*of a backbone alone"):
            detectron2.read(file)
        path.write_bytes(pickle.dumps({"blobs": {"conv1_w": np.zeros(2)}}))
    path.write_bytes(pickle.dumps([np.zeros(2)]))
    with pytest.raises(ForeignError, match="expected a dict with weights under 'model', got a list"):
        detectron2.read(path)
    path.write_bytes(pickle.dumps({"model": {"a": "b"}}))
    with pytest.raises(ForeignError, match="expected an array of numbers for a, got a str"):
        detectron2.read(path)
    path.write_bytes(pickle.dumps({"model": {"a": np.zeros(1000)}})[:-500])
    with pytest.raises(ForeignError, match="not a whole pickle"):
        detectron2.read(path)
    with pytest.raises(ForeignError, match="no such file|No such file"):
        detectron2.read(tmp_path / "none.pkl")


def test_arguments_of_the_config() -> None:
    """Pixels are BGR there."""
    given = Arguments(min_size=600, max_size=900, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), aspect_ratios=(0.5, 2.0))
    foreign = detectron2.foreign(FPN, given)
    config: Any = foreign.config
    assert config.pixel_mean == foreign.preprocess.fill == (3, 2, 1) and config.pixel_std == (6, 5, 4)
    assert (foreign.preprocess.short, foreign.preprocess.long, config.aspect_ratios) == (600, 900, (0.5, 2))
    with pytest.raises(
        ForeignError, match=r"aspect_ratios of fast_rcnn_R_50_FPN_1x is fixed; leave out --aspect-ratios"
    ):
        detectron2.foreign("fast_rcnn_R_50_FPN_1x", given)
    with pytest.raises(ForeignError, match=r"leave out --norm-eps"):
        detectron2.foreign(FPN, Arguments(norm_eps=0.0))


class Installed(SimpleNamespace):
    """Detectron2's modules as far as a reference needs them: the model returns `output`, and records its inputs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **output: Any) -> None:
        super().__init__(inputs=[], output=output, state=None)
        anchors = SimpleNamespace(SIZES=[[32], [64], [128], [256], [512]], ASPECT_RATIOS=[[0.5, 1.0, 2.0]])
        heads = {name: SimpleNamespace(NUM_CLASSES=80) for name in ("ROI_HEADS", "RETINANET")}
        pixels = {"PIXEL_MEAN": [1.0, 2.0, 3.0], "PIXEL_STD": [1.0, 1.0, 1.0]}
        self.cfg = SimpleNamespace(
            MODEL=SimpleNamespace(DEVICE="cuda", ANCHOR_GENERATOR=anchors, **heads, **pixels),
            INPUT=SimpleNamespace(MIN_SIZE_TEST=800, MAX_SIZE_TEST=1333),
        )
        self.eval = lambda: self
        resize = SimpleNamespace(
            apply_image=lambda image: image.repeat(2, 0).repeat(2, 1), apply_box=lambda boxes: 2 * boxes
        )
        for name, content in {
            "detectron2": {"__version__": "0.6"},
            "detectron2.model_zoo": {"get_config": self.config},
            "detectron2.modeling": {"build_model": lambda cfg: self},
            "detectron2.data.transforms": {
                "ResizeShortestEdge": lambda *sizes: SimpleNamespace(sizes=sizes, get_transform=lambda image: resize)
            },
            "detectron2.structures": {"Boxes": Boxes, "Instances": Instances},
        }.items():
            module: Any = ModuleType(name)
            vars(module).update(content, __path__=[])
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setitem(sys.modules, "detectron2.data", ModuleType("detectron2.data"))

    def config(self, name: str) -> SimpleNamespace:
        self.name = name
        return self.cfg

    def load_state_dict(self, state: State, strict: bool) -> None:
        self.state = state

    def __call__(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.inputs.append(inputs)
        return [self.output for _ in inputs]


class Boxes:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def clip(self, size: tuple[int, int]) -> None:
        self.tensor = self.tensor.clamp(min=0, max=max(size))

    def nonempty(self) -> Tensor:
        return (self.tensor[:, 2:] > self.tensor[:, :2]).all(1)


class Instances:
    def __init__(self, size: tuple[int, int]) -> None:
        self.image_size, self.proposal_boxes = size, Boxes(torch.zeros(0, 4))

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.proposal_boxes.tensor[rows]


BOX = Boxes(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))


def test_the_installed_library_is_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets its own config with these numbers, the weights, and resized images as BGR."""
    found = SimpleNamespace(pred_boxes=BOX, scores=torch.tensor([0.5]), pred_classes=torch.tensor([2]))
    library = Installed(monkeypatch, instances=found)
    sizes = (16.0, 32.0, 64.0, 128.0, 256.0)
    given = Arguments(min_size=600, mean=(4.0, 5.0, 6.0), anchor_sizes=sizes, aspect_ratios=(1.0,))
    state = {"a": torch.ones(1)}
    detect = detectron2.foreign(FPN, given).reference(state, 3)
    cfg, anchors = library.cfg, library.cfg.MODEL.ANCHOR_GENERATOR
    assert library.name == "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml" and library.state is state
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == cfg.MODEL.RETINANET.NUM_CLASSES == 3 and cfg.MODEL.DEVICE == "cpu"
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (600, 1333)
    assert (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD) == ([4, 5, 6], [1, 1, 1])
    assert anchors.SIZES == [[16], [32], [64], [128], [256]] and anchors.ASPECT_RATIOS == [[1.0]]
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    (first, second) = detect([image, image])
    ((given_image, _),) = library.inputs
    assert (given_image["height"], given_image["width"], given_image["image"].shape) == (2, 3, (3, 4, 6))
    assert given_image["image"][:, 0, 0].tolist() == [2, 1, 0]
    assert first.boxes.tolist() == second.boxes.tolist() == [[1, 2, 3, 4]] and first.labels.tolist() == [2]


def test_proposals_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """An RPN's are its detections, scored by the sigmoid of their logits; a Fast R-CNN's are given, resized."""
    found = SimpleNamespace(proposal_boxes=BOX, objectness_logits=torch.tensor([0.0]))
    library = Installed(monkeypatch, proposals=found)
    image = np.zeros((20, 30, 3), np.uint8)
    (detections,) = detectron2.foreign("rpn_R_50_FPN_1x").reference({}, 1)([image])
    assert detections.scores.tolist() == [0.5] and detections.labels.tolist() == [0]
    boxes = np.array([[1, 2, 3, 4], [5, 5, 5, 9]], np.float32)
    monkeypatch.setattr(FastRCNNConfig, "build_proposer", lambda self: lambda image: boxes)
    detectron2.foreign("fast_rcnn_R_50_FPN_1x").reference({}, 1)([image])
    assert library.inputs[-1][0]["proposals"].tolist() == [[2, 4, 6, 8]]  # the other is empty


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    model, given = detectron2.foreign(FPN), Arguments()
    original, against = _original(model, {}, 3, given)
    assert original is None and against.startswith("boxwright itself at the time of import, since detectron2 is not")
    Installed(monkeypatch)
    original, against = _original(model, {}, 3, given)
    assert original is not None and against == "detectron2 0.6 as it builds the model without arguments"


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_nothing_is_executed(tmp_path: Path, suffix: str) -> None:
    mark, path = tmp_path / "mark", tmp_path / f"model{suffix}"

    class Harm:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {mark}",)

    content = {"model": {"weight": torch.ones(2) if suffix == ".pth" else np.ones(2), "harm": Harm()}}
    torch.save(content, path) if suffix == ".pth" else path.write_bytes(pickle.dumps(content))
    with pytest.raises(ForeignError, match=r"model\.p"):
        detectron2.read(path)
    assert not mark.exists()
