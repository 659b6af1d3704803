"""Run a predictor over a dataset and measure it with the field's evaluator."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from boxwright.data.batch import AnnotatedImages, Batches
from boxwright.metrics import Evaluation, evaluate
from boxwright.metrics.precision import match
from boxwright.predict.predictor import Predictor
from boxwright.progress import Progress
from boxwright.types import Detections, Target


def detect_dataset(
    predictor: Predictor, dataset: AnnotatedImages, batch_size: int = 8, workers: int = 0, progress: bool = True
) -> list[Detections]:
    """The detections of every image with any score, in the dataset's order, in pixels of the image, on the CPU.

    An image that cannot be read counts as one without detections; a warning names it.
    """
    batches = Batches.for_evaluation(
        dataset, predictor.preprocess, batch_size, workers=workers, device=predictor.device, propose=predictor.propose
    )
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    detections = [none] * len(dataset)
    with Progress("evaluate", len(batches), show=progress) as bar:
        for images, _, indices, views in batches:
            found = predictor.detections(predictor.program(images), views)
            for index, of_image in zip(indices, found, strict=True):
                detections[index] = of_image
            bar.update()
    return detections


def evaluate_dataset(
    predictor: Predictor, dataset: AnnotatedImages, batch_size: int = 8, workers: int = 0, progress: bool = True
) -> Evaluation:
    """COCO's numbers of a predictor on a dataset with the same classes in the same order."""
    detections = detect_dataset(predictor, dataset, batch_size, workers, progress)
    return evaluate(detections, targets_of(dataset), predictor.names)


def targets_of(dataset: AnnotatedImages) -> list[Target]:
    """The annotations of every image, in order."""
    return [dataset.target(index) for index in range(len(dataset))]


def best_threshold(detections: Sequence[Detections], targets: Sequence[Target], default: float = 0.5) -> float:
    """The score threshold with the best F1 at IoU .5, over all classes together.

    It lies halfway to the next lower score, so that the same detections pass again despite rounding; `default` if no
    detection is a hit.
    """
    matches = [match(*pair) for pair in zip(detections, targets, strict=True)]
    counted = (found.scores[m.counted].float() for found, m in zip(detections, matches, strict=True))
    scores = torch.cat([torch.zeros(0), *counted])
    hits = torch.cat([torch.zeros(0, dtype=torch.bool), *(m.true_positive[m.counted] for m in matches)])
    objects = sum(int((~target.crowd).sum()) for target in targets)
    if not hits.any():
        return default
    scores, order = scores.sort(descending=True, stable=True)
    f1 = 2 * hits[order].cumsum(0) / (torch.arange(1, len(hits) + 1) + objects)  # of the best 1, 2, 3 ... detections
    last_of_its_score = torch.cat([scores[1:] < scores[:-1], torch.tensor([True])])  # equal ones come or go together
    best = int(torch.where(last_of_its_score, f1, -1.0).argmax())
    below = scores[best + 1] if best + 1 < len(scores) else scores[best]
    return float(scores[best] + below) / 2
