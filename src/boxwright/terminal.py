"""Text in the columns of a terminal; in a file or a pipe it is as long as it is."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TextIO

from boxwright.units import printable

SEPARATOR = " · "
"""Between parts of a line that stay whole where it is wrapped."""
_GLUE = "\0"


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Columns of the terminal that the stream, by default stdout, writes to; None for a file, a pipe, or none."""
    stream = stream or sys.stdout
    return shutil.get_terminal_size().columns if stream is not None and stream.isatty() else None


def wrap(text: str, width: int | None, indent: str = "") -> str:
    """A sentence in lines of a terminal, as a whole without a width. Words are not broken; later lines are indented.

    Of parts with `SEPARATOR` between them, those that fit into half a line are not broken either.
    """
    if width is None:
        return indent + text
    parts = [part.replace(" ", _GLUE) if len(part) <= width // 2 else part for part in text.split(SEPARATOR)]
    return textwrap.fill(
        SEPARATOR.join(parts), width, initial_indent=indent, subsequent_indent=f"{indent}  ", break_long_words=False,
        break_on_hyphens=False,
    ).replace(_GLUE, " ")  # fmt: skip


def fit(text: str, stream: TextIO | None = None) -> str:
    """Each line of a text, `printable`, and wrapped if the stream, by default stdout, is a terminal."""
    text, width = printable(text), terminal_width(stream)
    return text if width is None else "\n".join(wrap(line, width) for line in text.split("\n"))


def say(text: str) -> None:
    """Lines on stderr: stdout is for results. Where they cannot be written, as on a full disk, the work goes on.

    Raises BrokenPipeError where the reader of a pipe has gone.
    """
    if sys.stderr is None:  # closed
        return
    try:
        print(fit(text, sys.stderr), file=sys.stderr, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        pass


def shorten(name: str, longest: int) -> str:
    """Without its middle: names of cells differ at both ends."""
    if len(name) <= longest:
        return name
    start = (longest - 1) // 2
    return f"{name[:start]}…{name[len(name) - (longest - 1 - start) :]}"
