"""What the scripts measured, as a table; `python docs/check.py --fill` takes it from docs/*.json into the pages."""

from __future__ import annotations

import json
import statistics
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path

from boxwright.device import machine
from boxwright.files import write_atomically

TABLE = "peers"
COLUMNS = {
    "ours": "ours",
    "theirs": "theirs",
    "ratio 1": "ratio, one thread",
    "ratio 2": "ratio, two threads",
    "boxes": "boxes within",
}
"""Of the scripts that measure times, so that one table holds their rows."""


def add_out(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help="add the rows to this JSON, as docs/benchmarks.json")


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Our times over the peer's in the same rounds, so below 1 where ours are shorter: median and quartiles."""
    values = [our / their for our, their in zip(ours, theirs, strict=True)]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    low, median, high = (f"{value:.2f}" if value >= 0.1 else f"{value:.2g}" for value in (low, median, high))
    return f"{median} ({low} to {high})"


def milliseconds(times: Sequence[float]) -> str:
    """The median of times in seconds, in three digits."""
    median = 1000 * statistics.median(times)
    return f"{median:.{max(0, 2 - len(str(int(median))) + 1)}f} ms"


def describe_machine() -> str:
    """What the numbers depend on, as a sentence."""
    import torch  # not with this file: `readers.py` measures memory

    found = machine(torch.device("cpu"))
    bf16 = "AMX" if torch.cpu._is_amx_tile_supported() else "AVX-512" if torch.cpu._is_avx512_bf16_supported() else "no"
    return (
        f"{found['name']}, {found['cores']} cores, {torch.backends.cpu.get_cpu_capability()}, {bf16} instructions for "
        f"bf16; Python {found['python']}, torch {found['torch']}."
    )


def save(
    path: Path | None, rows: Mapping[str, Mapping[str, str]], table: str = TABLE, columns: Mapping[str, str] = COLUMNS
) -> None:
    """Add rows to a table in a JSON file, by column. Its rows of another machine or version are dropped."""
    if path is None:
        return
    tables = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    how = describe_machine()
    before = tables.get(table, {})
    kept = before.get("rows", {}) if before.get("how") == how else {}
    added = {key: dict(row) for key, row in rows.items()}
    tables[table] = {"columns": dict(columns), "how": how, "rows": kept | added}
    write_atomically(path, json.dumps(tables, indent=2, ensure_ascii=False) + "\n")
