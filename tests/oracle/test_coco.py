"""`metrics.coco` against pycocotools, bit for bit, and against the numbers published with COCO's own fixture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from boxwright.metrics.coco import METRICS, RECALLS, Evaluation, evaluate, evaluate_files
from boxwright.types import Detections, Target

NAMES = ("often", "sometimes", "crowded", "only crowds", "never")
NOTHING = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))


def random_scene(seed: int) -> tuple[list[Detections], list[Target]]:
    """Thirty images with everything on which evaluators tend to differ.

    Crowds; scores in tenths, so that most are tied; images without objects, detections, or both; objects of exactly
    32² and 96² and annotated areas that are not the box's; boxes hit exactly, at IoU .5 exactly, or twice; and an
    image with 450 detections of one class.
    """
    rng = np.random.default_rng(seed)
    found, targets = [], []
    for image in range(30):
        n_objects = 0 if image % 7 == 0 else int(rng.integers(1, 12))
        corners = rng.uniform(0, 400, (n_objects, 2))
        sides = rng.choice([[32, 32], [16, 64], [96, 96], [36, 256], [12.3, 45.6], [150, 200.7]], n_objects)
        sides = sides * np.where(rng.uniform(size=(n_objects, 1)) < 0.5, 1, rng.uniform(0.5, 1.5, (n_objects, 1)))
        objects = np.concatenate([corners.round(), corners.round() + sides], axis=1).astype(np.float32)
        labels = rng.integers(0, 3, n_objects)
        crowd = rng.uniform(size=n_objects) < np.where(labels == 2, 0.4, 0.05)
        labels[crowd & (rng.uniform(size=n_objects) < 0.3)] = 3
        area = np.prod(objects[:, 2:] - objects[:, :2], axis=1)
        area = np.where(rng.uniform(size=n_objects) < 0.3, area * rng.uniform(0.4, 1, n_objects), area)
        targets.append(
            Target(
                torch.from_numpy(objects),
                torch.from_numpy(labels),
                crowd=torch.from_numpy(crowd),
                area=torch.from_numpy(area.astype(np.float32)),
            )
        )
        copies = rng.integers(0, 3, n_objects) * (image % 5 != 0)
        near = np.repeat(objects, copies, axis=0)
        moved = near + rng.normal(0, 5, near.shape) * rng.integers(0, 2, (len(near), 1))
        halved = rng.uniform(size=len(near)) < 0.1
        moved[halved, 3] = (near[halved, 1] + near[halved, 3]) / 2
        n_chance = 450 if image == 11 else int(rng.integers(0, 10)) * (image % 5 != 0)
        corners = rng.uniform(0, 400, (n_chance, 2))
        boxes = np.concatenate(
            [moved, np.concatenate([corners, corners + rng.uniform(20, 150, (n_chance, 2))], axis=1)]
        )
        chance_labels = np.zeros(n_chance, int) if image == 11 else rng.integers(0, 5, n_chance)
        order = rng.permutation(len(boxes))
        found.append(
            Detections(
                torch.from_numpy(boxes.astype(np.float32))[order],
                torch.from_numpy(rng.integers(1, 10, len(boxes)).astype(np.float32) / 10),
                torch.from_numpy(np.concatenate([np.repeat(labels, copies), chance_labels]))[order],
            )
        )
    return found, targets


def as_coco(found: list[Detections], targets: list[Target]) -> tuple[Any, Any]:
    """The scene as the contents of an annotation and a results file."""
    annotations = [
        {"image_id": image, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": area, "iscrowd": crowd}
        for image, target in enumerate(targets)
        for (x1, y1, x2, y2), label, area, crowd in zip(
            *(column.tolist() for column in (target.boxes, target.labels, target.area, target.crowd.int())), strict=True
        )
    ]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    results = [
        {"image_id": image, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for image, d in enumerate(found)
        for (x1, y1, x2, y2), score, label in zip(d.boxes.tolist(), d.scores.tolist(), d.labels.tolist(), strict=True)
    ]
    images = [{"id": image, "width": 640, "height": 640} for image in range(len(targets))]
    categories = [{"id": label, "name": name} for label, name in enumerate(NAMES)]
    return {"images": images, "categories": categories, "annotations": annotations}, results


def pycocotools_of(annotations: Any, results: Any) -> COCOeval:
    truth = COCO()
    truth.dataset = annotations
    truth.createIndex()
    evaluator = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator


def assert_equal(evaluation: Evaluation, expected: COCOeval) -> None:
    """Every number of an evaluation, by ==; COCO's -1 is our nan."""
    numbers = [getattr(evaluation, metric) for metric in METRICS]
    assert [-1 if math.isnan(number) else number for number in numbers] == expected.stats.tolist()
    precision, scores = expected.eval["precision"][..., 0, -1], expected.eval["scores"][..., 0, -1]
    for k, quality in enumerate(evaluation.classes.values()):
        if quality.objects == 0:
            assert (precision[:, :, k] == -1).all()
            assert math.isnan(quality.ap) and math.isnan(quality.ap50) and math.isnan(quality.threshold)
        else:
            assert quality.ap == np.mean(precision[:, :, k].ravel())
            assert quality.ap50 == np.mean(precision[0, :, k])
            assert quality.precision == tuple(precision[0, :, k].tolist())
            assert quality.scores == tuple(scores[0, :, k].tolist())


@pytest.fixture
def evaluators(monkeypatch) -> list[hotcoco.COCOeval]:
    """The hotcoco evaluators created during a test, to compare their whole arrays."""
    created: list[hotcoco.COCOeval] = []

    def spy(*arguments: Any) -> hotcoco.COCOeval:
        created.append(real(*arguments))
        return created[-1]

    real = hotcoco.COCOeval
    monkeypatch.setattr(hotcoco, "COCOeval", spy)
    return created


@pytest.mark.parametrize("seed", range(6))
def test_random_scene_is_pycocotools_bit_for_bit(seed, evaluators):
    found, targets = random_scene(seed)
    expected = pycocotools_of(*as_coco(found, targets))
    evaluation = evaluate(found, targets, NAMES)
    assert_equal(evaluation, expected)
    assert 0 < evaluation.ap < 1 and evaluation.classes.keys() == set(NAMES)
    for array in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(evaluators[0].eval[array], expected.eval[array], strict=True)


def test_the_random_scene_is_as_described():
    found, targets = random_scene(0)
    area = torch.cat([target.area for target in targets])
    assert (area == 32**2).any() and (area == 96**2).any()
    assert any(target.crowd.any() for target in targets)
    assert any(len(d) == 0 and len(t) == 0 for d, t in zip(found, targets, strict=True))
    assert any(len(d) == 0 and len(t) > 0 for d, t in zip(found, targets, strict=True))
    assert any(len(d) > 0 and len(t) == 0 for d, t in zip(found, targets, strict=True))
    assert max(int(detections.labels.bincount().max()) for detections in found if len(detections)) > 100


def with_ids(contents: tuple[Any, Any], image_ids: list[Any], category_ids: list[Any]) -> tuple[Any, Any]:
    """The contents, changed in place: these ids for 0, 1, 2 ..."""
    annotations, results = contents
    for records, key, ids in (
        (annotations["images"], "id", image_ids),
        (annotations["categories"], "id", category_ids),
        ([*annotations["annotations"], *results], "image_id", image_ids),
        ([*annotations["annotations"], *results], "category_id", category_ids),
    ):
        for record in records:
            record[key] = ids[record[key]]
    return contents


def test_files_in_any_order_of_ids(tmp_path):
    rng = np.random.default_rng(7)
    image_ids, category_ids = rng.permutation(10_000)[:30].tolist(), rng.permutation(90)[:5].tolist()
    annotations, results = with_ids(as_coco(*random_scene(7)), image_ids, category_ids)
    for records in (annotations["images"], annotations["categories"], annotations["annotations"], results):
        rng.shuffle(records)
    truth, found = write(tmp_path, annotations, results)
    evaluation = evaluate_files(truth, found)
    assert_equal(evaluation, pycocotools_of(annotations, results))
    assert list(evaluation.classes) == [NAMES[category_ids.index(number)] for number in sorted(category_ids)]


@pytest.mark.parametrize("ids", ["over 2**53", "text", "fractions"])
def test_ids_are_exact_and_of_any_type(tmp_path, ids):
    """Numbers over 2**53 differ by one, where float64 has only every second number."""
    make = {"over 2**53": lambda i: 2**53 + 1 + i, "text": lambda i: f"{i:04}.jpg", "fractions": lambda i: i + 0.5}[ids]
    annotations, results = with_ids(as_coco(*random_scene(8)), [*map(make, range(30))], [*map(make, range(5))])
    evaluation = evaluate_files(*write(tmp_path, annotations, results))
    assert_equal(evaluation, pycocotools_of(annotations, results))
    assert 0 < evaluation.ap < 1


@pytest.mark.parametrize(
    "rest",
    [
        {"info": "text"},
        {"info": {"year": "2023"}, "licenses": None},
        {"licenses": "none"},
        {"info": None, "images": [{"id": image, "width": "640", "license": "?"} for image in range(30)]},
    ],
)
def test_what_is_beside_the_annotations_is_not_read(tmp_path, rest):
    annotations, results = as_coco(*random_scene(9))
    evaluation = evaluate_files(*write(tmp_path, annotations | rest, results))
    assert_equal(evaluation, pycocotools_of(annotations | rest, results))


def test_annotations_of_other_images_and_categories_do_not_count(tmp_path):
    annotations, results = as_coco(*random_scene(10))
    annotations["images"], annotations["categories"] = annotations["images"][:20], annotations["categories"][:3]
    results = [row for row in results if row["image_id"] < 20 and row["category_id"] < 3]
    evaluation = evaluate_files(*write(tmp_path, annotations, results))
    assert_equal(evaluation, pycocotools_of(annotations, results))
    assert (evaluation.images, len(evaluation.classes)) == (20, 3)


def test_an_annotation_without_area_and_iscrowd_has_that_of_its_box(tmp_path):
    annotations, results = as_coco([RIGHT], [OBJECT])
    del annotations["annotations"][0]["area"], annotations["annotations"][0]["iscrowd"], annotations["categories"]
    annotations["categories"] = [{"id": 0}]
    evaluation = evaluate_files(*write(tmp_path, annotations, results))
    assert evaluation.ap_small == pytest.approx(1) and list(evaluation.classes) == ["0"]


def test_categories_of_one_name_stay_apart(tmp_path):
    content, results = as_coco([RIGHT], [OBJECT])
    content["categories"] = [{"id": 7, "name": "dog"}, content["categories"][0] | {"name": "dog"}]
    found = evaluate_files(*write(tmp_path, content, results))
    assert {name: quality.objects for name, quality in found.classes.items()} == {"dog": 1, "dog (2)": 0}
    assert found.ap == pytest.approx(1)


@pytest.mark.parametrize(("written", "objects"), [("0", 1), ("false", 1), (False, 1), ("1", 0), ("True", 0), (1.0, 0)])
def test_a_crowd_is_what_its_annotation_says(tmp_path, written, objects):
    annotations, results = as_coco([RIGHT], [OBJECT])
    annotations["annotations"][0]["iscrowd"] = written
    assert evaluate_files(*write(tmp_path, annotations, results)).objects == objects


def write(folder: Path, annotations: Any, results: Any) -> tuple[Path, Path]:
    (folder / "truth.json").write_text(json.dumps(annotations))
    (folder / "found.json").write_text(json.dumps(results))
    return folder / "truth.json", folder / "found.json"


def test_cocos_own_fixture(shared_data):
    files = [
        shared_data / "coco-eval" / name
        for name in ("instances_val2014_100.json", "instances_val2014_fakebbox100_results.json")
    ]
    evaluation = evaluate_files(*files)
    assert f"{evaluation.ap:.10f}" == "0.5045806987"
    assert f"{evaluation.ap50:.10f}" == "0.6969727247"
    assert f"{evaluation.ap75:.10f}" == "0.5729816670"
    sizes = (evaluation.ap_small, evaluation.ap_medium, evaluation.ap_large)
    assert [f"{ap:.6f}" for ap in sizes] == ["0.585626", "0.519400", "0.501398"]
    recalls = (evaluation.ar1, evaluation.ar10, evaluation.ar100)
    assert [f"{recall:.6f}" for recall in recalls] == ["0.386813", "0.593680", "0.595353"]
    assert_equal(evaluation, pycocotools_of(*(json.loads(file.read_text()) for file in files)))


BOX = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
RIGHT = Detections(BOX, torch.tensor([0.9]), torch.tensor([0]))
OBJECT = Target(BOX, torch.tensor([0]))


class TestEmpty:
    def test_no_detection(self):
        evaluation = evaluate([NOTHING], [OBJECT], ("a", "b"))
        assert (evaluation.ap, evaluation.ar100, evaluation.ap_small) == (0, 0, 0)
        assert math.isnan(evaluation.ap_large)
        assert evaluation.classes["a"].ap == 0 and math.isnan(evaluation.classes["b"].ap)
        assert math.isnan(evaluation.thresholds["a"])

    def test_a_class_without_an_object_is_not_in_the_mean(self):
        stray = Detections(BOX.repeat(2, 1), torch.tensor([0.9, 0.8]), torch.tensor([0, 1]))
        evaluation = evaluate([stray], [OBJECT], ("a", "b"))
        assert evaluation.ap == pytest.approx(1) and math.isnan(evaluation.classes["b"].ap)

    @pytest.mark.parametrize("found", [RIGHT, NOTHING])
    def test_no_object_at_all(self, found):
        evaluation = evaluate([found], [Target.empty()], ("a", "b"))
        assert all(math.isnan(getattr(evaluation, metric)) for metric in METRICS)
        assert (evaluation.images, evaluation.objects, evaluation.detections) == (1, 0, len(found))

    def test_a_crowd_is_no_object(self):
        crowd = OBJECT.replace(crowd=torch.tensor([True]))
        evaluation = evaluate([RIGHT], [crowd], ("a",))
        assert evaluation.objects == 0 and math.isnan(evaluation.ap)

    def test_no_image(self):
        assert math.isnan(evaluate([], [], ("a",)).ap)


def test_threshold_is_where_f1_is_best():
    # Three objects; right, right, wrong, right, wrong: best after the fourth, at precision 3/4 and recall 1.
    far = torch.tensor([[500.0, 500.0, 510.0, 510.0]])
    boxes = [BOX, BOX + 20, far, BOX + 40, far]
    found = Detections(torch.cat(boxes), torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]).double(), torch.zeros(5).long())
    objects = Target(torch.cat([BOX, BOX + 20, BOX + 40]), torch.zeros(3).long())
    quality = evaluate([found], [objects], ("a",)).classes["a"]
    assert quality.threshold == pytest.approx(0.6)
    assert max(quality.f1) == pytest.approx(2 * 0.75 / 1.75)
    assert len(quality.precision) == len(quality.scores) == len(RECALLS) == 101


def test_difficult_objects_count():
    assert evaluate([NOTHING], [OBJECT.replace(difficult=torch.tensor([True]))], ("a",)).objects == 1


def test_annotation_number_zero_can_be_found(tmp_path):
    # pycocotools treats a match with annotation id 0 as no match. Such files exist; here the match counts.
    annotations, results = as_coco([RIGHT], [OBJECT])
    annotations["annotations"][0]["id"] = 0
    assert evaluate_files(*write(tmp_path, annotations, results)).ap == pytest.approx(1)
    assert pycocotools_of(annotations, results).stats[0] == 0


def test_its_dict_survives_json():
    evaluation = evaluate(*random_scene(3), NAMES)
    values = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert values == evaluation.to_dict()
    assert values["ap"] == evaluation.ap and values["classes"]["never"]["ap"] is None
    assert tuple(values["classes"]["often"]["precision"]) == evaluation.classes["often"].precision


def test_table_names_every_class_and_its_ap():
    evaluation = evaluate(*random_scene(3), NAMES)
    lines = evaluation.table().splitlines()
    assert lines[0] == f"30 images, {evaluation.objects} objects, {evaluation.detections} detections"
    for name, quality in evaluation.classes.items():
        (line,) = [line for line in lines if line.startswith(name)]
        assert line.removeprefix(name).split()[0] == ("–" if math.isnan(quality.ap) else f"{quality.ap:.3f}")


def test_nothing_is_printed(capfd):
    evaluate(*random_scene(3), NAMES)
    assert capfd.readouterr() == ("", "")


class TestErrors:
    def test_lengths(self):
        with pytest.raises(ValueError, match="each of 2 images, got 1"):
            evaluate([RIGHT], [OBJECT] * 2, ("a",))

    def test_label_outside_the_names(self):
        with pytest.raises(ValueError, match=r"detections\[1\] has a label outside 0\.\.0"):
            evaluate([RIGHT, RIGHT.replace(labels=torch.tensor([1]))], [OBJECT] * 2, ("a",))
        with pytest.raises(ValueError, match=r"targets\[0\] has a label"):
            evaluate([RIGHT], [OBJECT.replace(labels=torch.tensor([-1]))], ("a",))

    def test_not_finite(self):
        with pytest.raises(ValueError, match=r"detections\[1\] has a score that is not finite"):
            evaluate([RIGHT, RIGHT.replace(scores=torch.tensor([math.nan]))], [OBJECT] * 2, ("a",))
        with pytest.raises(ValueError, match=r"detections\[0\] has a box that is not finite"):
            evaluate([RIGHT.replace(boxes=BOX * math.inf)], [OBJECT], ("a",))

    def test_two_classes_of_one_name(self):
        with pytest.raises(ValueError, match='two are called "a"'):
            evaluate([RIGHT], [OBJECT], ("a", "a"))

    @pytest.mark.parametrize(
        ("results", "fault"),
        [
            ("{", "expected a COCO results file"),
            ("{}", "got a dict"),
            ('[{"image_id": 0, "bbox": [1, 2, 3, 4], "score": 0.5}]', "entry 0 should have"),
            ('[{"image_id": 0, "category_id": 0, "bbox": [1, 2, 3], "score": 0.5}]', "entry 0 should have"),
            ('[{"image_id": 0, "category_id": 0, "bbox": [1, 2, 3, NaN], "score": 0.5}]', "entry 0 .* not finite"),
            ('[{"image_id": 5, "category_id": 0, "bbox": [1, 2, 3, 4], "score": 0.5}]', "image 5 and category 0"),
        ],
    )
    def test_results_file(self, tmp_path, results, fault):
        truth, found = write(tmp_path, as_coco([RIGHT], [OBJECT])[0], [])
        found.write_text(results)
        with pytest.raises(ValueError, match=f"found.json: .*{fault}"):
            evaluate_files(truth, found)

    def test_ids_of_another_type_are_shown_as_written(self, tmp_path):
        annotations, results = as_coco([RIGHT], [OBJECT])
        results[0]["image_id"] = "0"
        with pytest.raises(ValueError, match="entry 0 has image '0' .* has images such as 0 and categories such as 0"):
            evaluate_files(*write(tmp_path, annotations, results))

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"images": 3}'])
    def test_annotation_file(self, tmp_path, text):
        truth, found = write(tmp_path, {}, [])
        truth.write_text(text)
        with pytest.raises(ValueError, match="truth.json: expected a COCO annotation file"):
            evaluate_files(truth, found)

    @pytest.mark.parametrize(
        ("part", "change", "fault"),
        [
            ("images", {"id": None}, r"images\[0\] should have an id"),
            ("categories", {"id": []}, r"categories\[0\] should have an id"),
            ("annotations", {"bbox": []}, r"annotations\[0\] should have .* bbox"),
            ("annotations", {"iscrowd": "maybe"}, r"annotations\[0\] should have .* iscrowd"),
            ("annotations", {"area": math.nan}, r"annotations\[0\] has a number that is not finite"),
        ],
    )
    def test_entry_of_an_annotation_file(self, tmp_path, part, change, fault):
        annotations, results = as_coco([RIGHT], [OBJECT])
        annotations[part][0] |= change
        with pytest.raises(ValueError, match=f"truth.json: {fault}"):
            evaluate_files(*write(tmp_path, annotations, results))

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="absent.json"):
            evaluate_files(tmp_path / "absent.json", tmp_path / "absent.json")
