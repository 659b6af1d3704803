"""A race that never took place: numbers by formula, to test the report with and to look at it.

`python tests/bench/made_up.py DIR` writes the variants to look at.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from boxwright.bench.result import ClassQuality, Entry, Learning, Quality, Race, Rung, Speed, Standing, State
from boxwright.bench.verdict import Constraint, Difference, judge
from boxwright.measure.speed import STAGES
from boxwright.units import Interval

DETECTORS = {"faster_rcnn": (0.56, 61.0), "ssd": (0.51, 22.0), "retinanet": (0.545, 48.0), "fcos": (0.50, 44.0)}
"""AP and ms an image at 320 pixels."""
LITE, MOBILE = "efficientnet_lite0", "mobilenet_v3_large"
BLOOD = ("rbc", "wbc", "platelets")
VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
COMMAND = "boxwright bench --data bccd --detectors faster_rcnn ssd retinanet fcos --sizes 320 512 --budget 90m"


def differences(entries: Sequence[Entry]) -> Difference:
    """Paired intervals about as wide as those of the entries."""
    aps = {entry.name: entry.quality.ap for entry in entries if entry.quality}

    def difference(name: str, other: str) -> Interval:
        value, wide = aps[name].value - aps[other].value, (aps[name].high - aps[name].low) / 2
        return Interval(value, value - wide, value + wide) if name != other else Interval(0, 0, 0)

    return difference


def interval(value: float, spread: float) -> Interval:
    return Interval(value, value - spread, value + 1.2 * spread)


def quality(ap: float, classes: Sequence[str], missing: str = "") -> Quality:
    """AP of the classes fans out around `ap`; of the class `missing` there is no object."""
    table = {}
    for place, name in enumerate(classes):
        one = ap + 0.3 * (0.5 - place / max(1, len(classes) - 1)) if len(classes) > 1 else ap
        numbers = (one, min(1.0, 1.5 * one), 0.9 * one + 0.2, 0.85 * one + 0.25, 0.31 + 0.02 * place)
        objects = 400 // (place + 1)
        table[name] = ClassQuality(0, *[float("nan")] * 5) if name == missing else ClassQuality(objects, *numbers)
    sizes = {"small": ap - 0.21, "medium": ap + 0.02, "large": float("nan") if missing else ap + 0.12}
    return Quality(interval(ap, 0.021), interval(1.5 * ap, 0.027), (ap - 0.004, ap + 0.004), sizes, table)


def speed(ms: float, proposes: bool = False, external_model: bool = False) -> Speed:
    mean = ms * 1.03e-3
    shares = (0.16, 0.06, 0.12 if proposes else 0.0, 0.58 if proposes else 0.7, 0.06, 0.02)
    stages = (
        {"detect": mean} if external_model else {name: mean * part for name, part in zip(STAGES, shares, strict=True)}
    )
    throughput = float("nan") if external_model else 2.3e3 / ms
    return Speed(interval(ms * 1e-3, ms * 1.6e-5), interval(ms * 1.3e-3, ms * 5e-5), stages, throughput)


def learning(ap: float, epochs: int) -> dict[int, Learning]:
    def one(seed: int) -> Learning:
        wave = np.sin(np.arange(1, epochs + 1) * 2.1 + 2 * seed) * 0.02
        rise = ap * (1 - np.exp(-np.arange(1, epochs + 1) / 3.2)) + wave
        losses = 0.4 + 2.1 * np.exp(-np.arange(1, epochs + 1) / 4) + wave
        measured = {epoch: float(max(0.0, rise[epoch - 1])) for epoch in range(2, epochs + 1, 2)}
        return Learning(tuple(losses.tolist()), measured)

    return {seed: one(seed) for seed in (0, 1)}


def cell(
    detector: str,
    size: int,
    backbone: str = LITE,
    classes: Sequence[str] = BLOOD,
    state: State = "finished",
    runtimes: Sequence[str] = ("eager",),
    gpu: bool = False,
    missing: str = "",
) -> Entry:
    """A cell with all that is known in its state."""
    ap, ms = DETECTORS[detector]
    faster, better = (0.72, -0.045) if backbone == MOBILE else (1.0, 0.0)
    ap, ms = ap + better + 0.035 * (size / 320 - 1), ms * faster * (size / 320) ** 1.6
    bare = Entry(f"{detector}-{backbone}-{size}", detector, backbone, size, None, state)
    if state == "failed":
        return replace(bare, reason="RuntimeError: out of memory: 1.21 GiB asked for, 0.98 GiB free", epochs=1)
    if state == "stopped":
        reason = "rank 7 of 10 after epoch 4, with AP 0.310 on val and 30.0 ms an image, the mean of a few; 6 went on"
        return replace(bare, reason=reason, epochs=4, seconds=180.0, learning=learning(ap - 0.1, 4))
    proposes = detector == "faster_rcnn"
    speeds = {name: speed(ms * (0.68 if name == "compiled" else 1.0), proposes) for name in runtimes}
    broken = {"compiled": "BackendError: no C++ compiler"} if "compiled" in speeds and detector == "fcos" else {}
    return replace(
        bare,
        epochs=12,
        seconds=540.0 * (size / 320) ** 2,
        quality=quality(ap, classes, missing),
        speed={name: one for name, one in speeds.items() if name not in broken},
        failures=broken,
        parameters=4_200_000 + 130_000 * len(detector),
        flops=int(3.1e9 * (size / 320) ** 2),
        file=17_400_000 + 520_000 * len(detector),
        memory=410_000_000 + 90_000 * size,
        device_memory=int(3.2e8 * (size / 320) ** 2) if gpu else None,
        first=3.4,
        learning=learning(ap, 12),
    )


def external_model(classes: Sequence[str] = BLOOD, name: str = "torchvision fasterrcnn_mobilenet_v3") -> Entry:
    known = Entry(name, "torchvision", "", 320, None, "external", quality=quality(0.487, classes))
    return replace(
        known, speed={"its own": speed(39.0, external_model=True)}, parameters=18_900_000, memory=720_000_000
    )


def rungs(cells: Sequence[Entry]) -> tuple[Rung, ...]:
    """Two rungs: at epoch 2 all went on, at epoch 4 the stopped ones did not."""
    found = []
    for epoch in (2, 4):
        rows = [
            (one.name, np.mean([seed.val.get(epoch, 0.0) for seed in one.learning.values()]), one.size, one.state)
            for one in cells
            if one.learning
        ]
        rows.sort(key=lambda row: -row[1])
        kept = [epoch == 2 or state != "stopped" for _, _, _, state in rows]
        standings = (
            Standing(name, float(ap), size / 9000, one) for (name, ap, size, _), one in zip(rows, kept, strict=True)
        )
        found.append(Rung(epoch, tuple(standings)))
    return tuple(found)


def race(
    sizes: Sequence[int] = (320, 512),
    backbones: Sequence[str] = (LITE,),
    classes: Sequence[str] = BLOOD,
    runtimes: Sequence[str] = ("eager",),
    meets: bool = True,
    gpu: bool = False,
    missing: str = "",
) -> Race:
    """Four detectors, two cells that were stopped, one that failed, an external model."""
    cells = [
        cell(detector, size, backbone, classes, "finished", runtimes, gpu, missing)
        for backbone in backbones
        for detector in DETECTORS
        for size in sizes
    ]
    cells += [cell("ssd", 224, state="stopped"), cell("fcos", 640, state="stopped")]
    cells += [cell("retinanet", 800, state="failed"), external_model(classes)]
    return of(cells, meets)


def of(cells: Sequence[Entry], meets: bool = True) -> Race:
    constraints = ("p50<50ms",) if meets else ("p95<10ms", "recall[wbc]>0.99")
    judged = judge(cells, [Constraint.parse(text) for text in constraints], differences(cells))
    chosen = judged.leader or judged.nearest
    first = next((one.speed["eager"].p50 for one in cells if "eager" in one.speed), None)
    weights = f"runs/bccd-bench/{chosen}/0/best.safetensors"
    return Race(
        title="bccd",
        command=COMMAND,
        made="2026-11-23, boxwright 0.5.0",
        settings={
            "data": "/data/bccd", "training images": 205, "validation images": 87, "test images": 72,
            "classes": 3, "augment": "standard", "epochs": 12, "batch": 8, "lr": 0.002, "seeds": (0, 1),
            "machine": {"device": "cpu", "name": "AMD EPYC 9R14", "cores": 2, "threads": 1, "torch": "2.15.0"},
        },
        differences={one.name: {"proposals": 300, "threshold": 0.05} if one.detector == "faster_rcnn"
                     else {"focal": "alpha 0.25, gamma 2"} for one in cells},
        entries=tuple(cells),
        rungs=rungs(cells) if len(cells) > 1 else (),
        verdict=judged,
        control=(first, Interval(first.value * 1.004, first.low * 1.003, first.high * 1.006)) if first else None,
        constraints=constraints,
        plan=("expected 84 minutes, took 79", "2 of 11 cells were stopped"),
        commands={"detect with it": f"boxwright detect photo.jpg --model {weights}",
                  "train it again": f"boxwright train {chosen} --data bccd --epochs 12"} if chosen else {},
    )  # fmt: skip


def little() -> Race:
    """Too little evidence: one seed, two epochs."""
    cells = [cell(detector, 320) for detector in DETECTORS]
    return of([replace(one, epochs=2, quality=replace(one.quality, seeds=(one.quality.ap.value,)))
               for one in cells if one.quality])  # fmt: skip


VARIANTS = {
    "usual": lambda: race(runtimes=("eager", "compiled")),
    "backbones": lambda: race(backbones=(LITE, MOBILE), gpu=True),
    "classes": lambda: race(classes=VOC, missing="sofa"),
    "one": lambda: of([cell("ssd", 320)]),
    "nothing": lambda: race(meets=False),
    "failed": lambda: of([cell("ssd", 320, state="failed")]),
    "little": little,
}

if __name__ == "__main__":
    from boxwright.bench.report.write import write

    for variant, make in VARIANTS.items():
        print(*write(make(), Path(sys.argv[1]) / variant), sep="\n")
