"""The table of commands: `boxwright --help` answers from here, and a command's module is imported when it is chosen.

A command is a frozen dataclass: each field is one option, declared once with its type, default and help, and `run()`
does the work and returns the exit status (None is 0).
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import NamedTuple

from boxwright.version import __version__


class Command(NamedTuple):
    """Where a command's dataclass lives, and its line in `boxwright --help`."""

    module: str
    name: str
    help: str


COMMANDS = {
    "detect": Command("boxwright.cli.detect", "Detect", "find objects in images, folders and globs"),
    "train": Command("boxwright.cli.train", "Train", "train a detector on your own data"),
    "evaluate": Command("boxwright.cli.evaluate", "Evaluate", "score a detector on annotated data"),
    "data check": Command("boxwright.cli.data", "Check", "name what is wrong in a dataset, where, and how to mend it"),
    "data show": Command("boxwright.cli.data", "Show", "draw samples of a dataset with their boxes"),
    "propose": Command("boxwright.cli.propose", "Propose", "search images for regions that may be objects"),
    "bench": Command("boxwright.cli.bench", "Bench", "race detectors on your data: which one should you take?"),
    "lineage": Command("boxwright.cli.lineage", "Lineage", "compare R-CNN to a single stage on your data"),
    "import": Command("boxwright.cli.import_", "Import", "convert weights of torchvision or Detectron2, with proof"),
    "verify": Command("boxwright.cli.verify", "Verify", "repeat the proof in an imported model"),
    "models": Command("boxwright.cli.models", "Models", "list the models at hand"),
}

USER_ERRORS = (ValueError, OSError, ImportError)
"""What a user can cause and mend: bad data or options, a missing file, an extra that is not installed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0 done, 1 something was wrong, 2 not understood."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or os.environ.get("BOXWRIGHT_DEBUG", "0") not in ("", "0")
    words = [word for word in words if word != "--debug"]
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"boxwright {__version__}")
        return 0
    name = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), None)
    if name is None:
        return _unknown(words)
    warnings.formatwarning = lambda message, *_: f"boxwright {name}: {message}\n"  # no line of our source with it
    try:
        return _run(name, words[len(name.split()) :])
    except KeyboardInterrupt:
        print("\nboxwright: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except USER_ERRORS as error:
        if debug:
            raise
        print(f"boxwright {name}: {_said(error)}", file=sys.stderr)
        return 1


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"  # without Python's [Errno 13]
    return str(error)


def _run(name: str, arguments: list[str]) -> int:
    import tyro

    command = COMMANDS[name]
    kind = getattr(import_module(command.module), command.name)
    read = partial(tyro.cli, kind, prog=f"boxwright {name}", args=arguments, config=(tyro.conf.FlagCreatePairsOff,))
    options = read()
    if getattr(options, "start", None) is not None:  # what is not given is as in that model: read again, knowing it
        options = read(default=options.defaults())
    return options.run() or 0


def usage() -> str:
    """The text of `boxwright --help`."""
    return "\n".join(
        [
            "usage: boxwright COMMAND ...",
            "",
            *_lines(list(COMMANDS)),
            "",
            "boxwright COMMAND --help explains its options; with --debug an error shows where it comes from.",
        ]
    )


def _lines(names: list[str]) -> list[str]:
    width = max(map(len, names))
    return [f"  {name:<{width}}  {COMMANDS[name].help}" for name in names]


def _unknown(words: list[str]) -> int:
    group = [name for name in COMMANDS if name.split()[0] == words[0]]  # `data` alone, or `data --help`
    if group and words[1:2] in ([], ["-h"], ["--help"]):
        print("\n".join([f"usage: boxwright {words[0]} COMMAND ...", "", *_lines(group)]))
        return 0 if words[1:] else 2
    said = " ".join(words[:2] if group else words[:1])
    guess = group or get_close_matches(said, COMMANDS, n=1)
    hint = f"did you mean {' or '.join(guess)}?" if guess else f"there are {', '.join(COMMANDS)}."
    print(f"boxwright: there is no command '{said}'; {hint}", file=sys.stderr)
    return 2
