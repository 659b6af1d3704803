"""Prints what is installed with boxwright, and under which licence: `python docs/licences.py`, or `--json`.

Every package that boxwright requires, directly or through another, of the extras that are installed: its version, its
licence as its own metadata states it, and which of boxwright's extras brings it ("" is no extra: always there). Exits
with 1 where a licence is none that boxwright may depend on.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from email.message import Message
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import NamedTuple, cast

from rich.console import Console
from rich.table import Table

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
_COPYLEFT = re.compile(r"\bA?GPL|(?<!lesser )(?<!library )general public licen[cs]e", re.I)
_EXCEPTED = re.compile(r"exception|LGPL", re.I)


class Package(NamedTuple):
    """An installed distribution."""

    name: str
    version: str
    licence: str
    extras: tuple[str, ...]
    """The extras of boxwright that bring it; () for a dependency that is always there."""


def licence_of(package: Distribution) -> str:
    """The licence in a few words: the SPDX expression, the classifiers, or the first line of the stated text."""
    metadata = cast(Message, package.metadata)
    if expression := metadata.get("License-Expression"):
        return expression
    classifiers = [line.split(" :: ")[-1] for line in metadata.get_all("Classifier", []) if line.startswith("License")]
    named = ", ".join(name for name in classifiers if name != "OSI Approved")
    return named or _first_line(metadata.get("License", "")) or _first_line(_licence_file(package)) or "not stated"


def _licence_file(package: Distribution) -> str:
    files = [file for file in package.files or () if file.name.upper().startswith(("LICENSE", "LICENCE"))]
    return files[0].read_text(encoding="utf-8") if files else ""


def _first_line(text: str) -> str:
    lines = (line.strip() for line in text.splitlines())
    return next((line[:60] for line in lines if line and line != "UNKNOWN"), "")


def packages(root: str = "boxwright") -> list[Package]:
    """All installed packages that `root` requires, by name."""
    extras: dict[str, set[str]] = {}
    for extra, name in _direct(distribution(root)):
        for required in _closure(name, {root}):
            extras.setdefault(required, set()).add(extra)
    return sorted(
        Package(
            found.metadata["Name"],
            found.version,
            licence_of(found),
            () if "" in extras[name] else tuple(sorted(extras[name])),
        )
        for name in extras
        if (found := _installed(name))
    )


def _direct(root: Distribution) -> Iterator[tuple[str, str]]:
    for line in root.requires or ():
        name, extra = _NAME.match(line), _EXTRA.search(line)
        if name:
            yield (extra[1] if extra else ""), _normal(name[0])


def _closure(name: str, seen: set[str]) -> Iterator[str]:
    if name in seen or (found := _installed(name)) is None:
        return
    seen.add(name)
    yield name
    for line in found.requires or ():
        if (required := _NAME.match(line)) and not _EXTRA.search(line):
            yield from _closure(_normal(required[0]), seen)


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def refused(package: Package) -> bool:
    """Whether a licence is the GPL's or the AGPL's without an exception for programs that only use the package."""
    return bool(_COPYLEFT.search(package.licence)) and not _EXCEPTED.search(package.licence)


def main() -> int:
    found = packages()
    if "--json" in sys.argv[1:]:
        print(json.dumps([package._asdict() for package in found], indent=1))
    else:
        table = Table(box=None, header_style="bold", title=f"{len(found)} packages installed for boxwright")
        for column in Package._fields:
            table.add_column(column, overflow="fold")
        for package in found:
            table.add_row(*package[:3], ", ".join(package.extras))
        Console().print(table)
    bad = [f"{package.name}: {package.licence}" for package in found if refused(package)]
    for line in bad:
        print(f"error: expected a licence that Apache-2.0 may depend on, got {line}", file=sys.stderr)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
