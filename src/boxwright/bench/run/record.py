"""The results of a race so far: one JSON file, whole on disk after every change, from which it goes on."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from boxwright.files import write_atomically
from boxwright.version import __version__


class Record:
    """A JSON object with "settings", "configs", and parts that begin empty and are `set` one after the other."""

    def __init__(
        self,
        path: Path,
        command: str,
        settings: Mapping[str, Any],
        configs: Mapping[str, Any],
        parts: Iterable[str],
        typed: str = "",
        translate: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    ) -> None:
        """Goes on from an existing file. Raises ValueError where it was made with other settings.

        command    of boxwright, that writes such files: "bench"
        settings   what must be the same for results to stand side by side
        configs    dataclasses; of one that is in the file already no number may have changed
        typed      the user's command; that of this process if not given
        translate  from the content of a file of any version to that of today
        """
        self.path = path
        made = {"settings": dict(settings), "configs": {name: asdict(config) for name, config in configs.items()}}
        made = json.loads(json.dumps(made))  # as it comes back from disk: lists for tuples
        self.content: dict[str, Any] = {**made, **{part: {} for part in parts}}
        if path.is_file():
            old = translate(_read(path, command))
            _refuse_changes(path, old, made)
            self.content = {**self.content, **old, "configs": old["configs"] | made["configs"]}
        self.content |= {"command": typed or shlex.join(["boxwright", *sys.argv[1:]]), "boxwright": __version__}

    def set(self, part: str, value: Any) -> None:
        """All or nothing: until the new file is whole, the old one stays."""
        self.content[part] = value
        write_atomically(self.path, json.dumps(self.content, indent=1) + "\n")


def _read(path: Path, command: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); move it away, or give another --out") from error
    if not isinstance(content, dict) or not content.keys() >= {"settings", "configs"}:
        raise ValueError(f"{path} was not written by boxwright {command}; move it away, or give another --out")
    return content


def _refuse_changes(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    changes = _changes(old["settings"], new["settings"])
    for name in (name for name in new["configs"] if name in old["configs"]):
        changes += [f"{name} {change}" for change in _changes(old["configs"][name], new["configs"][name])]
    if changes:
        raise ValueError(
            f"{path} was made with other settings: {'; '.join(changes)}. Give the same ones, or another --out"
        )


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    changes = []
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += _changes(before, after)
        elif before != after:
            changes.append(f"{key} was {before}, now {after}")
    return changes
