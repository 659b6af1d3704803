"""What a reader is to the fuzz: valid files, how they are damaged, what reads them, and how it may refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

Mutator = Callable[[bytes, Random], bytes]


@dataclass(frozen=True)
class Reader:
    """One function that reads files of others.

    file      the damaged file, relative to the folder
    prepare   fills an empty folder with all that is read beside the file, and returns valid contents of it
    read      reads the damaged file, whose path it is given
    refusals  the errors by which it may refuse; the message names the file or its folder
    mutators  ways to damage a file that know its structure, such as those of `mutate.py`
    tokens    what may be put in the place of a word, besides those for all files
    """

    name: str
    file: str
    prepare: Callable[[Path], Sequence[bytes]]
    read: Callable[[Path], object]
    refusals: tuple[type[Exception], ...]
    mutators: Sequence[Mutator] = ()
    tokens: Sequence[bytes] = field(default=(), repr=False)
