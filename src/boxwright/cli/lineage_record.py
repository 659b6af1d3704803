"""What `boxwright lineage` has found out so far: on disk, as a table, as an image."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boxwright.bench.lineage import Cost, Times, differences
from boxwright.bench.run.record import Record
from boxwright.cli.table import table
from boxwright.units import Unit, digits, fraction

TITLES = {
    "localizer": "localizer", "sliding_window": "sliding window", "rcnn": "R-CNN", "spp_net": "SPP-net",
    "fast_rcnn": "Fast R-CNN", "faster_rcnn": "Faster R-CNN", "r_fcn": "R-FCN", "ssd": "SSD", "retinanet": "RetinaNet",
    "fcos": "FCOS",
}  # fmt: skip


class Steps(Record):
    """lineage.json."""

    def __init__(self, path: Path, settings: Mapping[str, Any], configs: Mapping[str, Any]) -> None:
        """As `Record`."""
        super().__init__(path, "lineage", settings, configs, ("proposals", "steps", "times"))

    def has(self, name: str) -> bool:
        """Whether this step is finished; one that failed is not."""
        return "seconds" in self.content["steps"].get(name, {}) and self.checkpoint(name).is_file()

    def checkpoint(self, name: str) -> Path:
        return self.path.with_name(f"{name}.safetensors")

    def cost(self, name: str) -> Cost:
        """What is known of a step."""
        result, times = self.content["steps"].get(name, {}), self.content["times"].get(name)
        parts = [times[part].get("median", 0.0) for part in Times._fields] if times else [math.nan] * 2
        known = [result.get(key) for key in ("ap", "ap50")]
        quality = [math.nan if value is None else value for value in known]
        return Cost(TITLES.get(name, name), result.get("seconds", math.nan), *parts, *quality)


def introduce(record: Steps, configs: Mapping[str, Any]) -> str:
    """What all share, and each setting that they do not."""
    lines = [f"the same for all: {_caption(record.content['settings'])}"]
    for name, own in differences(configs).items():
        lines.append(f"  {name}: " + ", ".join(f"{key} {_plain(value)}" for key, value in own.items()))
    done = [name for name in configs if record.has(name)]
    lines += [f"finished before: {', '.join(done)}"] if done else []
    return "\n".join([*lines, f"{record.path}"])


def _caption(settings: Mapping[str, Any]) -> str:
    """What the numbers hold for, in a line."""
    return " · ".join(
        [
            f"{settings['backbone']}, {' to '.join(map(str, settings['size']))} pixels",
            f"{settings['training images']} training and {settings['test images']} test images",
            f"{settings['epochs']} epoch{'s' * (settings['epochs'] > 1)}, {settings['proposals']} proposals",
            f"{settings['name']}, network on {settings['threads']} of {settings['cores']} cores, proposals on 1",
        ]
    )


def report(record: Steps, steps: Sequence[str]) -> str:
    """What each step takes and is worth; how many times less it takes than the first that is finished; what failed."""
    content, costs = record.content, [record.cost(name) for name in steps]
    hours, seconds = Unit.of(cost.training for cost in costs), Unit.of(cost.whole for cost in costs)
    head = ["", f"training, {hours.name}", "milliseconds an image", f"test, {seconds.name} an image", "proposals",
            "network", "quartiles", "AP", "AP50"]  # fmt: skip
    rows, ratios = [], []
    first = next((cost for cost in costs if math.isfinite(cost.training)), costs[0])
    for name, cost in zip(steps, costs, strict=True):
        network = content["times"].get(name, {}).get("network", {})
        quartiles = "–".join(seconds.write(network[key]) for key in ("low", "high")) if network else "–"
        learnt = 1000 * content["steps"].get(name, {}).get("seconds_per_image", math.nan)
        times = [seconds.write(time) for time in (cost.whole, cost.proposals, cost.network)]
        rows.append([cost.name, hours.write(cost.training), digits(learnt), *times, quartiles,
                     fraction(cost.ap), fraction(cost.ap50)])  # fmt: skip
        parts = ("training", "whole", "network")
        ratios.append([cost.name, *(digits(getattr(first, part) / getattr(cost, part)) for part in parts)])
    compared = [f"times as fast as {first.name}", "training", "test", "test without proposals"]
    lines = [table(head, rows), "", table(compared, ratios), ""]
    lines += [_ahead(content)] if content["proposals"] else []
    failed = {name: content["steps"].get(name, {}) for name in steps}
    lines += [f"{name} failed: {one['error']}" for name, one in failed.items() if "error" in one]
    return "\n".join(lines).rstrip()


def _ahead(content: Mapping[str, Any]) -> str:
    train, cores = content["proposals"]["train"], content["settings"]["cores"]
    known = train["images"] - train["new"]
    return f"proposals for the training images, not counted above: {train['seconds']:.1f} s on {cores} cores" + (
        f"; those of {known} of the {train['images']} were known before" if known else f" for {train['images']}"
    )


def draw(record: Steps, steps: Sequence[str]) -> None:
    """lineage.png and lineage.svg, where matplotlib is installed."""
    try:
        from boxwright.draw.plots import draw_costs
    except ImportError as error:
        say(f"no image: {error}")
        return
    settings, costs = record.content["settings"], [record.cost(name) for name in steps]
    title = f"{costs[0].name} to {costs[-1].name} on {Path(settings['data']).stem}"
    for suffix in (".png", ".svg"):
        draw_costs(costs, record.path.with_suffix(suffix), title, _caption(settings))
    say(f"written: {record.path.with_suffix('')}.json, .png, .svg")


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_plain, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def say(text: str) -> None:
    """On stderr: stdout is for the table, or the JSON."""
    print(text, file=sys.stderr, flush=True)
