"""Run a detector over a dataset and measure it with the field's evaluator."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from boxwright.data.batch import AnnotatedImages, Batches
from boxwright.data.preprocess import Preprocess
from boxwright.detectors import Detector
from boxwright.metrics import Evaluation, evaluate
from boxwright.metrics.precision import match
from boxwright.progress import Progress
from boxwright.types import Detections, Target


def detect_dataset(
    detector: Detector,
    dataset: AnnotatedImages,
    preprocess: Preprocess,
    batch_size: int = 8,
    workers: int = 0,
    progress: bool = True,
) -> list[Detections]:
    """The detections of every image, in the dataset's order, in original pixels, on the CPU.

    An image that cannot be read counts as one without detections; a warning names it. Afterwards the detector is in
    the mode it was in.
    """
    device = next(detector.parameters()).device
    batches = Batches.in_order(
        dataset, preprocess, batch_size, workers=workers, device=device, propose=detector.propose
    )
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    found = [none] * len(dataset)
    learning = detector.training
    detector.eval()
    try:
        with Progress("evaluate", len(batches), show=progress) as bar:
            for images, _, indices, resizes in batches:
                for index, resize, detections in zip(indices, resizes, detector.detect(images), strict=True):
                    detections = detections.to("cpu")
                    found[index] = detections.replace(boxes=resize.back(detections.boxes))
                bar.update()
    finally:
        detector.train(learning)
    return found


def evaluate_detector(
    detector: Detector,
    dataset: AnnotatedImages,
    names: tuple[str, ...],
    preprocess: Preprocess,
    batch_size: int = 8,
    workers: int = 0,
    progress: bool = True,
) -> Evaluation:
    """COCO's numbers of a detector on a dataset of the same classes in the same order."""
    found = detect_dataset(detector, dataset, preprocess, batch_size, workers, progress)
    return evaluate(found, targets_of(dataset), names)


def targets_of(dataset: AnnotatedImages) -> list[Target]:
    """The annotations of every image, in order."""
    return [dataset.target(index) for index in range(len(dataset))]


def best_threshold(found: Sequence[Detections], targets: Sequence[Target], default: float = 0.5) -> float:
    """The score from which on detections are worth showing: where F1 at IoU .5, over all classes together, is best.

    Halfway to the next lower score, so that what just passed here passes again; `default` where nothing was found.
    """
    matches = [match(*pair) for pair in zip(found, targets, strict=True)]
    scores = torch.cat([torch.zeros(0), *(f.scores[m.counted].float() for f, m in zip(found, matches, strict=True))])
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
