"""The log of a run: a JSON object per line, read again to resume or to draw curves; and events for TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from boxwright.files import append, naming, parse_json
from boxwright.metrics import Evaluation
from boxwright.train.loop import Epoch, Step
from boxwright.typed import check


class _Scores(TypedDict):
    ap: float | None
    ap50: float | None
    ap75: float | None


class _Total(TypedDict):
    total: float


class _Line(TypedDict):
    kind: str


_LINES: dict[str, Any] = {
    "step": TypedDict("_Step", {"step": int, "losses": dict[str, float]}),
    "epoch": TypedDict("_Epoch", {
        "epoch": int, "losses": _Total, "lr": float, "seconds": float, "val": NotRequired[_Scores],
    }),
    "test": TypedDict("_Test", {"test": _Scores}),
}  # fmt: skip
"""What a line of each kind has, at least."""


class History:
    """The lines of log.jsonl in a folder; the "kind" of each is "step", "epoch" or "test".

    A killed run may leave its last line half written, and repeats some steps when it is resumed. So a line that is no
    JSON, or not of its kind, is skipped, and of two lines about the same step or epoch the later one counts.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / "log.jsonl"

    @property
    def plots(self) -> bool:
        """Whether events for TensorBoard are written beside the log: where it is installed."""
        return find_spec("tensorboard") is not None

    @cached_property
    def _board(self) -> Any:
        """A writer of events; made at the first event, as most callers only read."""
        if not self.plots:
            return None
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.path.parent))

    def step(self, step: Step) -> None:
        """Add a line about an optimizer step."""
        rate = round(step.images_per_second, 2)
        self._plot(step.number, {"lr": step.lr, "images_per_second": rate}, loss=step.losses)
        self._append("step", {"step": step.number, "losses": step.losses, "lr": step.lr, "images_per_second": rate})

    def append(self, epoch: Epoch, quality: Evaluation | None = None) -> None:
        """Add a line about an epoch, with its quality on the validation split where that was measured."""
        step, val = epoch.training.step, summary(quality) if quality else {}
        line = {"epoch": epoch.number, "step": step, "losses": epoch.losses, "lr": epoch.lr}
        line |= {"seconds": round(epoch.seconds, 2), "images_per_second": round(epoch.images_per_second, 2)}
        self._plot(step, {}, epoch_loss=epoch.losses, val=val)
        self._append("epoch", line | ({"val": val} if quality else {}))

    def test(self, quality: Evaluation) -> None:
        """Add the line about the test split."""
        self._append("test", {"test": summary(quality)})

    def epochs(self) -> list[dict[str, Any]]:
        """The lines about epochs, in order, each epoch once."""
        return self.rows("epoch")

    def rows(self, kind: Literal["step", "epoch"]) -> list[dict[str, Any]]:
        """The lines of this kind, in order, each step or epoch once."""
        rows = {line[kind]: line for line in self._lines() if line.get("kind") == kind}
        return [rows[number] for number in sorted(rows)]

    def best(self, until: int) -> float:
        """The best AP of the epochs up to number `until`; minus infinity where none was measured."""
        rows = [row["val"] for row in self.epochs() if row["epoch"] <= until and "val" in row]
        return max((rank(row["ap"]) for row in rows), default=-math.inf)

    def since_best(self, until: int) -> int:
        """Epochs since the best AP, of those up to number `until`; 0 where none was measured."""
        rows = [row for row in self.epochs() if row["epoch"] <= until and "val" in row]
        return until - max(rows, key=lambda row: rank(row["val"]["ap"]))["epoch"] if rows else 0

    def _plot(self, step: int, plain: dict[str, float], **groups: Mapping[str, Any]) -> None:
        if self._board is None:
            return
        grouped = {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}
        for name, value in (plain | grouped).items():
            if isinstance(value, (int, float)):
                self._board.add_scalar(name, value, step)
        self._board.flush()

    def _lines(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        lines = []
        for text in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                line = parse_json(text, self.path)
                check("the line", line, _Line)
                if line["kind"] in _LINES:
                    check("the line", line, _LINES[line["kind"]])
                    lines.append(line)
        return lines

    def _append(self, kind: str, content: dict[str, Any]) -> None:
        with naming(self.path):
            append(self.path, json.dumps({"kind": kind, **content}))


def summary(quality: Evaluation) -> dict[str, Any]:
    """AP, AP50, AP75 and the AP of each class."""
    content = quality.to_dict()
    numbers = {name: content[name] for name in ("ap", "ap50", "ap75")}
    return numbers | {"per_class": {name: values["ap"] for name, values in content["classes"].items()}}


def rank(ap: float | None) -> float:
    """AP to compare by: no AP (a validation split without objects) is worse than any."""
    return -math.inf if ap is None or math.isnan(ap) else ap
