"""`boxwright models`: the models at hand, and those of other libraries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxwright.cli.table import left_out, table
from boxwright.terminal import fit, terminal_width
from boxwright.units import fraction
from boxwright.zoo import DEFAULT, Model, models, threshold_of
from boxwright.zoo.foreign import Published, module_of, published

_NAMES_WIDTH = 60  # characters of class names that a row shows


@dataclass(frozen=True)
class Models:
    """List the bundled models, those of your runs, and the known ones of other libraries.

    Any of these names goes to --model. "score ≥" is the threshold of `detect` and of a call in Python, where none is
    given: that of the best F1 on val."""

    runs: Path = Path("runs")
    """The folder your runs are in."""
    json: bool = False
    """Print all metadata of each as JSON."""

    def run(self) -> None:
        at_hand, foreign = models(self.runs), list(published().values())
        if self.json:
            rows = [_as_json(model) for model in at_hand]
            rows += [{**vars(about), "path": _cached(about)} for about in foreign]
            print(json.dumps(rows, indent=1))
            return
        if at_hand:
            head = ("model", "detector", "AP", "AP50", "on", "score ≥", "MB", "classes")
            _print(head, list(map(_row, at_hand)), ("MB", "classes", "detector", "AP50"), "classes")
        else:
            print(f"no model comes with this copy of boxwright, and there is no run in {self.runs}")
        for model in at_hand:
            if model.fault:
                print(fit(f"{model.name} cannot be read: {model.fault}"))
        print("\nof other libraries, converted when they are first used:")
        rows = [(about.name, "yes" if _cached(about) else "no", about.file) for about in foreign]
        _print(("model", "at hand", "published as"), rows, ("published as",), whole=True)
        for source, licence in {about.name.partition(":")[0]: about.licence for about in foreign}.items():
            print(fit(f"licence of {source}'s weights: {licence}"))


def _print(
    head: Sequence[str], rows: Sequence[Sequence[object]], spare: Sequence[str], cut: str | None = None,
    whole: bool = False,
) -> None:  # fmt: skip
    """A table in the columns of the terminal, and what it does not show there."""
    printed = table(head, rows, terminal_width(), spare, cut, whole)
    print(printed)
    shortened = [f"whole {head[0]} names"] if not all(str(row[0]) in printed for row in rows) else []
    if missing := [*shortened, *left_out(printed, head)]:
        print(f"{', '.join(missing)}: --json, or a wider terminal")


def _as_json(model: Model) -> dict[str, Any]:
    fault = {"fault": model.fault} if model.fault else {}
    return {"name": model.name, "path": str(model.path), **_without_answers(model.about), **fault}


def _row(model: Model) -> tuple[object, ...]:
    name = model.name + (" (default)" if model.name == DEFAULT else "")
    megabytes = f"{model.path.stat().st_size / 1e6:.1f}" if model.path.is_file() else "–"
    if not model.about:
        return name, "cannot be read", "–", "–", "", "", megabytes, ""
    metrics = model.about.get("metrics") or {}
    split = next((split for split in ("test", "val") if metrics.get(split)), "")
    scores = (metrics.get(split, {}).get(key) for key in ("ap", "ap50"))
    ap, ap50 = ("–" if score is None else fraction(score) for score in scores)
    names = ", ".join(model.about["names"])
    if len(names) > _NAMES_WIDTH:
        names = f"{len(model.about['names'])}: {names[:_NAMES_WIDTH]} ..."
    return name, model.about["detector"], ap, ap50, split, fraction(threshold_of(model.about)), megabytes, names


def _cached(about: Published) -> str | None:
    """The published file, if its library has downloaded it."""
    path = module_of(about.name).cached(about)
    return str(path) if path.is_file() else None


def _without_answers(about: dict[str, Any]) -> dict[str, Any]:
    """Metadata with the score threshold, without the many boxes that an imported model keeps for `verify`."""
    proof = {key: value for key, value in about.get("proof", {}).items() if key != "answers"}
    threshold = {"threshold": threshold_of(about)} if about else {}
    return about | threshold | ({"proof": proof} if proof else {})
