"""`boxwright verify`: the proof in an imported checkpoint, measured again here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from boxwright.cli.table import table

if TYPE_CHECKING:
    from boxwright.zoo.proof import Difference


@dataclass(frozen=True)
class Verify:
    """Compare what an imported checkpoint finds with what the original found, photograph by photograph."""

    model: Positional[Annotated[Path, arg(metavar="FILE")]]
    """A checkpoint that `boxwright import` wrote."""
    photos: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """The folder of photographs that was given to the import."""
    weights: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """The file it was made from: the original is then asked again. Found by itself in the cache of its library."""
    json: bool = False
    """Print all of it as JSON."""

    def run(self) -> int:
        """Exit status 1 where a difference is more than rounding."""
        from boxwright.zoo.convert import verify
        from boxwright.zoo.proof import photographs, worst

        said = verify(self.model, photographs(self.photos), self.weights)
        measured, proof = said["measured"], said["proof"]
        same = all(each.same for each in measured)
        if self.json:
            rows = [{**asdict(each), "within": each.within, "same": each.same} for each in measured]
            print(json.dumps({**said, "measured": rows, "same": same}, indent=1))
            return int(not same)
        head = ("photo", "batch", "original", "converted", "classes", "unmatched", "box px", "score", "")
        print(table(head, [(*_numbers(each), _verdict(each)) for each in measured]))
        print(f"against {proof['against']} with torch {proof['torch']}, {proof['date']}: {worst(measured)}")
        if "source" in said:
            print(f"and against {said['source']['against']} here, with {said['source']['file']}")
        if proof.get("allowed"):
            print(f"a difference was accepted at the import: {proof['allowed']}")
        return int(not same)


def _verdict(each: Difference) -> str:
    """Nothing where all is as exact as it can be."""
    return "" if each.within else "by rounding" if each.same else "differs"


def _numbers(each: object) -> tuple[object, ...]:
    values = asdict(each)  # type: ignore[call-overload]
    return (*list(values.values())[:6], f"{values['box']:.1e}", f"{values['score']:.1e}")
