"""The results of a race so far: one JSON file, replaced as a whole at every change, from which a race continues."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from boxwright.files import open_regular, parse_json, write_atomically
from boxwright.typed import check
from boxwright.version import __version__


class Record:
    """A JSON object with "settings", "configs", and parts that begin empty and are `set` later."""

    def __init__(
        self, path: Path, settings: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]],
        parts: Mapping[str, Any], command: str, translate: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:  # fmt: skip
        """Continues an existing file. Raises ValueError where it was made with other settings.

        settings   must be the same for results to be compared
        configs    by cell; a cell that is in the file already must have the same config
        parts      by name, the type of each once it is `set`, as `boxwright.typed.check` takes it
        command    of the user; that of this process if empty
        translate  from the content of a file of any version to that of today
        """
        self.path = path
        made = json.loads(json.dumps({"settings": settings, "configs": configs}))  # as read from disk: lists for tuples
        self.content: dict[str, Any] = {**made, **{part: {} for part in parts}}
        if path.is_file():
            old = translate(_read(path, parts))
            changes = _changes(old["settings"], made["settings"])
            for name in (name for name in made["configs"] if name in old["configs"]):
                changes += [f"{name} {change}" for change in _changes(old["configs"][name], made["configs"][name])]
            if changes:
                message = f"{path} was made with other settings: {'; '.join(changes)}"
                raise ValueError(f"{message}. Give the same ones, or another --out")
            self.content = {**self.content, **old, "configs": old["configs"] | made["configs"]}
        self.content |= {"command": command or shlex.join(["boxwright", *sys.argv[1:]]), "boxwright": __version__}

    def set(self, part: str, value: Any) -> None:
        """The old file stays until the new one is whole."""
        self.content[part] = value
        write_atomically(self.path, json.dumps(self.content, indent=1) + "\n")


class _Content(TypedDict):
    settings: dict[str, Any]
    configs: dict[str, dict[str, Any]]


def _read(path: Path, parts: Mapping[str, Any]) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            content = parse_json(file.read(), path)
        check(str(path), content, _Content)
        for part in parts.keys() & content.keys():
            if content[part] != {}:  # as it begins
                check(f"{path}.{part}", content[part], parts[part])
    except ValueError as error:
        raise ValueError(f"{error}; it is no record of boxwright bench: move it away, or give another --out") from error
    return content


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    changes = []
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += _changes(before, after)
        elif before != after:
            changes.append(f"{key} was {before}, now {after}")
    return changes
