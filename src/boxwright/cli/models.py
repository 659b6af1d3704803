"""`boxwright models`: the models at hand, and those of other libraries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxwright.cli.table import table
from boxwright.zoo import DEFAULT, Model, models
from boxwright.zoo.foreign import Published, module_of, published

_CLASSES = 60  # characters of class names that a row shows


@dataclass(frozen=True)
class Models:
    """List the bundled models, those of your runs, and the known ones of other libraries.

    Any of these names goes to --model."""

    runs: Path = Path("runs")
    """The folder your runs are in."""
    json: bool = False
    """Print all that is known about each, as JSON."""

    def run(self) -> None:
        found, foreign = models(self.runs), list(published().values())
        if self.json:
            rows = [{"name": m.name, "path": str(m.path), **_without_answers(m.about)} for m in found]
            print(json.dumps(rows + [_foreign(about) for about in foreign], indent=1))
            return
        if found:
            print(table(("model", "detector", "AP", "AP50", "on", "MB", "classes"), map(_row, found)))
        else:
            print(f"no model comes with this copy of boxwright, and there is no run in {self.runs}")
        print("\nof other libraries, converted when they are first asked for:")
        print(table(("model", "at hand", "published as"), [_foreign_row(about) for about in foreign]))
        for source, licence in {about.name.partition(":")[0]: about.licence for about in foreign}.items():
            print(f"licence of {source}'s weights: {licence}")


def _row(model: Model) -> tuple[object, ...]:
    name = model.name + (" (default)" if model.name == DEFAULT else "")
    megabytes = f"{model.path.stat().st_size / 1e6:.1f}"
    if not model.about:
        return name, "not written by boxwright", "–", "–", "", megabytes, ""
    metrics = model.about.get("metrics") or {}
    on = next((part for part in ("test", "val") if metrics.get(part)), "")
    ap, ap50 = (_score(metrics.get(on, {}).get(key)) for key in ("ap", "ap50"))
    names = ", ".join(model.about["names"])
    names = names if len(names) <= _CLASSES else f"{len(model.about['names'])}: {names[:_CLASSES]} ..."
    return name, model.about["detector"], ap, ap50, on, megabytes, names


def _foreign_row(about: Published) -> tuple[object, ...]:
    return about.name, "yes" if module_of(about.name).cached(about).is_file() else "no", about.file


def _foreign(about: Published) -> dict[str, Any]:
    path = module_of(about.name).cached(about)
    return {**vars(about), "path": str(path) if path.is_file() else None}


def _without_answers(about: dict[str, Any]) -> dict[str, Any]:
    """Without the many boxes that are kept in an imported model to verify it."""
    proof = {key: value for key, value in about.get("proof", {}).items() if key != "answers"}
    return about | ({"proof": proof} if proof else {})


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
