"""COCO's categories by id; the ids have gaps (Lin et al. 2014, "Microsoft COCO")."""

from __future__ import annotations

_IDS = {
    1: "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant",
    13: "stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe",
    27: "backpack, umbrella",
    31: "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, "
    "skateboard, surfboard, tennis racket, bottle",
    46: "wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, "
    "donut, cake, chair, couch, potted plant, bed",
    67: "dining table",
    70: "toilet",
    72: "tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator",
    84: "book, clock, vase, scissors, teddy bear, hair drier, toothbrush",
}
"""Names of consecutive ids, by the first id."""

NAMES = {first + step: name for first, run in _IDS.items() for step, name in enumerate(run.split(", "))}
"""The 80 categories: id to name."""

ALL_IDS = tuple(NAMES.get(number, f"N/A {number}") for number in range(1, 91))
"""A name for each id from 1 to 90, for networks with a class per id: "N/A" and the id where COCO has no category."""
