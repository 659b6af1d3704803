"""`boxwright models`: the models at hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from boxwright.cli.table import table
from boxwright.zoo import DEFAULT, Model, models


@dataclass(frozen=True)
class Models:
    """List the bundled models and those of your runs; any of these names goes to --model."""

    runs: Path = Path("runs")
    """The folder your runs are in."""
    json: bool = False
    """Print all that is known about each, as JSON."""

    def run(self) -> None:
        found = models(self.runs)
        if self.json:
            print(json.dumps([{"name": m.name, "path": str(m.path), **m.about} for m in found], indent=1))
        elif found:
            print(table(("model", "detector", "AP", "AP50", "on", "MB", "classes"), map(_row, found)))
        else:
            print(f"no model comes with this copy of boxwright, and there is no run in {self.runs}")


def _row(model: Model) -> tuple[object, ...]:
    name = model.name + (" (default)" if model.name == DEFAULT else "")
    megabytes = f"{model.path.stat().st_size / 1e6:.1f}"
    if not model.about:
        return name, "not written by boxwright", "–", "–", "", megabytes, ""
    metrics = model.about.get("metrics") or {}
    on = next((part for part in ("test", "val") if metrics.get(part)), "")
    ap, ap50 = (_score(metrics.get(on, {}).get(key)) for key in ("ap", "ap50"))
    return name, model.about["detector"], ap, ap50, on, megabytes, ", ".join(model.about["names"])


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
