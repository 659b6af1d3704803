"""Writes the pages of docs/reference/ from the code: `python docs/reference.py`; `make docs` does it first.

Every option comes from the dataclass of its command, every function and class from its docstring. The pages are not
committed, so that they cannot be out of date. Zensical runs no code of its own while it builds a site.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from enum import Enum
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any

from boxwright.cli import COMMANDS
from boxwright.cli.helping import meaning, options_of, spelled, without_detector
from boxwright.detectors.config import DETECTORS

FOLDER = Path(__file__).parent / "reference"

PUBLIC: dict[str, tuple[str, ...] | None] = {
    "boxwright": None,
    "boxwright.api": ("train",),
    "boxwright.types": ("Size", "Target", "Detections", "Images", "Slots"),
    "boxwright.data.formats": ("open_dataset", "Splits", "DatasetError", "Problem", "draw_splits"),
    "boxwright.data.dataset": ("Dataset",),
    "boxwright.data.batch": ("AnnotatedImages", "Batch", "Batches", "Collate", "to_images"),
    "boxwright.data.preprocess": ("Preprocess",),
    "boxwright.data.augment": ("Augment", "Sample"),
    "boxwright.predict.predictor": ("Detection", "InputImage", "Predictor", "Result"),
    "boxwright.train.config": ("TrainConfig",),
    "boxwright.train.loop": ("train", "Training", "Epoch"),
    "boxwright.train.run": ("Run",),
    "boxwright.measure.evaluate": ("detect_dataset", "evaluate_dataset", "best_threshold"),
    "boxwright.metrics": None,
    "boxwright.bench": None,
    "boxwright.detectors": ("Detector", "Network", "DetectorConfig"),
    "boxwright.backbones": None,
    "boxwright.proposals": None,
    "boxwright.checkpoint": ("save_detector", "load_detector", "Loaded", "CheckpointError"),
    "boxwright.draw.boxes": ("draw_boxes", "class_colors"),
    "boxwright.draw.plots": ("draw_curves", "draw_precision_recall"),
}
"""The public modules, and their names where they are not all of `__all__`. A name is described where it is first."""


_SPECIAL = ("__call__", "__getitem__", "__iter__")
"""Methods that are described although their names begin with an underscore."""


def commands() -> str:
    """The page on every command and its options."""
    parts = [
        "# Commands",
        "Made from the code by `docs/reference.py`. `boxwright COMMAND --help-all` prints the same in the terminal. "
        "With `--debug` an error of any command is shown with its traceback.",
    ]
    for name, command in COMMANDS.items():
        kind = getattr(import_module(command.module), command.name)
        parts += [f"## boxwright {name}", *_paragraphs(inspect.getdoc(kind) or "")]
        if name == "train":
            parts += [_options(without_detector(kind))]
            for detector, config in DETECTORS.items():
                parts += [
                    f"### boxwright train {detector}",
                    *_paragraphs(inspect.getdoc(config) or ""),
                    _options(config),
                ]
        else:
            parts += [_options(kind)]
    return "\n\n".join(parts) + "\n"


def python() -> str:
    """The page on the public functions and classes."""
    parts = ["# Python", "Made from the docstrings by `docs/reference.py`."]
    for module, names in public().items():
        parts += [f"## {module}", *_paragraphs(inspect.getdoc(import_module(module)) or "")]
        for name in names:
            parts += _described(getattr(import_module(module), name), name)
    return "\n\n".join(parts) + "\n"


def public() -> dict[str, list[str]]:
    """The public names by module, each once; constants are described in their module's sentence."""
    seen: set[int] = set()
    found: dict[str, list[str]] = {}
    for module, names in PUBLIC.items():
        imported = import_module(module)
        found[module] = []
        for name in imported.__all__ if names is None else names:
            value = getattr(imported, name)
            if (inspect.isclass(value) or inspect.isfunction(value)) and id(value) not in seen:
                seen.add(id(value))
                found[module].append(name)
    return found


def undocumented() -> Iterator[str]:
    """One sentence for each public name without a docstring, and each option without help."""
    for module, names in public().items():
        for name in names:
            if not inspect.getdoc(getattr(import_module(module), name)):
                yield f"{module}.{name} has no docstring"
    for name, command in COMMANDS.items():
        kind = getattr(import_module(command.module), command.name)
        kinds = [without_detector(kind), *DETECTORS.values()] if name == "train" else [kind]
        for options in kinds:
            for action in options_of(options):
                if not re.sub(r"\(default: .*", "", meaning(action)).strip():
                    yield f"the option {spelled(action)} of boxwright {name} has no help"


def _options(kind: type) -> str:
    """A table of options and their meaning."""
    rows = [f"| <code>{_cell(spelled(action))}</code> | {_cell(meaning(action))} |" for action in options_of(kind)]
    return "\n".join(["| option | meaning |", "| --- | --- |", *rows])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "&#124;").replace("<", "&lt;")


def _described(value: Any, title: str) -> Iterator[str]:
    """The heading, signature and docstring of a function or class, then the methods of a class."""
    yield f"### {title}"
    if not (inspect.isclass(value) and issubclass(value, Enum | Exception)):
        yield f"```python\n{_signature(value, title)}\n```"
    yield from _paragraphs(inspect.getdoc(value) or "")
    if not inspect.isclass(value):
        return
    if fields := _field_docs(value):
        yield "\n".join(f"- `{name}`: {' '.join(text.split())}" for name, text in fields.items())
    for name, member in vars(value).items():
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        text = inspect.getdoc(function) if inspect.isfunction(function) or isinstance(member, property) else None
        if not text or (name.startswith("_") and name not in _SPECIAL):
            continue
        returned = inspect.signature(member.fget).return_annotation if isinstance(member, property) else None
        shown = _signature(function, name) if returned is None else f"{name}: {_as_written(returned)!r}"
        yield f"#### {title}.{name}".replace("__", r"\_\_")
        yield f"```python\n{shown}\n```"
        yield from _paragraphs(text)


def _signature(value: Any, name: str) -> str:
    """`name(a: int = 1) -> str`, in a line or, where it is long, with a line for each parameter."""
    try:
        signature = inspect.signature(value)
    except ValueError:
        return name
    parameters = [
        parameter.replace(annotation=_as_written(parameter.annotation))
        for parameter in signature.parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    returned = signature.empty if inspect.isclass(value) else _as_written(signature.return_annotation)
    signature = signature.replace(parameters=parameters, return_annotation=returned)
    line = f"{name}{signature}".replace("<factory>", "...")
    if len(line) <= 88 or not parameters:
        return line
    after = "" if signature.return_annotation is signature.empty else f" -> {signature.return_annotation}"
    lines = (f"    {parameter},\n".replace("<factory>", "...") for parameter in parameters)
    return f"{name}(\n{''.join(lines)}){after}"


class _Annotation:
    """An annotation as in the source: `inspect` would put it in quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _as_written(annotation: Any) -> Any:
    if annotation is inspect.Signature.empty:
        return annotation
    text = getattr(annotation, "__forward_arg__", annotation)  # of a NamedTuple
    return _Annotation(text if isinstance(text, str) else inspect.formatannotation(annotation))


def _field_docs(kind: type) -> dict[str, str]:
    """What the source has on each field of a class and of its bases in this package: a string below, or a comment."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not base.__module__.startswith("boxwright"):
            continue
        source = textwrap.dedent(inspect.getsource(base))
        (statement,) = ast.parse(source).body
        assert isinstance(statement, ast.ClassDef)
        for field, below in zip_longest(statement.body, statement.body[1:]):
            if not isinstance(field, ast.AnnAssign):
                continue
            name, comment = (
                ast.unparse(field.target),
                source.splitlines()[(field.end_lineno or 1) - 1].partition("  # ")[2],
            )
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[name] = str(below.value.value)
            elif comment and not comment.startswith(("type:", "noqa")):
                found[name] = comment
    return found


def _paragraphs(text: str) -> Iterator[str]:
    """A docstring as Markdown: columns of names and meanings become lists, indented lines code."""
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        column = re.compile(r"(?P<name>[\w*][\w*.,]*(?: [\w*]+)?) {2,}(?P<meaning>\S.*)")
        if lines and column.fullmatch(lines[0]):
            items: list[str] = []
            for line in lines:
                if match := column.fullmatch(line):
                    items.append(
                        f"- {', '.join(f'`{name}`' for name in re.split(', ?| ', match['name']))}: {match['meaning']}"
                    )
                else:
                    items[-1] += f" {line.strip()}"
            yield "\n".join(items)
        elif lines and all(line.startswith("    ") for line in lines):
            yield "```\n" + textwrap.dedent(block) + "\n```"
        elif lines:
            yield re.sub(r"<(?=\w)", "&lt;", block)


PAGES = {"commands.md": commands, "python.md": python}


def write(folder: Path = FOLDER) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write()
