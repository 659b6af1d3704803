"""Images in every form give named boxes in their own pixels."""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch

import boxwright
from boxwright.data.image import ImageError, limit_megapixels
from boxwright.data.preprocess import Preprocess
from boxwright.detectors.base import Detector
from boxwright.detectors.config import DETECTORS, FasterRCNNConfig
from boxwright.device import choose_device
from boxwright.predict.predictor import InputImage, Predictor, Result
from boxwright.types import Images, Slots
from halves import NAMES, Halves, halves, overlapping

IMAGE = np.zeros((200, 301, 3), np.uint8)  # of which the detector sees 64 x 96
WHOLE, HALF = [0, 0, 301, 200], [0, 0, 150.5, 200]


def test_boxes_are_in_pixels_of_the_image_as_it_was_given():
    result = halves()(IMAGE, threshold=0.0)
    torch.testing.assert_close(result.boxes, torch.tensor([WHOLE, HALF], dtype=torch.float32))
    assert result.label_names == ["whole", "half"]
    assert result.labels.tolist() == [0, 1]
    assert result.scores.tolist() == pytest.approx([0.9, 0.4])
    assert result.size == (200, 301)
    assert result.path is None


def test_a_score_equal_to_the_threshold_suffices():
    predictor = halves()
    assert predictor(IMAGE).label_names == ["whole"]  # its own threshold is .5
    exact = float(torch.tensor(0.4))
    assert predictor(IMAGE, threshold=exact).label_names == ["whole", "half"]
    assert predictor(IMAGE, threshold=exact + 1e-6).label_names == ["whole"]
    assert len(predictor(IMAGE, threshold=1.0)) == 0


def test_only_the_classes_that_are_wanted():
    predictor = halves()
    assert predictor(IMAGE, 0.0, classes=["half"]).label_names == ["half"]
    assert predictor(IMAGE, 0.0, classes="half").label_names == ["half"]
    assert predictor(IMAGE, 0.0, classes=[]).label_names == []
    with pytest.raises(ValueError, match="no class is called dog; this model has whole, half"):
        predictor(IMAGE, classes=["half", "dog"])


def test_a_path_an_array_and_a_pil_image_give_the_same(tmp_path: Path):
    path = tmp_path / "photo.png"
    PIL.Image.fromarray(IMAGE).save(path)
    predictor, data = halves(), path.read_bytes()
    in_memory = (data, bytearray(data), memoryview(data), io.BytesIO(data), path.open("rb"))
    for source in (
        path, str(path), IMAGE, IMAGE[..., 0], PIL.Image.fromarray(IMAGE), InputImage.open(path), *in_memory
    ):  # fmt: skip
        result = predictor(source)
        assert isinstance(result, Result)
        torch.testing.assert_close(result.boxes, torch.tensor([WHOLE], dtype=torch.float32))
        np.testing.assert_array_equal(result.image, IMAGE)
    assert predictor(path).path == path
    assert [r.label_names for r in predictor([data, io.BytesIO(data), path])] == [["whole"]] * 3
    assert predictor(data, "0.3").label_names == ["whole", "half"]  # pyright: ignore


def test_several_images_give_several_results_whatever_the_batch():
    images = [np.zeros((height, 50, 3), np.uint8) for height in (10, 20, 30, 40, 50)]
    for batch, counts in ((1, [1] * 5), (2, [2, 1, 1, 1]), (8, [1, 2, 1, 1])):  # 20 and 30 have the same canvas
        predictor = halves()
        results = predictor(iter(images), batch=batch)
        assert [result.boxes.tolist() for result in results] == [[[0, 0, 50, h]] for h in (10, 20, 30, 40, 50)]
        assert isinstance(predictor.detector, Halves) and predictor.detector.batches == counts
    assert halves()([]) == []


def sees_padding(images: Images) -> Slots:
    """As networks do: the score is the mean of all pixels of the batch's canvas."""
    boxes = torch.cat([torch.zeros_like(images.sizes), images.sizes.flip(1)], dim=1)[:, None].float()  # (N, 1, 4)
    scores = images.pixels.mean((1, 2, 3), dtype=torch.float64)[:, None].float() / 255
    return Slots(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), torch.ones_like(scores, dtype=torch.bool))


def test_results_do_not_depend_on_the_batch():
    random = np.random.default_rng(0)
    images = [random.integers(0, 255, (*random.integers(20, 60, 2), 3), np.uint8) for _ in range(60)]
    predictor = Predictor(sees_padding, NAMES, Preprocess(short=64, long=128), threshold=0)
    alone = [(result.scores.item(), result.boxes.tolist()) for result in predictor(images)]
    assert len({score for score, _ in alone}) > 30
    for batch in (4, 8, 60):
        assert [(result.scores.item(), result.boxes.tolist()) for result in predictor(images, batch=batch)] == alone


def test_a_stream_of_mixed_shapes_holds_four_batches_at_most():
    """Wide and tall by turns, after a square one: images of one canvas share a batch, and the square one does not wait
    for another."""
    read, counts = [], []

    def images():
        for number, shape in enumerate([(50, 50), *[(40, 60), (60, 40)] * 9]):
            read.append(number)
            yield np.full((*shape, 3), number, np.uint8)

    predictor = halves()
    stream = predictor.stream(images(), batch=3)
    for number, result in enumerate(stream):
        assert result.image[0, 0, 0] == number
        counts.append(len(read) - number)
    assert counts[0] == 4 * 3 and max(counts) == 4 * 3
    assert isinstance(predictor.detector, Halves) and predictor.detector.batches == [3, 3, 3, 1, 3, 3, 3]


def test_a_stream_reads_no_further_than_it_is_asked_to():
    def images():
        yield IMAGE
        raise AssertionError("the second image was read before it was needed")

    assert next(halves().stream(images())).label_names == ["whole"]


def test_what_is_no_image_is_said(tmp_path: Path):
    predictor = halves()
    with pytest.raises(ImageError, match="no such file"):
        predictor(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match="folder"):
        predictor(str(tmp_path))
    with pytest.raises(ImageError, match=r"channels last"):
        predictor(np.zeros((3, 20, 30), np.uint8))
    (tmp_path / "text.jpg").write_text("text")
    with pytest.raises(ImageError, match="expected a file open in binary mode"), (tmp_path / "text.jpg").open() as file:
        predictor(file)  # pyright: ignore
    for source in (None, 7, [7]):
        with pytest.raises(ImageError, match="expected a path, .*, got (NoneType|int)"):
            predictor(source)  # pyright: ignore


def test_options_that_make_no_sense_are_said_before_anything_is_read():
    predictor = halves()
    for threshold in (50, "high", "nan", [0.5]):
        with pytest.raises(ValueError, match="a score threshold is a number between 0 and 1, got "):
            predictor.stream([], threshold=threshold)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="1 or more, got 0"):
        predictor.stream([], batch=0)
    with pytest.raises(ValueError, match="no class is called dog"):
        predictor.stream([], classes=["dog"])


def test_to_dict_is_what_json_can_hold():
    detections = halves()(IMAGE, 0.0).to_dict()
    assert detections == {
        "path": None,
        "width": 301,
        "height": 200,
        "threshold": 0.0,
        "detections": [
            {"name": "whole", "label": 0, "score": 0.9, "box": [0.0, 0.0, 301.0, 200.0]},
            {"name": "half", "label": 1, "score": 0.4, "box": [0.0, 0.0, 150.5, 200.0]},
        ],
    }


def test_a_result_is_a_sequence_of_detections():
    result = halves()(IMAGE, 0.25)
    assert [(name, round(score, 1), box, label) for name, score, box, label in result] == [
        ("whole", 0.9, (0, 0, 301, 200), 0), ("half", 0.4, (0, 0, 150.5, 200), 1),
    ]  # fmt: skip
    assert (result[0].name, result[-1].name, result.threshold) == ("whole", "half", 0.25)
    assert result[:1].label_names == ["whole"] and result[result.scores < 0.5].label_names == ["half"]
    assert halves()(IMAGE)[:1].threshold == 0.5  # the model's own
    with pytest.raises(IndexError):
        result[2]


def test_a_result_is_saved_as_an_image_or_json_by_its_suffix(tmp_path: Path):
    PIL.Image.fromarray(IMAGE).save(tmp_path / "photo.png")
    result = halves()(tmp_path / "photo.png")
    for name in ("new/boxes.jpg", "boxes.PNG"):
        saved = result.save(tmp_path / name)
        assert PIL.Image.open(saved).size == (301, 200)
    assert json.loads(result.save(str(tmp_path / "boxes.json")).read_text()) == result.to_dict()
    result.save(tmp_path / "boxes.json")  # its own file is replaced
    (tmp_path / "mine.json").write_text("mine")
    for name, message in [("photo.png", "the input"), ("mine.json", "boxwright did not write"), ("x.csv", ".json or")]:
        with pytest.raises(ValueError, match=message):
            result.save(tmp_path / name)
    assert (tmp_path / "mine.json").read_text() == "mine"


def test_a_notebook_shows_the_boxes():
    shown = PIL.Image.open(io.BytesIO(halves()(np.zeros((3000, 1500, 3), np.uint8))._repr_png_()))
    assert (shown.format, shown.size) == ("PNG", (512, 1024)) and np.asarray(shown).any()


def test_tensors_are_images_with_their_channels_first():
    image = torch.zeros(3, 200, 301, dtype=torch.uint8)
    image[0] = 255
    red = np.asarray(image.permute(1, 2, 0))
    for given in (image, image / 255, (image / 255).half(), image.double() / 255):
        assert np.array_equal(InputImage.open(given).image, red)
    assert halves()(image).size == (200, 301)
    assert np.array_equal(InputImage.open(image[:1]).image, np.full((200, 301, 3), 255))  # grey


def test_a_batch_is_several_images():
    batch = torch.zeros(2, 3, 200, 301)
    for images in (batch, np.zeros((2, 200, 301, 3))):
        results: Any = halves()(images)
        assert [result.size for result in results] == [(200, 301)] * 2


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(20, 30, 3), r"expected a tensor \(C, H, W\).*got shape \(20, 30, 3\); move .*permute\(2, 0, 1\)"),
        (torch.zeros(20, 30), r"got shape \(20, 30\); pass one image, or a batch \(N, C, H, W\)"),
        (torch.zeros(2, 20, 30, 3), r"got shape \(20, 30, 3\); move the channels first"),
        (torch.full((3, 20, 30), 255.0), "expected floats in 0..1, got 255..255; divide by"),
        (torch.zeros(3, 20, 30, dtype=torch.int64), "expected uint8, uint16, bool or floats 0..1, got int64"),
        (np.zeros((2, 3, 20, 30), np.uint8), r"move the channels last: image.transpose\(1, 2, 0\)"),
    ],
)
def test_an_array_that_is_no_image_is_refused_with_the_mend(image: torch.Tensor, message: str):
    with pytest.raises(ImageError, match=message):
        halves()(image)


def test_to_coco_has_width_and_height_and_the_datasets_own_ids():
    result = halves()(IMAGE, 0.0)
    first, second = result.to_coco(image_id=7)
    assert first == {
        "image_id": 7,
        "category_id": 1,
        "category_name": "whole",
        "bbox": pytest.approx([0, 0, 301, 200]),
        "score": pytest.approx(0.9),
    }
    assert second["bbox"] == pytest.approx([0, 0, 150.5, 200])
    assert [entry["category_id"] for entry in result.to_coco(7, {"whole": 90, "half": 3})] == [90, 3]
    for ids in ({"whole": 90}, {}):
        with pytest.raises(ValueError, match="category_ids has no id for .*half; it has (whole|none). Add"):
            result.to_coco(7, ids)
    assert [entry["category_id"] for entry in halves()(IMAGE).to_coco(7, {"whole": 90})] == [90]


def test_the_summary_counts_by_class():
    result = halves()(IMAGE, 0.0)
    assert result.summary() == "1 whole, 1 half"
    assert repr(result) == "Result(1 whole, 1 half)"
    assert halves()(IMAGE, 1.0).summary() == "nothing"


def test_draw_changes_the_drawing_and_not_the_image():
    result = halves()(IMAGE)
    drawing = np.asarray(result.draw())
    assert drawing.shape == IMAGE.shape and drawing.any()
    assert not result.image.any()


def test_the_package_gives_its_names_lazily():
    assert boxwright.Result is Result
    assert callable(boxwright.load)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        boxwright.nothing  # noqa: B018


def test_a_device_that_is_not_there_is_said():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match="no device 'gpu': expected auto, cpu, cuda"):
        choose_device("gpu")
    with pytest.raises(ValueError, match="'cuda:99' was asked for"):
        choose_device("cuda:99")


def test_labels_and_names_agree():
    result = halves()(IMAGE, 0.0)
    assert result.names == NAMES
    assert [result.names[label] for label in result.labels.tolist()] == result.label_names


def test_proposals_arrive_in_pixels_of_the_resized_image():
    predictor = halves()
    seen = []
    predictor.propose = lambda image: np.array([[0, 0, image.shape[1], 100]], np.float32)
    slots = predictor.detector.slots
    predictor.detector.slots = lambda images: (seen.append(images.proposals), slots(images))[1]
    predictor([IMAGE, IMAGE[:, :290]], batch=2)
    assert seen[0].shape == (2, 1, 4)
    torch.testing.assert_close(seen[0][:, 0], torch.tensor([[0.0, 0, 96, 32], [0, 0, 93, 32]]), atol=1, rtol=0)


def lower_quarter(images: Images) -> Slots:
    """A program of a few lines: the right lower quarter of each image, and a box that reaches beyond it."""
    height, width = images.sizes.float().T
    quarter = torch.stack([width / 2, height / 2, width, height], dim=1)
    boxes = torch.stack([quarter, quarter + 10], dim=1)  # (N, 2, 4)
    labels = torch.tensor([[1, 0]]).expand(len(images), 2)
    scores = torch.tensor([[0.8, 0.6]]).expand(len(images), 2)
    return Slots(boxes, scores, labels, torch.ones_like(labels, dtype=torch.bool))


def test_any_function_from_images_to_slots_is_a_program():
    predictor = Predictor(lower_quarter, NAMES, Preprocess(short=64, long=128))
    result = predictor(IMAGE)
    assert result.label_names == ["half", "whole"]
    expected = torch.tensor([[150.5, 100, 301, 200], [150.5 + 10 * 301 / 96, 100 + 10 * 200 / 64, 301, 200]])
    torch.testing.assert_close(result.boxes, expected)  # clipped to the image
    with pytest.raises(TypeError, match="has no detector"):
        predictor.detector  # noqa: B018
    other = halves().with_program(lower_quarter)
    assert other(IMAGE).label_names == ["half", "whole"] and halves()(IMAGE).label_names == ["whole"]


@pytest.mark.parametrize("learning", [True, False])
def test_a_detector_runs_in_evaluation_mode_and_keeps_its_own(learning: bool):
    predictor = halves()
    modes = []
    slots = predictor.detector.train(learning).slots
    predictor.detector.slots = lambda images: (modes.append(predictor.detector.training), slots(images))[1]
    predictor(IMAGE)
    assert modes == [False] and predictor.detector.training == learning


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pil_image_is_taken_as_given_and_a_file_is_turned_upright(orientation: int, tmp_path: Path):
    """Crops, copies and turned images keep the EXIF orientation of their file; boxes are in their pixels."""
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    PIL.Image.fromarray(IMAGE).save(path, exif=exif)
    assert halves()(path).boxes.tolist() == [[0, 0, 301, 200] if orientation < 5 else [0, 0, 200, 301]]
    with PIL.Image.open(path) as image:
        turned = image.transpose(PIL.Image.Transpose.ROTATE_90)
        made = (image.copy(), image.crop((0, 0, 100, 50)), image.resize((90, 60)), turned, image)
        made = (*made, PIL.ImageOps.exif_transpose(image))
        assert [part.getexif().get(0x0112) for part in made[1:4]] == [orientation] * 3
        results = halves()(made)
    for part, result in zip(made, results, strict=True):
        assert result.size == (part.height, part.width)
        assert result.boxes.tolist() == [[0, 0, part.width, part.height]]


@pytest.mark.parametrize("name", DETECTORS)
def test_the_selection_of_a_detector_is_that_of_its_detections(name: str):
    config = replace(DETECTORS[name](), score_threshold=(0.0625,))
    selection = config.build(3, pretrained=False).selection
    assert selection is not None and selection.score_threshold == 0.0625


def faster_rcnn(score_threshold: tuple[float, ...] = (0.25,)) -> Predictor:
    """Random weights, whose scores are about a third."""
    torch.manual_seed(0)
    config = FasterRCNNConfig(backbone="mobilenet_v2", channels=8, hidden=16, score_threshold=score_threshold)
    return Predictor(config.build(2, pretrained=False), NAMES, Preprocess(short=64, long=96))


@pytest.mark.parametrize("score_threshold", [(0.9,), (0.9, 0.3)])
def test_a_threshold_below_that_of_the_detector_lowers_it_for_the_call(score_threshold: tuple[float, ...]):
    """Of every class."""
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    expected = faster_rcnn((0.0,))(image, threshold=0.3)
    predictor = faster_rcnn(score_threshold)
    assert predictor.floor == 0.9
    state = list(predictor.detector.parameters())
    found = predictor(image, threshold=0.3)
    assert len(found) and torch.equal(found.boxes, expected.boxes) and torch.equal(found.scores, expected.scores)
    assert 0 < len(predictor(image, threshold=float(found.scores.min()))) == len(found)  # equal suffices
    assert (
        predictor.threshold == 0.5 and len(predictor(image)) == 0 and predictor.floor == 0.9
    )  # the others stay as they were
    assert all(one is other for one, other in zip(state, predictor.detector.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changes", "scores"),
    [
        ({}, [0.9, 0.7]),
        ({"nms": 0.7}, [0.9, 0.8, 0.7]),
        ({"agnostic_nms": True}, [0.9]),
        ({"nms": 0.7, "agnostic_nms": True}, [0.9, 0.8]),
        ({"max_detections": 1}, [0.9]),
        ({"nms": 1, "max_detections": 2}, [0.9, 0.8]),
    ],
)
def test_another_selection_by_hand(changes: dict[str, Any], scores: list[float]):
    predictor, image = overlapping(), np.zeros((32, 32, 3), np.uint8)
    assert predictor.with_selection(**changes)(image).scores.tolist() == pytest.approx(scores)
    assert len(predictor(image)) == 2  # it stays as it was


def test_detections_are_the_best_of_the_classes_and_may_be_more_than_the_detector_has():
    image = np.zeros((32, 32, 3), np.uint8)
    assert [*overlapping().with_selection(max_detections=1)(image, classes=["half"]).label_names] == ["half"]
    few = overlapping(slots=1)
    assert (len(few(image)), len(few.with_selection(max_detections=2)(image))) == (1, 2)
    assert few.with_selection(nms=0.3).with_selection(max_detections=3)(image, threshold=0.01).scores.shape == (2,)


def test_a_selection_that_cannot_be_is_refused():
    predictor = overlapping()
    compiled = predictor.with_program(predictor.detector.slots)
    assert len(compiled.with_selection(max_detections=1)(np.zeros((32, 32, 3), np.uint8))) == 1
    refused: list[tuple[Predictor, dict[str, Any], str]] = [
        (compiled, {"nms": 0.3}, "cannot select its detections otherwise; an eager program can"),
        (halves(), {"agnostic_nms": True}, "Halves has no Select"),
        (predictor, {"nms": 45}, "nms is an IoU between 0 and 1, got 45"),
        (predictor, {"max_detections": 0}, "max_detections is 1 or more, got 0"),
    ]
    for other, changes, message in refused:
        with pytest.raises(ValueError, match=message):
            other.with_selection(**changes)


def test_a_program_that_cannot_lower_its_threshold_says_so():
    class Fixed:
        """As `Compiled`, whose import takes seconds."""

        def __init__(self, detector: Detector) -> None:
            self.detector = detector

        def __call__(self, images: Images) -> Slots:
            return self.detector.slots(images)

    predictor = faster_rcnn()
    predictor = predictor.with_program(Fixed(predictor.detector))
    with pytest.warns(UserWarning, match=r"detections below 0\.25, .* are missing at the threshold 0\.1: "):
        predictor.stream([], threshold=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor.stream([], threshold=0.25)
        predictor.stream([])


def test_boxes_in_an_image_decoded_smaller_are_in_pixels_of_the_file(tmp_path: Path):
    file = tmp_path / "large.jpg"
    PIL.Image.fromarray(IMAGE).save(file)
    predictor = Predictor(lower_quarter, NAMES, Preprocess(short=64, long=128))
    predictor.propose = lambda image: np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)
    with limit_megapixels(0.02):
        image = InputImage.open(file)
        (result,) = predictor.stream([file])
    assert image.image.shape == (100, 151, 3) and image.size == result.size == (200, 301)
    assert predictor(IMAGE).size == (200, 301)
    torch.testing.assert_close(result.boxes[0], torch.tensor([150.5, 100, 301, 200]))
    prepared, _ = predictor.prepare([image], predictor.proposals([image]))
    assert prepared.proposals is not None and prepared.proposals[0, 0].tolist() == [0, 0, 97, 64]
    assert result.draw().size == (151, 100) and result.to_dict()["width"] == 301
