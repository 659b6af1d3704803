"""Plain tables for the terminal, which stay whole when piped into another command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as their longest cell, two spaces apart; a column of numbers is set to the right."""
    body = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    right = [bool(body) and all(_is_number(row[place]) for row in body) for place in range(len(head))]
    lines = [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in [list(head), *body]
    ]
    return "\n".join(lines)


def _is_number(cell: str) -> bool:
    return cell in ("", "–") or cell.removeprefix("-").removesuffix("%").replace(".", "", 1).isdecimal()
