"""`boxwright verify`: the proof in an imported checkpoint, measured again here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from boxwright.cli.arguments import MaxMegapixels, check_exists
from boxwright.cli.table import table
from boxwright.terminal import fit, terminal_width

if TYPE_CHECKING:
    from boxwright.zoo.proof import Difference


@dataclass(frozen=True)
class Verify:
    """Compare the detections of an imported checkpoint with those of the original, photograph by photograph."""

    model: Positional[Annotated[Path, arg(metavar="FILE")]]
    """A checkpoint that `boxwright import` wrote."""
    photos: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """The folder of photographs that was given to the import, if one was."""
    weights: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """The original weights, to run the original again as well. Those in the cache of its library are found without."""
    max_megapixels: MaxMegapixels = None
    json: bool = False
    """Print the comparison as JSON."""

    def run(self) -> int:
        """Exit status 1 where a difference is more than rounding."""
        check_exists("a checkpoint", self.model)
        check_exists("a folder of photographs", self.photos)
        check_exists("a file of weights", self.weights)
        from boxwright.zoo.convert import verify
        from boxwright.zoo.proof import photographs, worst

        verified = verify(self.model, photographs(self.photos), self.weights)
        measured, proof = verified["measured"], verified["proof"]
        same = all(difference.same for difference in measured)
        if self.json:
            rows = [asdict(entry) | {"within": entry.within, "same": entry.same} for entry in measured]
            print(json.dumps({**verified, "measured": rows, "same": same}, indent=1))
            return int(not same)
        head = ("photo", "batch", "original", "converted", "classes", "unmatched", "box px", "score", "")
        print(table(head, [_row(difference) for difference in measured], terminal_width(), ("batch", "classes")))
        print(fit(f"against {proof['against']} (torch {proof['torch']}, {proof['date']}): {worst(measured)}"))
        if "source" in verified:
            print(fit(f"and against {verified['source']['against']} here, with {verified['source']['file']}"))
        if proof.get("allowed"):
            print(fit(f"a difference was accepted at the import: {proof['allowed']}"))
        return int(not same)


def _row(d: Difference) -> tuple[object, ...]:
    verdict = "" if d.within else "by rounding" if d.same else "differs"
    counts = d.original, d.converted, d.num_classes, d.unmatched
    return d.photo, d.batch, *counts, f"{d.box:.1e}", f"{d.score:.1e}", verdict
